"""Chunks of rows of any source: what reading gives, column by column, and how a fault is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import ValueColumn
from ondevice.errors import DataError, InputError
from ondevice.raw_values import shown as shown_value

IdArray = npt.NDArray[np.int64]
SHOWN_FAULTS = 5  # how many refused rows are kept for the report


class Chunk(Protocol):
    """Some consecutive rows of one file or table."""

    @property
    def names(self) -> tuple[str, ...]:
        """The column names."""

    def __len__(self) -> int:
        """Rows."""

    def values(self, name: str) -> ValueColumn:
        """The values of the column `name`, which must exist."""

    def place(self, row: int) -> str:
        """The file and the line or row, for messages."""


def fault(chunk: Chunk, name: str, row: int, message: str) -> DataError:
    """The error of a cell, whose message says what was expected and what came."""
    return DataError(f"{chunk.place(row)}, column {name!r}: {message}")


def shown(value: Any) -> str:
    """A cell as an error message shows it: a text quoted and cut, undecodable bytes as escapes."""
    if not isinstance(value, str):
        return shown_value(value)
    return ascii(value if len(value) <= 40 else value[:37] + "...")


@dataclass
class BadRows:
    """How many rows may be refused, and those that were.

    Attributes:
        most: more than so many end the reading.
        count: rows refused so far.
        faults: the first of them.
    """

    most: int = 0
    count: int = 0
    faults: list[str] = field(default_factory=list)

    def refuse(self, error: DataError) -> None:
        """Count one row. Raises the error once there are too many."""
        self.count += 1
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(str(error))
        if self.count > self.most:
            raise error if not self.most else DataError(f"more than {self.most} bad rows: {error}")

    @classmethod
    def from_text(cls, text: str) -> BadRows:
        """Read `skip:N` of a command line. Raises InputError."""
        word, _, number = text.partition(":")
        if word != "skip" or not number.isascii() or not number.isdigit():
            raise InputError(f"--bad-rows: expected skip:N, for example skip:100, got {text!r}")
        return cls(int(number))


@dataclass(frozen=True)
class TextChunk:
    """Rows of delimited text.

    Attributes:
        path: the file.
        names: the column names.
        lines: per row, the physical line (from 1) on which it starts.
        columns: per column, the cells of all rows.
    """

    path: Path
    names: tuple[str, ...]
    lines: list[int]
    columns: list[tuple[str, ...]]

    def __len__(self) -> int:
        """Rows."""
        return len(self.lines)

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of the column `name`, which must exist."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, tuple[str, ...]]:
        return dict(zip(self.names, self.columns, strict=True))

    def values(self, name: str) -> ValueColumn:
        """The distinct cells of a column and where they stand."""
        cells = self.column(name)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(cells))}
        positions = np.fromiter(map(numbers.__getitem__, cells), dtype=np.int64, count=len(cells))
        return ValueColumn(list(numbers), positions)

    def place(self, row: int) -> str:
        """The file and the line of a row."""
        return f"{self.path}, line {self.lines[row]}"


@dataclass(frozen=True)
class ObjectChunk:
    """Rows that are objects of values by name, of JSON lines.

    Attributes:
        path: the file.
        names: the keys of the file's first object; every row has those that are read.
        lines: per row, its line (from 1).
        rows: the objects.
    """

    path: Path
    names: tuple[str, ...]
    lines: list[int]
    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    def values(self, name: str) -> ValueColumn:
        """The values of a key; where all are texts, numbers or none, each distinct one once."""
        values = [row[name] for row in self.rows]
        if any(isinstance(value, list | dict) for value in values):
            return ValueColumn(values)
        keys = [(type(value), value) for value in values]  # True, 1 and 1.0 are equal
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        positions = np.fromiter((numbers[key] for key in keys), dtype=np.int64, count=len(keys))
        return ValueColumn([value for _, value in numbers], positions)

    def place(self, row: int) -> str:
        """The file and the line of a row."""
        return f"{self.path}, line {self.lines[row]}"


@dataclass(frozen=True)
class WithValues:
    """A chunk with further columns whose value all rows share, such as those of Hive's folders."""

    chunk: Chunk
    shared: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """The chunk's column names, then the further ones."""
        return (*self.chunk.names, *self.added)

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the further columns, without those that the chunk has itself."""
        return tuple(name for name in self.shared if name not in self.chunk.names)

    def __len__(self) -> int:
        """Rows."""
        return len(self.chunk)

    def values(self, name: str) -> ValueColumn:
        """The values of a column; the file's where both have it."""
        if name in self.added:
            value = self.shared[name] or None  # Hive's folder of a missing value is ""
            return ValueColumn([value], np.zeros(len(self), dtype=np.int64))
        return self.chunk.values(name)

    def place(self, row: int) -> str:
        """The place of a row of the chunk."""
        return self.chunk.place(row)
