"""Arrays that grow on disk: what a log's columns are collected in, so that memory stays small."""

from __future__ import annotations

import contextlib
import errno
import mmap
import sys
import tempfile
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from ondevice.errors import DataError

if sys.platform != "win32":
    import resource

MOST_FILES = 1 << 17
IN_MEMORY = 1 << 22  # bytes up to which a finished array is held in memory


class Spool:
    """A temporary file without a name to which rows are appended, and which becomes an array."""

    def __init__(self, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> None:
        """Rows of this dtype and shape. Raises DataError, OSError where no file can be opened."""
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._file = _temporary_file()

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


def _temporary_file() -> BinaryIO:
    """A file without a name; a log has one for each column, and may have thousands.

    Raises:
        DataError: the system lets this process open no more files.
        OSError: the disk refuses.
    """
    for is_last in (False, True):
        try:
            # no context: the file lives as long as the array that is mapped from it
            return cast(BinaryIO, tempfile.TemporaryFile(prefix="ondevice-"))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            if is_last or not _allow_more_files():
                raise DataError(
                    "a log needs a temporary file for each column, and this process may open no "
                    "more files: raise its limit (ulimit -n)"
                ) from error
    raise AssertionError("unreachable")


def _allow_more_files() -> bool:
    """Raise this process's limit of open files as far as the system allows; whether it could."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if wanted > soft:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return True
    return False


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
