"""Integers that sums or matrices read as numbers: requests of every magnitude, and stated limits.

A network expects a range of a number, and may amplify rounding far from it. One number of a request
is therefore tried at a time, and differences count relative to the row's own outputs. Where an
engine differs beyond a magnitude, such as in a sine of 1e15, every file refuses what lies beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.converters.source.torch_source import Source
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.verify.id_origins import InputIds
from ondevice.converters.verify.legal_ids import answered_rows
from ondevice.converters.verify.probe import SEED, special_values
from ondevice.difference import ScaleArray
from ondevice.errors import InputError, ParityError
from ondevice.model import Model

Array = npt.NDArray[Any]
Outputs = Mapping[str, npt.NDArray[np.float32]]
MOST_OF_ONE_SIZE = 16  # numbers of as many bits, of all inputs together

Predict = Callable[[Model, Mapping[str, Array]], Outputs]


@dataclass(frozen=True)
class NumberRequests:
    """Rows that the source answers, each with a number of any magnitude.

    Attributes:
        values: by input name.
        inputs: whose number it is, per row.
        numbers: it, int64 [rows].
        outputs: what files should answer.
    """

    values: dict[str, Array]
    inputs: npt.NDArray[np.str_]
    numbers: npt.NDArray[np.int64]
    outputs: Outputs


def number_requests(
    source: Source,
    tables: Mapping[str, PackedTable],
    uses: Mapping[str, InputIds],
    constants: Iterable[int],
) -> NumberRequests | None:
    """Requests for every input with integers that are numbers; None where there is none.

    Args:
        source: what is asked.
        tables: the tables as files store them.
        uses: what the inputs' elements are.
        constants: numbers near which the model may behave in another way.
    """
    near = list(constants)
    count = sum(bool(use.numbers.any()) for use in uses.values())
    parts: list[tuple[str, Array, Array]] = []
    for name, use in uses.items():
        places = np.flatnonzero(use.numbers)
        if not len(places) or source.examples[name].dtype != np.int64:
            continue
        low, high = int(max(use.lows[places])), int(min(use.highs[places]))
        numbers = np.array(
            [*special_values(low, high, near), *_magnitudes(low, high, count)], np.int64
        )
        parts.append((name, numbers, places[np.arange(len(numbers)) % len(places)]))
    if not parts:
        return None
    names = np.repeat([name for name, _, _ in parts], [len(part[1]) for part in parts])
    numbers = np.concatenate([part[1] for part in parts])
    places = np.concatenate([part[2] for part in parts])
    values = {}
    for name, examples in source.examples.items():
        values[name] = examples[np.arange(len(names)) % len(examples)].copy()
        rows = np.flatnonzero(names == name)
        values[name].reshape(len(names), -1)[rows, places[rows]] = numbers[rows]
    answered = answered_rows(source, values).answered
    if not answered.any():
        return None
    values = {name: array[answered] for name, array in values.items()}
    outputs = source(values, tables)
    return NumberRequests(values, names[answered], numbers[answered], outputs)


def _magnitudes(low: int, high: int, inputs: int) -> list[int]:
    """Numbers of every number of bits, of both signs, within low..high; fewer of many inputs."""
    rng = np.random.default_rng(SEED)
    each = range(max(1, MOST_OF_ONE_SIZE // max(inputs, 1)))
    found = [int((1 + rng.random()) * 2**bits) for bits in range(2, 63) for _ in each]
    return [value for size in found for value in (size, -size) if low <= value <= high]


def number_limits(
    models: Iterable[Model],
    predict: Predict,
    requests: NumberRequests,
    scales: Mapping[str, ScaleArray],
    tolerance: float,
) -> dict[str, int]:
    """Bounds by input name, below which every model gives the expected outputs for any magnitude.

    Args:
        models: the written files, in every engine.
        predict: a model's outputs by name.
        requests: what they are asked, and the right outputs.
        scales: the units of ordinary outputs, by name.
        tolerance: of a difference, in these units or those of the row's own outputs.

    Returns:
        Of the inputs for which an engine differs, or refuses: the power of two at most half of the
        least such number, since errors grow gradually.
    """
    wrong = np.zeros(len(requests.numbers), bool)
    for model in models:
        wrong |= ~(_differences(model, predict, requests, scales) <= tolerance)  # NaN is wrong too
    limits: dict[str, int] = {}
    for name, number in zip(requests.inputs[wrong], requests.numbers[wrong], strict=True):
        bound = 1 << max(abs(int(number)).bit_length() - 2, 0)
        limits[str(name)] = min(bound, limits.get(str(name), bound))
    return limits


def _differences(
    model: Model, predict: Predict, requests: NumberRequests, scales: Mapping[str, ScaleArray]
) -> npt.NDArray[np.float64]:
    """The largest difference of every row, float64 [rows]; infinity where the model refuses it."""
    rows = len(requests.numbers)
    try:
        outputs, given = predict(model, requests.values), np.arange(rows)
    except InputError:
        outputs, given = _one_by_one(model, predict, requests.values)
    worst = np.full(rows, np.inf)
    worst[given] = 0
    for name, answers in outputs.items():
        right = np.asarray(requests.outputs[name][given], np.float64)
        own = np.abs(right).reshape(len(given), -1).max(1, initial=0)
        units = np.maximum(scales[name], own.reshape(-1, *[1] * (right.ndim - 1)))
        apart = (np.abs(answers - right) / units).reshape(len(given), -1).max(1, initial=0)
        worst[given] = np.maximum(worst[given], apart)
    return worst


def _one_by_one(
    model: Model, predict: Predict, values: Mapping[str, Array]
) -> tuple[Outputs, npt.NDArray[np.int64]]:
    """The outputs for the rows that a model does not refuse, and which these are."""
    found: list[Outputs] = []
    given = []
    for row in range(len(next(iter(values.values())))):
        try:
            found.append(predict(model, {name: a[row : row + 1] for name, a in values.items()}))
        except InputError:
            continue
        given.append(row)
    names = found[0] if found else ()
    joined = {name: np.concatenate([part[name] for part in found]) for name in names}
    return joined, np.array(given, np.int64)


def limited(
    uses: Mapping[str, InputIds], limits: Mapping[str, int], examples: Mapping[str, Array]
) -> dict[str, InputIds]:
    """Uses in which numbers lie between -limit and limit, neither included.

    Raises:
        ParityError: an example is beyond: files differ on ordinary rows.
    """
    found = dict(uses)
    for name, limit in limits.items():
        use = uses[name]
        flat = examples[name].reshape(len(examples[name]), -1)[:, use.numbers]
        if len(beyond := flat[(flat >= limit) | (flat <= -limit)]):
            raise ParityError(
                f"files differ from the module where input {name!r} holds a number of {limit} or "
                f"more, and its examples hold {beyond[0]}; nothing was written"
            )
        lows = np.where(use.numbers, np.maximum(use.lows, 1 - limit), use.lows)
        above = np.where(use.numbers, np.minimum(use.highs + 1, limit), use.limits)
        found[name] = replace(use, lows=lows, highs=above - 1, limits=above)
    return found
