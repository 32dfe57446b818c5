"""Draws users and candidates for the live page of a model that comes without a catalogue."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.bench.measure.requests import pool
from ondevice.features import OOV_ID, PADDING_ID, Field
from ondevice.info import InputSpec
from ondevice.odm import OdmFile
from ondevice.plan import LOOKUP, Plan

ROWS = 100  # candidates on the page
MOST_VALUES = 2**18  # of all rows together, which the page holds as text
RAW_VALUES = 1000  # different values of a hashed field, which takes any
SAFE_INTEGER = 2**53  # JavaScript's numbers are exact below

# Words in names of inputs that describe what is ranked, not for whom.
ITEM_WORDS = frozenset((
    "ad", "adgroup", "ads", "advertiser", "advertising", "article", "author", "banner", "brand",
    "campaign", "candidate", "cat", "cate", "category", "creative", "doc", "document", "film",
    "genre", "genres", "goods", "item", "items", "movie", "news", "offer", "photo", "price",
    "product", "publisher", "seller", "shop", "sku", "song", "target", "title", "track", "video",
))  # fmt: skip
# Words beside them that make an input part of what the user did.
HISTORY_WORDS = frozenset((
    "clicked", "hist", "history", "last", "list", "past", "seq", "sequence", "seen", "user",
))  # fmt: skip

Array = npt.NDArray[Any]


def drawn_rows(model: OdmFile, seed: int = 0) -> dict[str, Any]:
    """Rows that the model takes, JSON-ready: its file names no users and no items.

    Returns:
        rows: a list of objects, a value for every input: a number, a text, or nested lists of
            these; IDs beyond 2**53 are texts.
        raw: names of the inputs whose values are raw, as in a log; the others' are IDs or numbers.
        varied: names of the inputs that should differ between candidates.
        probabilities: names of the outputs whose test vectors lie in [0, 1].
    """
    rng = np.random.default_rng(seed)
    info = model.info
    known = pool(info)
    values = sum(array[0].size for array in known.values())
    count = int(np.clip(MOST_VALUES // values, 2, ROWS))
    fields = {field.name: field for field in info.features.fields}
    columns, raw = {}, []
    for spec in info.inputs:
        field = fields.get(spec.name)
        if field is not None and field.encoding in ("hash", "bucket") and _has_values(field):
            columns[spec.name] = _raw_values(field, count, rng)
            raw.append(spec.name)
        else:
            ids = _vocabulary_ids(field, count, rng)
            if ids is None:
                ids = _accepted(spec, model.plan, known[spec.name], count, rng)
            columns[spec.name] = _json_ready(ids)
    answers = {} if info.vectors is None else info.vectors.outputs
    return {
        "rows": [{name: column[i] for name, column in columns.items()} for i in range(count)],
        "raw": raw,
        "varied": varied_inputs([spec.name for spec in info.inputs]),
        "probabilities": [
            name for name, array in answers.items() if ((array >= 0) & (array <= 1)).all()
        ],
    }


def varied_inputs(names: list[str]) -> list[str]:
    """The inputs that describe a candidate, by the words in their names.

    Where no name tells, all but the first, as `ondevice bench --rank` has it; a single input.
    """
    return [name for name in names if _describes_an_item(name)] or names[1:] or names


def _describes_an_item(name: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return bool(words & ITEM_WORDS) and not words & HISTORY_WORDS


def _has_values(field: Field) -> bool:
    """Whether raw values can be drawn: not of a number without boundaries in the file."""
    return field.encoding == "hash" or (field.boundaries is not None and len(field.boundaries) > 0)


def _raw_values(field: Field, count: int, rng: np.random.Generator) -> list[Any]:
    """Integers or texts of them for a hashed field, numbers around the boundaries of buckets."""
    if field.boundaries is not None:
        low, high = field.boundaries[0], field.boundaries[-1]
        margin = max((high - low) / len(field.boundaries), 1e-3)
        return [float(f"{x:.4g}") for x in rng.uniform(low - margin, high + margin, count)]

    def value() -> int | str:
        number = int(rng.integers(RAW_VALUES))
        return number if field.kind == "integer" else str(number)

    if field.length is None:
        return [value() for _ in range(count)]
    sizes = rng.integers(1, field.length, count, endpoint=True)
    return [[value() for _ in range(size)] for size in sizes]


def _vocabulary_ids(field: Field | None, count: int, rng: np.random.Generator) -> Array | None:
    """IDs of a vocabulary in the file, [count] or, filled up with padding, [count, length]."""
    if field is None or field.vocabulary is None or not len(field.vocabulary):
        return None
    first = OOV_ID + 1
    if field.length is None:
        return rng.integers(first, first + len(field.vocabulary), count)
    ids = rng.integers(first, first + len(field.vocabulary), (count, field.length))
    sizes = rng.integers(1, field.length, (count, 1), endpoint=True)
    return np.where(np.arange(field.length) < sizes, ids, PADDING_ID)


def _accepted(
    spec: InputSpec, plan: Plan, known: Array, count: int, rng: np.random.Generator
) -> Array:
    """IDs or numbers without a description: below the limits, else from known rows, [count, ...].

    A matrix whose columns have limits of their own, or numbers, is drawn column by column.
    """
    limit = spec.id_limit if spec.id_limit is not None else _table_rows(plan, spec.name)
    if spec.dtype == "int64" and isinstance(limit, int):
        low = spec.id_low if isinstance(spec.id_low, int) else 0
        return rng.integers(low, limit, (count, *known.shape[1:]), dtype=np.int64)
    if spec.dtype == "float32" or isinstance(limit, tuple):
        flat = known.reshape(len(known), -1)
        picked = rng.integers(0, len(flat), (count, flat.shape[1]))
        return np.take_along_axis(flat, picked, 0).reshape(count, *known.shape[1:])
    return known[rng.integers(0, len(known), count)]


def _table_rows(plan: Plan, name: str) -> int | None:
    """Rows of the plain table that an input reads; None where it reads none."""
    for node in plan.nodes:
        if node.op == LOOKUP and node.inputs[0] == name and node.lookup is not None:
            return node.lookup.rows if node.lookup.scheme == "full" else None
    return None


def _json_ready(values: Array) -> list[Any]:
    """Nested lists of numbers; of integers beyond JavaScript's exact ones as texts."""
    if values.dtype == np.float32:
        finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
        plain: list[Any] = np.vectorize(lambda x: float(f"{x:.6g}"), [float])(finite).tolist()
        return plain
    if np.abs(values.astype(np.float64)).max(initial=0) < SAFE_INTEGER:
        numbers: list[Any] = values.tolist()
        return numbers
    texts: list[Any] = values.astype(str).tolist()
    return texts
