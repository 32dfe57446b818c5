"""Cells: how a text of a log or of a request becomes a string, an integer, a number or no value."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.errors import SpecError
from ondevice.times import TimeForm, TimePart, seconds_of_text, seconds_of_value, time_part

RawKind = Literal["string", "integer", "number"]
CellValue = str | int | float | None
Form = Literal["boolean"] | TimeForm
FORMS: tuple[str, ...] = ("boolean", *get_args(TimeForm))

_INTEGER = re.compile(r"([+-]?)0*([0-9]+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LOOSE_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_MOST_DIGITS = 19  # of an integer of 64 bits
MOST_OFFSET = 24 * 60 - 1  # minutes of a time zone
BOOLEAN = "true, false, 1 or 0"
_BOOLEANS = {"true": 1, "false": 0, "1": 1, "0": 0}
_MOMENT = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})")


@dataclass(frozen=True)
class Cells:
    """How one field's texts are read, in training and wherever the model is served.

    Attributes:
        missing: texts that mean "no value".
        separator: between the values of a sequence in one text.
        column: the column of the training log; None: the one of the field's own name.
        form: how an integer is written if not as one: "boolean" (true or false in any case, 1 or
            0), or a time: "iso", "seconds" or "milliseconds" since 1970 (see ondevice.times), whose
            value is seconds since 1970.
        part: the value is a part of a time, an integer: the "hour", the "weekday" (Monday is 0),
            the "day" or the "month". Without a form the texts are times YYMMDDHH of the years 2000
            to 2099, of which there are hours and weekdays, and typed integers are the parts.
        utc_offset: minutes by which the time of `part` is ahead of UTC; of a form only.
        loose: the number syntax of files written before texts had a specification, which are read
            from CSV only: spaces around numbers, and `nan` and `inf`. It is never stored.

    Raises:
        SpecError: texts are no strings, or an empty separator or column.
    """

    missing: tuple[str, ...] = ("",)
    separator: str = "|"
    column: str | None = None
    part: TimePart | None = None
    form: Form | None = None
    utc_offset: int = 0
    loose: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.missing, tuple) or not all(isinstance(m, str) for m in self.missing):
            raise SpecError(f"cells: missing must be strings, got {self.missing!r}")
        if not isinstance(self.separator, str) or not self.separator:
            raise SpecError(f"cells: separator must be a non-empty string, got {self.separator!r}")
        if self.column is not None and (not isinstance(self.column, str) or not self.column):
            raise SpecError(f"cells: column must be a non-empty string, got {self.column!r}")
        self._check_form()

    def _check_form(self) -> None:
        """Check how integers are written. Raises SpecError."""
        if self.form is not None and self.form not in FORMS:
            raise SpecError(f"cells: form must be one of {', '.join(FORMS)}, got {self.form!r}")
        parts = get_args(TimePart)
        if self.part is not None and self.part not in parts:
            raise SpecError(f"cells: part must be one of {', '.join(parts)}, got {self.part!r}")
        if self.form is None and self.part not in (None, "hour", "weekday"):
            raise SpecError(f"cells: of YYMMDDHH there is no part {self.part!r}")
        if self.form == "boolean" and self.part is not None:
            raise SpecError("cells: a boolean has no part of a time")
        whole = isinstance(self.utc_offset, int) and not isinstance(self.utc_offset, bool)
        if not whole or abs(self.utc_offset) > MOST_OFFSET:
            raise SpecError(
                f"cells: utc_offset must be -{MOST_OFFSET}..{MOST_OFFSET} minutes, "
                f"got {self.utc_offset!r}"
            )
        if self.utc_offset and (self.part is None or self.form is None):
            raise SpecError("cells: utc_offset is for a part of a time that has a form")

    @functools.cached_property
    def markers(self) -> tuple[str | None, ...]:
        """What stands for no value: None, and the texts in `missing`."""
        return (None, *self.missing)

    def value(self, text: str, kind: RawKind) -> CellValue:
        """The value of a text, None where it is missing.

        Raises:
            ValueError: the text is not of this kind; its message names what was expected.
        """
        if text in self.missing:
            return None
        if kind == "string":
            return text
        if self.form == "boolean":
            return boolean(text)
        if self.form is not None:
            return self._of_seconds(seconds_of_text(text, self.form), kind)
        if self.part is not None:
            return _part(text, self.part)
        if self.loose:
            return _loose(text, kind)
        return integer(text) if kind == "integer" else number(text)

    def typed(self, value: Any, kind: RawKind) -> Any:
        """A value that is no text and not missing, as the field's kind has it.

        Without a form it stays as it is. With one, True and False are 1 and 0, and a datetime, a
        date, a numpy.datetime64, or a number in the form's unit is a time.

        Raises:
            ValueError: it is no boolean, or no time; the message names what was expected.
        """
        if self.form is None:
            return value
        if self.form == "boolean":
            if isinstance(value, bool | np.bool_):
                return int(value)
            if isinstance(value, int | np.integer) and value in (0, 1):
                return int(value)
            raise ValueError(BOOLEAN)
        return self._of_seconds(seconds_of_value(value, self.form), kind)

    def of_seconds(self, seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The values int64 [n] of times in seconds since 1970 UTC, int64 [n]."""
        if self.part is None:
            return seconds
        return time_part(seconds, self.part, self.utc_offset)

    def _of_seconds(self, seconds: int, kind: RawKind) -> int | float:
        value = int(self.of_seconds(np.array([seconds]))[0])
        return float(value) if kind == "number" else value

    def split(self, text: str) -> list[str] | None:
        """The texts of a sequence's values; None where the whole text is missing."""
        return None if text in self.missing else text.split(self.separator)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object; a separator or column as by default is left out."""
        data: dict[str, Any] = {"missing": list(self.missing)}
        if self.separator != "|":
            data["separator"] = self.separator
        if self.column is not None:
            data["column"] = self.column
        if self.part is not None:
            data["part"] = self.part
        if self.form is not None:
            data["form"] = self.form
        if self.utc_offset:
            data["utc_offset"] = self.utc_offset
        return data

    @classmethod
    def from_json(cls, data: Any) -> Cells:
        """Read what `to_json` wrote. Raises SpecError."""
        known = ("missing", "separator", "column", "part", "form", "utc_offset")
        if not isinstance(data, dict) or set(data) - set(known):
            raise SpecError(f"cells: expected an object of {', '.join(known)}; got {data!r}")
        missing = data.get("missing")
        if not isinstance(missing, list):
            raise SpecError(f"cells: missing must be a list of strings, got {missing!r}")
        return cls(**{**data, "missing": tuple(missing)})


UNSPECIFIED = Cells(loose=True)  # of files whose fields say nothing of texts


def integer(text: str) -> int:
    """A decimal integer that fits int64, with no spaces or underscores. Raises ValueError."""
    if len(text) < _MOST_DIGITS and text.isascii() and text.isdigit():  # the usual cell
        return int(text)
    if match := _INTEGER.fullmatch(text):
        sign, digits = match.groups()
        if len(digits) <= _MOST_DIGITS and -(2**63) <= (value := int(sign + digits)) < 2**63:
            return value
    raise ValueError("a signed 64-bit integer")


def number(text: str) -> float:
    """A finite decimal number, with no spaces or underscores. Raises ValueError."""
    if _NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    raise ValueError("a number")


def boolean(text: str) -> int:
    """1 of "true" or "1", 0 of "false" or "0", in upper or lower case. Raises ValueError."""
    value = _BOOLEANS.get(text.lower()) if text.isascii() else None
    if value is None:
        raise ValueError(BOOLEAN)
    return value


def _part(text: str, part: TimePart) -> int:
    try:
        if match := _MOMENT.fullmatch(text):
            year, month, day, hour = map(int, match.groups())
            moment = datetime(2000 + year, month, day, hour, tzinfo=UTC)
            return moment.hour if part == "hour" else moment.weekday()
    except ValueError:
        pass
    raise ValueError("an hour as YYMMDDHH")


def _loose(text: str, kind: RawKind) -> int | float:
    if kind == "integer":
        if _LOOSE_INTEGER.fullmatch(text):
            return integer(text.strip())
        raise ValueError("a signed 64-bit integer")
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise ValueError("a number")
