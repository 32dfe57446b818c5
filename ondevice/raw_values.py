"""Raw values of a column as arrays: texts hashed, integers and numbers, and which are missing.

Errors name the position in the column; `Field` puts its name before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import decoded
from ondevice.cells import Cells, CellValue, RawKind
from ondevice.errors import InputError
from ondevice.hashing import MISSING, UNREAD, IdArray, hash_values
from ondevice.times import EARLIEST, LATEST, seconds_of_times

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Column = Sequence[Any] | npt.NDArray[Any]

_NOT_INTEGERS = (bool, np.bool_, np.timedelta64)  # though Python or numpy derive them from integers
# Types that numpy converts as `_integer` and `_number` do, a whole column at a time.
_INTEGERS = {int, np.int32, np.int64, NoneType}
_NUMBERS = {float, np.float32, np.float64, *_INTEGERS}


def as_list(values: Column) -> list[Any]:
    """The values as a list; those of an array of integers, texts or objects are Python's."""
    if isinstance(values, list):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuUO":
        listed: list[Any] = values.tolist()
        return listed
    return list(values)


def as_array(values: Column, kinds: str) -> npt.NDArray[Any] | None:
    """The values as an array [n] if they are one, or offer one as pandas does, of these kinds."""
    if not hasattr(values, "__array__"):
        return None
    try:
        array = np.asarray(decoded(values))
    except Exception:  # whatever the type raises, as a tensor that has gradients or a device does
        return None
    return array if array.ndim == 1 and array.dtype.kind in kinds else None


def read_strings(
    values: list[Any], seed: int, cells: Cells | None
) -> tuple[IdArray, BoolArray | None]:
    """XXH64 of strings, int64 [n], and which values are missing; None: all are present.

    Raises:
        InputError: a value is neither a string nor missing, or has lone surrogates.
    """
    markers = (None,) if cells is None else cells.markers
    hashes, states, unhashed = hash_values(values, seed, markers)
    if not unhashed:
        return hashes, None
    for number in np.flatnonzero(states == UNREAD).tolist():
        value = values[number]
        if isinstance(value, str):
            raise InputError(f"{shown(value)} at {number} is not valid Unicode")
        if not is_missing(value):
            raise InputError(f"expected strings, got {shown(value)} at {number}")
        states[number] = MISSING
    return hashes, states == MISSING


def read_integers(values: list[Any], cells: Cells | None) -> tuple[IdArray, BoolArray | None]:
    """The integers int64 [n], and which are missing (0 then); None: all are present.

    Raises:
        InputError: a value is neither an integer of signed 64 bits (of unsigned ones, numpy's are
            read as the signed ones of the same bits) nor missing.
    """
    values, types = _with_texts_read(values, "integer", cells)
    if types <= _INTEGERS:
        missing = np.array([value is None for value in values]) if NoneType in types else None
        present = values if missing is None else [0 if v is None else v for v in values]
        with suppress(OverflowError):  # the loop below says which
            return np.array(present, dtype=np.int64), missing
    integers = np.zeros(len(values), dtype=np.int64)
    absent = np.zeros(len(values), dtype=np.bool_)
    for number, value in enumerate(values):
        if is_missing(value):
            absent[number] = True
        else:
            integers[number] = _integer(value, number)
    return integers, absent


def read_numbers(values: list[Any], cells: Cells | None) -> FloatArray:
    """The numbers float64 [n], NaN where they are missing.

    Raises:
        InputError: a value is neither a number nor missing, or too large an integer.
    """
    values, types = _with_texts_read(values, "number", cells)
    if types <= _NUMBERS:
        with suppress(OverflowError):  # the loop below says which
            return np.array(values, dtype=np.float64)
    pairs = enumerate(values)
    return np.array([_number(value, number) for number, value in pairs], dtype=np.float64)


def read_times(times: npt.NDArray[Any], cells: Cells) -> tuple[IdArray, BoolArray]:
    """The integers int64 [n] of numpy's times, and which are missing.

    Raises:
        InputError: a time outside the years 1 to 9999.
    """
    missing = np.isnat(times)
    seconds = np.where(missing, 0, seconds_of_times(times))
    wrong = (seconds < EARLIEST) | (seconds > LATEST)
    if wrong.any():
        number = int(wrong.argmax())
        raise InputError(
            f"expected a time of the years 1 to 9999, got {shown(times[number])} at {number}"
        )
    return cells.of_seconds(seconds), missing


def read_text(text: str, kind: RawKind, cells: Cells, number: int) -> CellValue:
    """The value of the text at `number`. Raises InputError."""
    try:
        return cells.value(text, kind)
    except ValueError as error:
        raise InputError(f"expected {error}, got {shown(text)} at {number}") from error


def is_nan(value: Any) -> bool:
    """Whether it is a float that is not a number."""
    return isinstance(value, float | np.floating) and bool(value != value)


def is_missing(value: Any) -> bool:
    """Whether it is None, a float that is not a number, or what pandas has for a missing value."""
    return value is None or is_nan(value) or _is_na(value)


def _is_na(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "NAType" and kind.__module__.startswith("pandas.")


def shown(value: Any) -> str:
    """A value for an error message: its type and the beginning of its text."""
    plain = value
    with suppress(OverflowError):  # a time that numpy can neither convert nor, as a text, write
        plain = value.item() if isinstance(value, np.generic) else value
    try:
        text = repr(plain[:40] if isinstance(plain, str) else plain)
    except (ValueError, RecursionError, OverflowError):
        # an integer of more digits than Python prints, a deep list, a time of no date
        return f"{type(value).__name__} too long to print"
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def _with_texts_read(
    values: list[Any], kind: RawKind, cells: Cells | None
) -> tuple[list[Any], set[type]]:
    """The values with their texts read, every distinct one once, and the types of all.

    Raises:
        InputError: a text is not of the kind.
    """
    types = set(map(type, values))
    if cells is not None and cells.form is not None:
        values = [_typed(value, kind, cells, number) for number, value in enumerate(values)]
        types = set(map(type, values))
    if cells is None or not any(issubclass(each, str) for each in types):
        return values, types
    read: dict[str, CellValue] = {}
    for number, value in enumerate(values):
        if isinstance(value, str) and value not in read:
            read[value] = read_text(value, kind, cells, number)
    values = [read[value] if isinstance(value, str) else value for value in values]
    return values, set(map(type, values))


def _typed(value: Any, kind: RawKind, cells: Cells, number: int) -> Any:
    """The value at `number` of a field whose integers have a form; a text as it is.

    Raises:
        InputError: it is no value of that form.
    """
    if isinstance(value, str) or is_missing(value):
        return value
    if isinstance(value, datetime | np.datetime64) and value != value:
        return None  # NaT, of numpy and of pandas
    try:
        return cells.typed(value, kind)
    except ValueError as error:
        raise InputError(f"expected {error}, got {shown(value)} at {number}") from error


def _integer(value: Any, number: int) -> int:
    if isinstance(value, _NOT_INTEGERS) or not isinstance(value, int | np.integer):
        raise InputError(f"expected integers, got {shown(value)} at {number}")
    if isinstance(value, np.uint64):  # the 64 bits are kept, as of an array of them
        return int(value.view(np.int64))
    if not -(2**63) <= int(value) < 2**63:
        raise InputError(f"{shown(value)} at {number} does not fit a signed 64-bit integer")
    return int(value)


def _number(value: Any, number: int) -> float:
    """A value as a double, NaN where it is missing. Raises InputError."""
    if value is None or _is_na(value):
        return np.nan
    is_real = isinstance(value, int | float | np.integer | np.floating)
    if not is_real or isinstance(value, _NOT_INTEGERS):
        raise InputError(f"expected numbers, got {shown(value)} at {number}")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"the integer at {number} is too large for a double") from error
