"""Cells: how a text of a log or of a request becomes a string, an integer, a number or no value."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from ondevice.errors import SpecError

RawKind = Literal["string", "integer", "number"]
CellValue = str | int | float | None
TimePart = Literal["hour", "weekday"]

_INTEGER = re.compile(r"([+-]?)0*([0-9]+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LOOSE_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_MOST_DIGITS = 19  # of an integer of 64 bits
_MOMENT = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})")


@dataclass(frozen=True)
class Cells:
    """How one field's texts are read, in training and wherever the model is served.

    Attributes:
        missing: texts that mean "no value".
        separator: between the values of a sequence in one text.
        column: the column of the training log; None: the one of the field's own name.
        part: the texts are times YYMMDDHH of the years 2000 to 2099, and the value is a part of
            them, an integer: the "hour", or the "weekday" (Monday is 0).
        loose: the number syntax of files written before texts had a specification, which are read
            from CSV only: spaces around numbers, and `nan` and `inf`. It is never stored.

    Raises:
        SpecError: texts are no strings, or an empty separator or column.
    """

    missing: tuple[str, ...] = ("",)
    separator: str = "|"
    column: str | None = None
    part: TimePart | None = None
    loose: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.missing, tuple) or not all(isinstance(m, str) for m in self.missing):
            raise SpecError(f"cells: missing must be strings, got {self.missing!r}")
        if not isinstance(self.separator, str) or not self.separator:
            raise SpecError(f"cells: separator must be a non-empty string, got {self.separator!r}")
        if self.column is not None and (not isinstance(self.column, str) or not self.column):
            raise SpecError(f"cells: column must be a non-empty string, got {self.column!r}")
        if self.part is not None and self.part not in get_args(TimePart):
            raise SpecError(f"cells: part must be 'hour' or 'weekday', got {self.part!r}")

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
        if self.part is not None:
            return _part(text, self.part)
        if self.loose:
            return _loose(text, kind)
        return integer(text) if kind == "integer" else number(text)

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
        return data

    @classmethod
    def from_json(cls, data: Any) -> Cells:
        """Read what `to_json` wrote. Raises SpecError."""
        known = ("missing", "separator", "column", "part")
        if not isinstance(data, dict) or set(data) - set(known):
            raise SpecError(f"cells: expected an object of {', '.join(known)}; got {data!r}")
        missing = data.get("missing")
        if not isinstance(missing, list):
            raise SpecError(f"cells: missing must be a list of strings, got {missing!r}")
        return cls(tuple(missing), data.get("separator", "|"), data.get("column"), data.get("part"))


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
