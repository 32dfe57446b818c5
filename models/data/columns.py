"""Columns of a chunk of rows to hashes, labels and numbers, with the faults of single cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import ValueColumn
from ondevice.cells import Cells, CellValue, RawKind, integer, number
from ondevice.errors import DataError, InputError
from ondevice.features import Field
from ondevice.models.data.chunks import BadRows, Chunk, fault, shown
from ondevice.models.data.hashed import IdArray, hashed_field

# A cell's value, or None where it is missing; ValueError names what was expected.
Parser = Callable[[str], CellValue]
LabelParser = Callable[[Any], float]
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Rule:
    """One field: the column it is read from, and how a text becomes the value that is encoded.

    Without `parse`, texts are read as the field itself reads them wherever it is served.
    """

    field: Field
    column: str
    parse: Parser | None = None


_LABEL_TEXTS = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}


@dataclass(frozen=True)
class LabelRule:
    """The label: its column and how a text or typed value becomes 0.0 or 1.0."""

    column: str
    parse: LabelParser


def rule(name: str, kind: RawKind, cells: Cells | None = None) -> Rule:
    """The rule of field `name`, whose cells are read as the field that travels with a model."""
    return rule_of(hashed_field(name, kind, cells))


def rule_of(field: Field) -> Rule:
    """The rule of a field, read from the column that its cells name."""
    column = None if field.cells is None else field.cells.column
    return Rule(field, column or field.name)


def zero_one(value: Any) -> float:
    """The labels 0 and 1: numbers, booleans, or texts of these. Raises ValueError.

    The texts "1.0" and "True" are what other libraries write for a column of floats or booleans.
    """
    if isinstance(value, str) and value.lower() in _LABEL_TEXTS:
        return _LABEL_TEXTS[value.lower()]
    is_number = isinstance(value, int | float | np.integer | np.floating | np.bool_)
    if is_number and value in (0, 1):
        return float(value)
    raise ValueError("the label 0 or 1")


def either(zero: str, one: str) -> LabelParser:
    """A label parser: 0 for the text `zero`, 1 for `one`; any other value is a ValueError."""

    def label(value: Any) -> float:
        if isinstance(value, str) and value in (zero, one):
            return float(value == one)
        raise ValueError(f"the label {zero!r} or {one!r}")

    return label


def at_least(threshold: float) -> LabelParser:
    """A label parser: 1 where the number is `threshold` or more, else 0."""

    def label(value: Any) -> float:
        if isinstance(value, str):
            return float(number(value) >= threshold)
        is_number = isinstance(value, int | float | np.integer | np.floating)
        if is_number and not isinstance(value, bool) and value == value:  # NaN
            return float(value >= threshold)
        raise ValueError("a number")

    return label


class Faults:
    """The rows of a chunk with a value that cannot be read, and the first fault of each."""

    def __init__(self, chunk: Chunk) -> None:
        """No fault so far."""
        self.chunk = chunk
        self.rows = np.zeros(len(chunk), dtype=bool)
        self._errors: dict[int, DataError] = {}

    def add(self, column: str, rows: npt.NDArray[np.bool_], message: str) -> None:
        """All these rows have this fault."""
        for row in np.flatnonzero(rows & ~self.rows).tolist():
            self._errors[row] = fault(self.chunk, column, row, message)
        self.rows |= rows

    def refuse(self, bad_rows: BadRows) -> None:
        """Count the rows in their order. Raises DataError where they are too many."""
        for _, error in sorted(self._errors.items()):
            bad_rows.refuse(error)


def hash_column(chunk: Chunk, column_rule: Rule, faults: Faults | None = None) -> IdArray:
    """Hashes int64 [rows] ([rows, length] of a sequence); each distinct value is hashed once.

    A numeric field has no hashes: its "hashes" are the bits of float64 values, NaN where missing.

    Args:
        chunk: the rows.
        column_rule: the field.
        faults: takes the rows that cannot be read, whose hashes mean nothing.

    Raises:
        DataError: a value that cannot be read, where `faults` is None.
    """
    field = column_rule.field
    column = chunk.values(column_rule.column)
    parse = column_rule.parse

    def hashes(values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        if parse is not None:
            values = [parse(value) for value in values]
        if field.kind == "number":
            return field.numbers(values).view(np.int64)
        return field.encode(values)

    return _by_value(chunk, column_rule.column, column, hashes, field, faults)


def label_column(
    chunk: Chunk, label: LabelRule, faults: Faults | None = None
) -> npt.NDArray[np.float32]:
    """Labels float32 [rows]. Raises DataError for a cell that is no label, without `faults`."""

    def labels(values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.array([label.parse(value) for value in values], dtype=np.float32)

    column = chunk.values(label.column)
    if column.positions is None and isinstance(column.values, np.ndarray):
        distinct, positions = np.unique(column.values, return_inverse=True)
        column = ValueColumn(distinct, positions)
    return _by_value(chunk, label.column, column, labels, None, faults)


def integer_column(chunk: Chunk, column: str) -> IdArray:
    """The integers int64 [rows] of a column of texts, unhashed. Raises DataError."""

    def integers(values: Sequence[Any] | npt.NDArray[Any]) -> IdArray:
        return np.array([integer(value) for value in values], dtype=np.int64)

    return _by_value(chunk, column, chunk.values(column), integers, None, None)


def encoded_column(chunk: Chunk, item: Rule, faults: Faults) -> IdArray:
    """The integers int64 [rows] of a column by a field of ready integers, unhashed."""
    column = chunk.values(item.column)
    return _by_value(chunk, item.column, column, item.field.encode, item.field, faults)


def number_column(chunk: Chunk, item: Rule, faults: Faults) -> npt.NDArray[np.float64]:
    """The numbers float64 [rows] of a column, NaN where missing."""
    column = chunk.values(item.column)
    return _by_value(chunk, item.column, column, item.field.numbers, item.field, faults)


def _by_value(
    chunk: Chunk,
    name: str,
    column: ValueColumn,
    convert: Callable[[Sequence[Any] | npt.NDArray[Any]], npt.NDArray[Any]],
    field: Field | None,
    faults: Faults | None,
) -> npt.NDArray[Any]:
    """What `convert` makes of a column's values, in each row; finds the ones it refuses.

    Args:
        chunk: the rows, for messages.
        name: the column's name.
        column: its values.
        convert: raises ValueError or InputError for a value that cannot be read.
        field: of the column, for messages.
        faults: takes the rows that cannot be read; None: the first one is an error.

    Raises:
        DataError: a value that cannot be read, where `faults` is None.
    """
    try:
        return column.spread(convert(column.values))
    except (ValueError, InputError):
        pass
    converted: list[npt.NDArray[Any] | None] = []
    for place, value in enumerate(column.values):
        try:
            converted.append(convert([value]))
        except (ValueError, InputError) as error:
            message = _message(value, error, field)
            if faults is None:
                raise fault(chunk, name, column.first_row(place), message) from error
            faults.add(name, column.rows([place]), message)
            converted.append(None)
    empty = convert([])
    blank = np.zeros((1, *empty.shape[1:]), empty.dtype)
    return column.spread(np.concatenate([blank if item is None else item for item in converted]))


def _message(value: Any, error: Exception, field: Field | None) -> str:
    """What was expected and what came, without the field's name and the place in a list."""
    if isinstance(value, str) and _SURROGATES.search(value):
        return f"expected text in the file's encoding, got {shown(value)}"
    if isinstance(error, InputError):
        name = "" if field is None else f"field {field.name!r}: "
        cut = str(error).removeprefix(name).removesuffix(" at 0")
        if isinstance(value, str):  # as a text is shown everywhere
            return f"{cut.rpartition(', got ')[0]}, got {shown(value)}"
        return cut
    return f"expected {error}, got {shown(value)}"
