"""Requests that try a model where conversions go wrong: unseen, padding and extreme IDs, and
numbers between those of the examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.converters.verify.id_origins import LEAST, TOP, InputIds
from ondevice.info import InputSpec

Array = npt.NDArray[Any]

# Where integers of 24, 31, 32, 53 and 63 bits end, which carry IDs in files and runtimes.
BORDERS = tuple(
    sorted(
        {0, 1, -1, 2, LEAST, LEAST + 1, TOP, TOP - 1}
        | {
            sign * 2**bits + step
            for bits in (24, 31, 32, 53)
            for sign in (1, -1)
            for step in (-1, 0, 1)
        }
    )
)
MOST_CONSTANTS = 256
EXTREMES = (0, 1, 2, -1, 2**63 - 1, -(2**63), 2**31, 2**32, -(2**32) - 1)
ANY = 2**63  # an ID limit that allows every pattern
# Random IDs of an input in one batch: each makes the pages around its rows part of this process.
UNSEEN = 32
SEED = 20_210_902  # fixed, so that the same model converts to the same bytes


@dataclass(frozen=True)
class _Near:
    """Numbers near which a model may behave in another way.

    Attributes:
        integers: for IDs.
        floats: for numbers, float32 [n].
    """

    integers: Sequence[int]
    floats: Array


def probe_inputs(
    inputs: Sequence[InputSpec],
    uses: Mapping[str, InputIds],
    examples: Mapping[str, Array],
    rows: int,
    sizes: Mapping[str, int] | None = None,
    constants: Sequence[int] = (),
    thresholds: Sequence[float] = (),
) -> dict[str, Array]:
    """Values by input name, `rows` of them, of the inputs' types.

    An element that is an ID takes extreme, padding, random and example IDs in turn, and those at
    the border of a head; with a limit, only legal ones. An integer that the graph computes with
    takes values of every magnitude between its least and its greatest legal one, and those near the
    graph's constants. Every other element takes the example's values, which the network may rely on
    (a count, a price); numbers also ones between their least and their greatest, thresholds among
    them, and those that trees compare them with, their neighbours and NaN.

    Args:
        inputs: the inputs.
        uses: what their elements are.
        examples: example values, two rows at least.
        rows: how many rows.
        sizes: of free axes beside the rows; by default those of the examples.
        constants: integers near which the model may behave in another way.
        thresholds: such numbers of float32.
    """
    rng = np.random.default_rng([SEED, rows])
    near = _Near(constants, np.array(thresholds, np.float32))
    return {
        spec.name: _values(spec, uses[spec.name], examples[spec.name], rows, rng, sizes or {}, near)
        for spec in inputs
    }


def _values(
    spec: InputSpec,
    use: InputIds,
    examples: Array,
    rows: int,
    rng: np.random.Generator,
    sizes: Mapping[str, int],
    near: _Near,
) -> Array:
    """Values [rows, ...] of an input, drawn element by element as `probe_inputs` says.

    Args:
        spec: the input.
        use: what its elements are.
        examples: example values [n, ...].
        rows: how many rows.
        rng: what draws them.
        sizes: of free axes by name; by default those of the examples.
        near: numbers near which the model may behave in another way.
    """
    flat = examples.reshape(len(examples), -1)
    free = [size for size in spec.shape[1:] if isinstance(size, str)]
    if not free:
        columns = [
            _column(spec, use, column, flat[:, column], rows, rng, near)
            for column in range(flat.shape[1])
        ]
        return np.stack(columns, 1).reshape(rows, *examples.shape[1:])
    shape = [
        sizes.get(size, given) if isinstance(size, str) else size
        for size, given in zip(spec.shape[1:], examples.shape[1:], strict=True)
    ]
    # along a free axis all elements are alike
    count = rows * int(np.prod(shape))
    values = _column(spec, use, 0, flat.reshape(-1), count, rng, near)
    return values.reshape(rows, *shape)


def _column(
    spec: InputSpec,
    use: InputIds,
    column: int,
    examples: Array,
    rows: int,
    rng: np.random.Generator,
    near: _Near,
) -> Array:
    """Values [rows] of an element: of IDs half are examples, the others random or extreme.

    Args:
        spec: the input.
        use: what its elements are.
        column: the element's place in a row.
        examples: its example values [n].
        rows: how many values.
        rng: what draws them.
        near: numbers near which the model may behave in another way.
    """
    values = rng.choice(examples, rows)
    kind = rng.random(rows)
    limit = int(use.limits[column])
    if use.computed[column] and spec.dtype == "int64":
        low, high = int(use.lows[column]), int(use.highs[column])
        return _computed_with(values, kind, low, high, rng, near.integers)
    if limit < 0 and use.thresholds[column].size:
        return _at_thresholds(values, kind, use.thresholds[column], rng)
    if limit < 0 or use.numbers[column]:
        if spec.dtype != "float32" or examples.size == 0 or not _is_broken(examples):
            return values
        between = rng.uniform(examples.min(), examples.max(), rows).astype(np.float32)
        values = np.where(kind < 0.5, between, values)
        at = near.floats[(near.floats >= examples.min()) & (near.floats <= examples.max())]
        return np.where(kind > 0.75, rng.choice(at, rows), values) if at.size else values
    if limit == ANY and spec.dtype == "int64":
        low, high = -(2**63), 2**63 - 1
        special = list(EXTREMES)
    else:
        low, high = 0, min(limit - 1, 2**24 if spec.dtype == "float32" else limit)
        special = [0, high]
    padding = use.padding[column]
    if padding is not None and low <= padding <= high:
        special += [padding] * 2
    if head := use.heads[column]:  # the last ID with an unshared row, and the first without
        special += [border for border in (head - 1, head) if low <= border <= high]
    pool = rng.integers(low, high, UNSEEN, dtype=np.int64, endpoint=True)
    unseen = rng.choice(pool, rows).astype(spec.dtype)
    values = np.where(kind < 0.25, unseen, values)
    chosen = rng.choice(np.array(special, dtype=np.int64), rows).astype(spec.dtype)
    return np.where(kind > 0.75, chosen, values)


def _computed_with(
    examples: Array,
    kind: Array,
    low: int,
    high: int,
    rng: np.random.Generator,
    constants: Sequence[int],
) -> Array:
    """A quarter examples, the others from the whole of low..high: borders and all magnitudes."""
    rows = len(examples)
    special = np.array(special_values(low, high, constants), np.int64)
    steps = np.arange(UNSEEN) + rng.random(UNSEEN)  # one magnitude from each part of 63 bits
    magnitudes = np.exp2(steps * (63 / UNSEEN)).astype(np.uint64).astype(np.int64)
    signed = np.where(rng.random(UNSEEN) < 0.5, -magnitudes, magnitudes)
    even = rng.integers(low, high, UNSEEN, dtype=np.int64, endpoint=True)
    pool = np.concatenate([even, signed[(signed >= low) & (signed <= high)]])
    drawn = np.where(kind < 0.6, rng.choice(pool, rows), rng.choice(special, rows))
    return np.where(kind < 0.25, examples, drawn)


def special_values(low: int, high: int, constants: Sequence[int]) -> list[int]:
    """Values of low..high where arithmetic or a model may change, in ascending order."""
    near = {constant + step for constant in constants for step in (-1, 0, 1)}
    ends = {low, low + 1, high - 1, high}
    return sorted(value for value in {*BORDERS, *near, *ends} if low <= value <= high)


def _at_thresholds(
    examples: Array, kind: Array, thresholds: Array, rng: np.random.Generator
) -> Array:
    """A quarter examples; the others thresholds and the numbers next to them, and some NaN."""
    rows = len(examples)
    chosen, step = rng.choice(thresholds, rows), rng.integers(-1, 2, rows)
    if examples.dtype.kind == "i":
        inside = np.clip(chosen, -(2.0**53), 2.0**53)
        near = (np.floor(inside) + np.abs(step)).astype(np.int64)
    else:
        towards = np.where(step < 0, -np.inf, np.inf).astype(np.float32)
        near = np.where(step == 0, chosen, np.nextafter(chosen, towards))
        near = np.where(kind > 0.95, np.float32(np.nan), near)
    return np.where(kind < 0.25, examples, near).astype(examples.dtype)


def _is_broken(examples: Array) -> bool:
    """Whether numbers have fractions; whole ones may be flags, counts or lengths."""
    return bool(np.isfinite(examples).all() and (examples != np.trunc(examples)).any())
