"""Columns of a log to hashes and labels, and the builder that collects them chunk by chunk."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ondevice.cells import Cells, CellValue, RawKind, integer, number
from ondevice.errors import DataError, InputError
from ondevice.features import PADDING_ID, FeatureSpec, Field
from ondevice.hashing import hash_int64, hash_texts
from ondevice.models.data.hashed import HashedLog, IdArray, hashed_field
from ondevice.models.data.rows import RowChunk

# A cell's value, or None where it is missing; ValueError names what was expected.
Parser = Callable[[str], CellValue]
LabelParser = Callable[[str], float]

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Rule:
    """One field: the column it is read from and how a cell becomes its value."""

    field: Field
    column: str
    parse: Parser


@dataclass(frozen=True)
class LabelRule:
    """The label: its column and how a cell becomes 0.0 or 1.0."""

    column: str
    parse: LabelParser


def rule(name: str, kind: RawKind, cells: Cells | None = None) -> Rule:
    """The rule of field `name`, whose cells are read as the field that travels with a model."""
    cells = cells or Cells()
    field = hashed_field(name, kind, cells)
    return Rule(field, cells.column or name, lambda text: cells.value(text, kind))


def zero_one(text: str) -> float:
    """The labels "0" and "1". Raises ValueError."""
    if text in ("0", "1"):
        return float(text)
    raise ValueError("the label 0 or 1")


def at_least(threshold: float) -> LabelParser:
    """A label parser: 1 where the cell's number is `threshold` or more, else 0."""
    return lambda text: float(number(text) >= threshold)


def hash_column(chunk: RowChunk, column_rule: Rule) -> IdArray:
    """Hashes int64 [rows] of one column; every distinct text is parsed and hashed once.

    A numeric field has no hashes: its "hashes" are the bits of float64 values, NaN where missing.

    Raises:
        DataError: a cell the rule cannot read, or bytes that do not decode.
    """
    distinct, positions = _factorised(chunk.column(column_rule.column))
    parsed = _parsed(chunk, column_rule.column, distinct, column_rule.parse)
    if column_rule.field.kind == "number":
        numbers = np.array([np.nan if value is None else value for value in parsed], np.float64)
        return numbers.view(np.int64)[positions]
    hashes = np.full(len(distinct), PADDING_ID, dtype=np.int64)
    present = [number for number, value in enumerate(parsed) if value is not None]
    values = [parsed[number] for number in present]
    if column_rule.field.kind == "integer":
        hashed = hash_int64(np.array(values, dtype=np.int64), column_rule.field.seed)
    else:
        hashed = _hashed_strings(chunk, column_rule, [str(value) for value in values])
    hashes[present] = hashed
    return hashes[positions]


def label_column(chunk: RowChunk, label: LabelRule) -> npt.NDArray[np.float32]:
    """Labels float32 [rows]. Raises DataError for a cell that is no label."""
    distinct, positions = _factorised(chunk.column(label.column))
    parsed = _parsed(chunk, label.column, distinct, label.parse)
    return np.array(parsed, dtype=np.float32)[positions]


def integer_column(chunk: RowChunk, column: str) -> IdArray:
    """The integers int64 [rows] of a column, unhashed. Raises DataError."""
    distinct, positions = _factorised(chunk.column(column))
    return np.array(_parsed(chunk, column, distinct, integer), dtype=np.int64)[positions]


class LogBuilder:
    """Collects hashes and labels chunk by chunk, and builds the log."""

    def __init__(self, features: FeatureSpec, time: str | None = None) -> None:
        """Rows of these fields; `time` is the column of the rows' times, if there is one."""
        self._features = features
        self._time = time
        self._times = array("q")
        # array.array grows in place, so that the log never lies in memory twice
        self._hashes = {field.name: array("q") for field in features.fields}
        self._labels = array("f")

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._labels)

    def add(
        self,
        hashes: dict[str, IdArray],
        labels: npt.NDArray[np.float32],
        times: IdArray | None = None,
    ) -> None:
        """Append rows: per field int64 [m], labels float32 [m], times int64 [m] always or never."""
        if times is not None:
            self._times.frombytes(times.tobytes())
        for name, collected in self._hashes.items():
            collected.frombytes(hashes[name].tobytes())
        self._labels.frombytes(labels.tobytes())

    def add_chunk(self, chunk: RowChunk, rules: Collection[Rule], label: LabelRule) -> None:
        """Append the rows of a chunk by one rule a field. Raises DataError."""
        labels = label_column(chunk, label)
        hashes = {item.field.name: hash_column(chunk, item) for item in rules}
        self.add(hashes, labels, None if self._time is None else integer_column(chunk, self._time))

    def build(self, name: str) -> HashedLog:
        """The log of all rows so far, which shares the builder's memory: add nothing after."""
        hashes = {
            field: np.frombuffer(collected, dtype=np.int64)
            for field, collected in self._hashes.items()
        }
        labels = np.frombuffer(self._labels, dtype=np.float32)
        times = np.frombuffer(self._times, dtype=np.int64) if self._times else None
        return HashedLog(name, self._features, hashes, labels, times=times)


def _factorised(cells: tuple[str, ...]) -> tuple[list[str], IdArray]:
    numbers = {text: number for number, text in enumerate(dict.fromkeys(cells))}
    positions = np.fromiter(map(numbers.__getitem__, cells), dtype=np.int64, count=len(cells))
    return list(numbers), positions


def _parsed(
    chunk: RowChunk, column: str, distinct: list[str], parse: Callable[[str], _Value]
) -> list[_Value]:
    values = []
    for text in distinct:
        try:
            values.append(parse(text))
        except ValueError as error:
            row = chunk.column(column).index(text)
            raise chunk.fault(column, row, str(error)) from error
    return values


def _hashed_strings(chunk: RowChunk, column_rule: Rule, values: list[str]) -> IdArray:
    try:
        return hash_texts(values, column_rule.field.seed)
    except InputError as error:
        raise _undecodable(chunk, column_rule.column) from error


def _undecodable(chunk: RowChunk, column: str) -> DataError:
    surrogates = re.compile("[\ud800-\udfff]")
    row = next(row for row, text in enumerate(chunk.column(column)) if surrogates.search(text))
    return chunk.fault(column, row, "text in the file's encoding")
