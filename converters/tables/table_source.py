"""Sources of a float table: an array in memory, or a file that is read a few rows at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ondevice.codecs import FloatArray, IntArray, chunk_rows
from ondevice.errors import FileFormatError

STORED = np.dtype("<f4")


class TableSource(Protocol):
    """A table float32 [rows, dim] that is read a few rows at a time."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def dim(self) -> int:
        """Width of a row."""

    def chunks(self) -> Iterator[FloatArray]:
        """All rows in order, `chunk_rows(dim)` at a time; the last chunk may be shorter."""

    def read(self, rows: IntArray) -> FloatArray:
        """Some rows: int64 [n], all in range -> float32 [n, dim]."""


@dataclass(frozen=True)
class ArrayTable:
    """A table in memory, float32 [rows, dim]."""

    array: npt.NDArray[np.float32]

    @property
    def rows(self) -> int:
        """See TableSource."""
        return int(self.array.shape[0])

    @property
    def dim(self) -> int:
        """See TableSource."""
        return int(self.array.shape[1])

    def chunks(self) -> Iterator[FloatArray]:
        """See TableSource."""
        step = chunk_rows(self.dim)
        for start in range(0, self.rows, step):
            yield np.ascontiguousarray(self.array[start : start + step])

    def read(self, rows: IntArray) -> FloatArray:
        """See TableSource."""
        return self.array[rows]


@dataclass(frozen=True)
class FileTable:
    """A table in a file: little-endian float32 rows from byte `offset` on.

    The file is read, not mapped: pages of a mapping would count as memory of this process.
    """

    path: Path
    offset: int
    rows: int
    dim: int
    _state: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_state", _state(self.path.stat()))

    def chunks(self) -> Iterator[FloatArray]:
        """See TableSource. Raises FileFormatError when the file is cut off or has changed."""
        step = chunk_rows(self.dim)
        with self._open() as file:
            file.seek(self.offset)
            for start in range(0, self.rows, step):
                chunk = np.empty((min(step, self.rows - start), self.dim), STORED)
                self._fill(file, chunk)
                yield chunk

    def read(self, rows: IntArray) -> FloatArray:
        """See TableSource. Raises FileFormatError as `chunks` does."""
        out = np.empty((len(rows), self.dim), STORED)
        with self._open() as file:
            for place, row in enumerate(rows.tolist()):
                file.seek(self.offset + row * self.dim * STORED.itemsize)
                self._fill(file, out[place])
        return out

    def _open(self) -> io.FileIO:
        try:
            file = io.FileIO(self.path)
        except OSError as error:
            raise FileFormatError(f"{self.path}: cannot be read: {error.strerror}") from error
        if _state(os.fstat(file.fileno())) != self._state:
            file.close()
            raise FileFormatError(f"{self.path}: the file has changed while it was being read")
        return file

    def _fill(self, file: io.FileIO, array: FloatArray) -> None:
        rest = array.reshape(-1).view(np.uint8).data
        while rest:
            count = file.readinto(rest)
            if not count:
                raise FileFormatError(f"{self.path}: cut off at byte {file.tell()}")
            rest = rest[count:]


@dataclass(frozen=True)
class SourceRows:
    """Rows `start` to `start` + `rows` of another table, cut to their first `dim` values."""

    source: TableSource
    start: int
    rows: int
    dim: int

    def chunks(self) -> Iterator[FloatArray]:
        """See TableSource."""
        step = chunk_rows(self.dim)
        for first in range(0, self.rows, step):
            yield self.read(np.arange(first, min(first + step, self.rows)))

    def read(self, rows: IntArray) -> FloatArray:
        """See TableSource."""
        return np.ascontiguousarray(self.source.read(rows + self.start)[:, : self.dim])


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
