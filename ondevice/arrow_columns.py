"""Columns of Arrow arrays as raw values: distinct ones, where it is cheap to find them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import MissingDependencyError


@dataclass(frozen=True)
class ValueColumn:
    """The raw values of one column: texts, which are cells, or typed values; None is missing.

    Attributes:
        values: distinct values, or all of them where `positions` is None.
        positions: of each row in `values`, int64 [rows].
    """

    values: Sequence[Any] | npt.NDArray[Any]
    positions: npt.NDArray[np.int64] | None = None

    def spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What `values` [len(self.values), ...] is in each row."""
        return values if self.positions is None else values[self.positions]

    def first_row(self, place: int) -> int:
        """The first row that has the value at `place`."""
        return place if self.positions is None else int(np.argmax(self.positions == place))

    def rows(self, places: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which rows have a value at one of these places."""
        chosen = np.zeros(len(self.values), dtype=bool)
        chosen[list(places)] = True
        return chosen if self.positions is None else chosen[self.positions]


def pyarrow(module: str = "pyarrow") -> Any:
    """The package pyarrow, or a module of it; the runtime needs it only for Parquet and Arrow.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            "reading and writing Parquet needs the package 'pyarrow': pip install pyarrow"
        ) from error


def decoded(values: Any) -> Any:
    """A dictionary array of pyarrow as an array of its values; other values as they are.

    pyarrow's own way from a chunked one to numpy puts other values in the places of missing ones.
    """
    if type(values).__module__ != "pyarrow.lib":
        return values
    kind: Any = getattr(values, "type", None)
    return values.cast(kind.value_type) if hasattr(kind, "index_type") else values


def arrow_array(values: Any) -> Any | None:
    """A column of pyarrow or polars as one pyarrow Array; None for other values."""
    if type(values).__module__.partition(".")[0] not in ("pyarrow", "polars"):
        return None
    if not hasattr(values, "__arrow_c_array__") and not hasattr(values, "__arrow_c_stream__"):
        return None
    try:
        column = pyarrow().chunked_array(values)
    except Exception:  # no pyarrow, or what Arrow has no type for: their own way to numpy has to do
        return None
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def column_of(array: Any) -> ValueColumn:
    """The raw values of a pyarrow Array.

    Texts, integers and booleans as Python has them, floats and decimals as float64 with NaN where
    null, times as numpy's with NaT where null, lists as lists; bytes are UTF-8 texts. Unsigned
    integers of 64 bits that no int64 has are numpy's, so that their type is known.

    Raises:
        TypeError: no field has values of this type, or Python has no such value.
        pyarrow.ArrowException: the array does not hold what its type says.
    """
    pa = pyarrow()
    types, kind = pa.types, array.type
    if isinstance(kind, pa.BaseExtensionType):  # a name for values of another type
        return column_of(array.storage)
    if types.is_run_end_encoded(kind):
        return column_of(pyarrow("pyarrow.compute").run_end_decode(array))
    if types.is_null(kind):
        return ValueColumn([None], np.zeros(len(array), np.int64))
    if _is_other_text(kind):
        array = array.cast(pa.string())
    if types.is_dictionary(kind) and _is_other_text(kind.value_type):
        texts = array.dictionary.cast(pa.string())  # as of polars' Categorical: not decoded yet
        return _of_dictionary(pa.DictionaryArray.from_arrays(array.indices, texts))
    if types.is_dictionary(kind) and not _has_distinct_values(kind.value_type):
        return column_of(array.dictionary_decode())
    if types.is_uint64(kind):
        array = _signed(array)
    if types.is_decimal(kind):
        # by their texts: a direct cast is off by a bit for one price in seven
        array = array.cast(pa.string()).cast(pa.float64())
    if types.is_floating(array.type):
        return ValueColumn(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if types.is_timestamp(kind) or types.is_date(kind):
        return ValueColumn(array.to_numpy(zero_copy_only=False))
    if types.is_integer(kind) and not array.null_count:
        return ValueColumn(array.to_numpy())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return ValueColumn(_listed(_with_plain_elements(array)))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return ValueColumn(_listed(array))  # pyarrow's casts of these lose values
    if types.is_dictionary(kind):
        return _of_dictionary(array)
    if _has_distinct_values(array.type):
        return _of_dictionary(array.dictionary_encode())
    raise TypeError(f"columns of type {kind} are not read")


def _is_other_text(kind: Any) -> bool:
    """Whether values of this type are texts that pyarrow computes little with."""
    return _are_bytes(kind) or bool(pyarrow().types.is_string_view(kind))


def _has_distinct_values(kind: Any) -> bool:
    """Whether values of this type are read once for all rows that have them."""
    types = pyarrow().types
    is_text = types.is_string(kind) or types.is_large_string(kind)
    return bool(is_text or types.is_integer(kind) or types.is_boolean(kind))


def _are_bytes(kind: Any) -> bool:
    """Whether values of this type are bytes, which are read as texts of UTF-8."""
    types = pyarrow().types
    has_length = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(has_length or types.is_binary_view(kind) or types.is_fixed_size_binary(kind))


def _with_plain_elements(array: Any) -> Any:
    """An array of lists whose bytes are texts, and whose unsigned integers are int64 of the same
    64 bits: lists hold names, of which only the bits count.
    """
    pa = pyarrow()
    elements = array.type.value_type
    if pa.types.is_uint64(elements):
        return array.cast(pa.large_list(pa.int64()), safe=False)
    return array.cast(pa.large_list(pa.string())) if _are_bytes(elements) else array


def _signed(array: Any) -> Any:
    """An array of uint64 as int64, unless it has a greater number."""
    pa = pyarrow()
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        return array


def _listed(array: Any) -> list[Any]:
    """The values as Python's. Raises TypeError for a time that Python does not have."""
    try:
        listed: list[Any] = array.to_pylist()
    except (OverflowError, ValueError) as error:
        if isinstance(error, pyarrow().ArrowException | UnicodeDecodeError):
            raise
        raise TypeError(f"values of type {array.type} are not read: {error}") from error
    return listed


def _of_dictionary(encoded: Any) -> ValueColumn:
    """The distinct values of a dictionary array, with None behind them where a row has none."""
    pa = pyarrow()
    distinct = _listed(encoded.dictionary)
    if pa.types.is_uint64(encoded.dictionary.type):
        distinct = [None if value is None else np.uint64(value) for value in distinct]
    indices = encoded.indices.cast(pa.int64())
    if indices.null_count:
        indices = pyarrow("pyarrow.compute").fill_null(indices, len(distinct))
        distinct = [*distinct, None]
    return ValueColumn(distinct, indices.to_numpy())
