"""Arrays that grow on disk: what a log's columns are collected in, so that memory stays small."""

from __future__ import annotations

import mmap
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

IN_MEMORY = 1 << 22  # bytes up to which a finished array is held in memory


class Spool:
    """A temporary file without a name to which rows are appended, and which becomes an array."""

    def __init__(self, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> None:
        """Rows of this dtype and shape."""
        self._dtype = np.dtype(dtype)
        self._shape = shape
        # no context: the file lives as long as the array that is mapped from it
        self._file = tempfile.TemporaryFile(prefix="ondevice-")  # noqa: SIM115

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows [m, *shape]. Raises OSError where the disk refuses."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def array(self) -> npt.NDArray[Any]:
        """All rows [n, *shape], mapped from the file; writing into it changes no file.

        Nothing can be appended afterwards. The file's space is free once the array is gone.
        """
        self._file.flush()
        size = self._file.tell()
        with self._file as file:
            if size <= IN_MEMORY:
                file.seek(0)
                data: Any = bytearray(file.read())
            else:
                data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        return np.frombuffer(data, self._dtype).reshape(-1, *self._shape)


def chunked_take(
    values: npt.NDArray[Any], rows: npt.NDArray[np.int64], chunk: int = 1 << 20
) -> npt.NDArray[Any]:
    """`values[rows]`, on disk if it is large, read `chunk` rows at a time."""
    size = len(rows) * (values.nbytes // max(len(values), 1))
    if size <= IN_MEMORY:
        taken: npt.NDArray[Any] = values[rows]
        return taken
    spool = Spool(values.dtype, values.shape[1:])
    for start in range(0, len(rows), chunk):
        spool.append(values[rows[start : start + chunk]])
    return spool.array()
