"""Delimited text: how a file is cut into rows of cells, in training and at serving."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import IO, Any, Protocol

from ondevice.compression import MAX_LINE, SUFFIXES
from ondevice.errors import SpecError


@dataclass(frozen=True)
class DelimitedFormat:
    """How a file's text is cut into cells.

    Attributes:
        delimiter: between two cells; one character, or more in a file without quoting.
        quote: the character around cells that hold delimiters or line ends; None for none.
        encoding: of the bytes. A leading UTF-8 byte order mark is skipped.
    """

    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"

    @property
    def codec(self) -> str:
        """The name of the encoding for Python's decoders."""
        return "utf-8-sig" if self.encoding == "utf-8" else self.encoding

    def of_file(self, name: str) -> DelimitedFormat:
        """The layout of a file of this name: commas stand for tabs where it ends in .tsv."""
        path = PurePath(name.lower())
        suffix = PurePath(path.stem).suffix if path.suffix in SUFFIXES else path.suffix
        is_tabbed = suffix == ".tsv" and self.delimiter == ","
        return replace(self, delimiter="\t") if is_tabbed else self

    def faults(self) -> list[str]:
        """The contradictions in these settings."""
        faults = []
        delimiter, quote = self.delimiter, self.quote
        if not delimiter or set(delimiter) & set("\r\n"):
            faults.append(f"delimiter must not be empty or hold a line end, got {delimiter!r}")
        if len(delimiter) > 1 and quote is not None:
            faults.append("a delimiter of several characters needs a file without quoting")
        if quote is not None and (len(quote) != 1 or quote in delimiter or quote in "\r\n"):
            faults.append(f"quote must be one character other than the delimiter, got {quote!r}")
        try:
            "".encode(self.encoding)  # LookupError also for codecs that are not of text
        except (LookupError, ValueError):
            faults.append(f"unknown encoding {self.encoding!r}")
        return faults

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> DelimitedFormat:
        """Read what `to_json` wrote. Raises SpecError."""
        keys = {"delimiter", "quote", "encoding"}
        if not isinstance(data, dict) or set(data) != keys:
            raise SpecError(f"text format: expected an object of {', '.join(sorted(keys))}")
        for name, value in data.items():
            if not isinstance(value, str) and not (name == "quote" and value is None):
                raise SpecError(f"text format: {name} must be a string, got {value!r}")
        text_format = cls(**data)
        if faults := text_format.faults():
            raise SpecError("text format: " + "; ".join(faults))
        return text_format


COMMAS = DelimitedFormat()
_BLOCK = 2**16  # characters that are read at once


class RowLines:
    """The lines of a text for a row reader; a row of more than MAX_LINE characters is refused.

    A row may have many lines, in quotes, so that no limit of a line bounds it.

    Attributes:
        done: what has changed whenever a row is complete; the reader of rows sets it.
    """

    def __init__(self, text: IO[str]) -> None:
        self.done = 0
        self._text = text

    def __iter__(self) -> Iterator[str]:
        """The lines. Raises csv.Error."""
        return itertools.chain.from_iterable(self._blocks())

    def _blocks(self) -> Iterator[list[str]]:
        """The lines, many at a time, so that counting costs little."""
        before, size = -1, 0
        while block := self._text.readlines(_BLOCK):
            size = size + sum(map(len, block)) if self.done == before else 0
            if size > MAX_LINE:
                raise csv.Error(f"expected rows of up to {MAX_LINE:,} characters, got a longer one")
            before = self.done
            yield block


class RowReader(Protocol):
    """Rows of cells, as the csv module's reader gives them; a blank line is an empty row."""

    @property
    def line_num(self) -> int:
        """Physical lines read so far."""

    def __iter__(self) -> Iterator[list[str]]:
        """The rows."""


def row_reader(text: Iterable[str], text_format: DelimitedFormat) -> RowReader:
    """The rows of a text's lines. Reading raises csv.Error where quotes do not match."""
    if len(text_format.delimiter) > 1:
        return _LineReader(text, text_format.delimiter)
    return csv.reader(
        text,
        delimiter=text_format.delimiter,
        quotechar=text_format.quote,
        quoting=csv.QUOTE_MINIMAL if text_format.quote else csv.QUOTE_NONE,
        strict=True,
    )


class _LineReader:
    """Rows of unquoted lines cut at a delimiter of any length; the csv module knows only one."""

    def __init__(self, text: Iterable[str], delimiter: str) -> None:
        self.line_num = 0
        self._text = text
        self._delimiter = delimiter

    def __iter__(self) -> Iterator[list[str]]:
        for line in self._text:
            self.line_num += 1
            stripped = line.rstrip("\r\n")
            yield stripped.split(self._delimiter) if stripped else []
