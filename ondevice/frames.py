"""Requests as data frames and Arrow tables: the columns that a model takes, by input name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import decoded, pyarrow
from ondevice.errors import InputError
from ondevice.features import Field
from ondevice.info import InputSpec
from ondevice.requests import log_columns


def is_table(value: Any) -> bool:
    """Whether a value is a data frame of pandas or polars, an Arrow table or a record batch."""
    return hasattr(value, "__arrow_c_stream__") and hasattr(value, "columns")


def id_columns(table: Any, specs: Sequence[InputSpec]) -> dict[str, npt.NDArray[Any]]:
    """The columns of a table that are called as inputs, as arrays [rows, ...]; others are ignored.

    Args:
        table: see `is_table`; a column of lists is an input of a fixed length.
        specs: inputs of the model; a missing value of float32 is NaN.

    Raises:
        InputError: two columns of an input's name, an ID is missing, or lists differ in length.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = _arrow_table(table, {spec.name for spec in specs})
    wanted = {spec.name: spec for spec in specs if spec.name in arrow.column_names}
    return {name: _numbers(_only_column(arrow, name), spec) for name, spec in wanted.items()}


def raw_columns(requests: Sequence[Any], fields: Sequence[Field]) -> list[Mapping[str, Any]]:
    """Requests whose tables are replaced by the IDs int64 [rows, ...] of their columns.

    Args:
        requests: tables (see `is_table`), and mappings, which are returned as they are. Columns of
            tables are called as the training log's, or else as the inputs; others are ignored.
        fields: of the model's inputs, whichever the mappings do not name.

    Raises:
        InputError: a column is named twice, or a value is none of its field; names the row.
        MissingDependencyError: pyarrow is not installed.
    """
    named = {name for field in fields for name in (field.name, field.column)}
    tables = [_arrow_table(item, named) if is_table(item) else None for item in requests]
    header = [name for table in tables if table is not None for name in table.column_names]
    columns = log_columns(header, fields)
    return [
        request
        if table is None
        else {
            item.name: _ids(_only_column(table, column), item)
            for item, column in zip(fields, columns, strict=True)
            if column in table.column_names
        }
        for request, table in zip(requests, tables, strict=True)
    ]


def _arrow_table(table: Any, wanted: Set[str]) -> Any:
    """A table as pyarrow's. Raises InputError where its columns cannot be Arrow's.

    Of a pandas frame only the wanted columns: others may hold whatever Python objects.
    """
    pa = pyarrow()
    try:
        if hasattr(table, "loc"):
            table = table.loc[:, [name in wanted for name in table.columns]]
        return pa.table(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        fault = "; ".join(map(str, error.args)).splitlines() or [type(error).__name__]
        raise InputError(
            f"a {type(table).__name__} that cannot be read as an Arrow table: {fault[0]}"
        ) from error


def _only_column(table: Any, name: str) -> Any:
    """The column of a name. Raises InputError where several have it."""
    if table.column_names.count(name) > 1:
        raise InputError(f"the table names {name} more than once")
    return table.column(name)


def _numbers(column: Any, spec: InputSpec) -> npt.NDArray[Any]:
    """A column as an array [rows, ...]. Raises InputError for a missing ID and ragged lists."""
    pa = pyarrow()
    column = decoded(column)
    if spec.dtype == "int64" and column.null_count:
        row = column.is_null().index(True).as_py() + 1
        raise InputError(f"row {row}: input {spec.name!r}: expected an ID, got a missing value")
    if not pa.types.is_nested(column.type):
        values: npt.NDArray[Any] = column.to_numpy()
        return values
    try:
        return np.array(column.to_pylist())
    except ValueError as error:
        raise InputError(f"input {spec.name!r}: lists of one length expected: {error}") from error


def _ids(column: Any, item: Field) -> npt.NDArray[np.int64]:
    """IDs int64 [rows, ...] of a column of raw values. Raises InputError, which names the row."""
    parts, first = [], 0
    try:
        for chunk in column.chunks:
            parts.append(item.encode_arrow(chunk, first))
            first += len(chunk)
    except InputError as error:
        if item.kind == "integer" and pyarrow().types.is_floating(column.type):
            hint = "pandas makes floats of integers with gaps: give the column the type Int64"
            raise InputError(f"{error}; {hint}") from error
        raise
    return np.concatenate(parts) if parts else item.encode([])
