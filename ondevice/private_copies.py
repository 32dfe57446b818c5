"""Copies of files in memory that nobody can change: what was hashed is what runs (Linux)."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ondevice.errors import FileFormatError, UnsupportedError
from ondevice.manifest import FileRecord

_SEALS = ("F_SEAL_WRITE", "F_SEAL_GROW", "F_SEAL_SHRINK", "F_SEAL_SEAL")


@contextlib.contextmanager
def sealed_copies(folder: Path, records: Mapping[str, FileRecord]) -> Iterator[dict[str, Path]]:
    """Copy files into sealed memory and compare the copies with their records.

    The paths, by file name, name the copies and work only within the block; what is mapped from
    them then stays. No more than a record's length is ever copied.

    Raises:
        FileFormatError: a file is missing, no regular file, or not as its record says.
        UnsupportedError: the system has no sealed memory.
    """
    if sys.platform != "linux":
        raise UnsupportedError("signed models need sealed memory (memfd_create), as Linux has it")
    with contextlib.ExitStack() as stack:
        paths = {}
        for name, record in records.items():
            descriptor = _new_memory(folder / name)
            stack.callback(os.close, descriptor)
            _copy(folder / name, descriptor, record)
            paths[name] = Path(f"/proc/self/fd/{descriptor}")
        yield paths


def _new_memory(path: Path) -> int:
    """A descriptor of memory for a file's copy. Raises FileFormatError: the system has none."""
    if sys.platform != "linux":
        raise FileFormatError(f"{path}: cannot be copied: only Linux has sealed memory")
    try:
        return os.memfd_create("ondevice", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be copied: {error.strerror}") from error


def _copy(path: Path, descriptor: int, record: FileRecord) -> None:
    """Fill sealed memory with a file and compare it. Raises FileFormatError."""
    if sys.platform != "linux":
        return
    try:
        # without O_NONBLOCK, opening a FIFO waits for its writer
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file, which the manifest lists") from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(f"{path}: is not a regular file")
        if status.st_size != record.length:
            raise FileFormatError(
                f"{path}: has {status.st_size} bytes, its manifest says {record.length}"
            )
        left = record.length
        while left and (sent := os.sendfile(descriptor, source, None, left)):
            left -= sent
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be copied: {error.strerror}") from error
    finally:
        os.close(source)
    import fcntl  # not on every system

    for seal in _SEALS:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, getattr(fcntl, seal))
    actual = _sha256(descriptor)
    if left or actual != record.sha256:
        raise FileFormatError(f"{path}: its SHA-256 is {actual}, its manifest says {record.sha256}")


def _sha256(descriptor: int) -> str:
    """SHA-256 of a file, in hexadecimal."""
    if not os.fstat(descriptor).st_size:
        return hashlib.sha256().hexdigest()
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped:
        return hashlib.sha256(mapped).hexdigest()
