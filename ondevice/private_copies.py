"""Private copies of files: what was hashed is what runs, whoever writes to the files meanwhile.

On Linux a copy is sealed memory (memfd_create), which nobody can change, not even this process, and
which engines map. Elsewhere it is memory of this process.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import mmap
import operator
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ondevice.errors import FileFormatError, UnsupportedError
from ondevice.held_bytes import held_copies
from ondevice.manifest import FileRecord

NO_MEMORY = "this system has no sealed memory (memfd_create)"
_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 2, 0)  # seconds, until the kernel is asked again
_SEALS = ("F_SEAL_WRITE", "F_SEAL_GROW", "F_SEAL_SHRINK", "F_SEAL_SEAL")


@contextlib.contextmanager
def private_copies(folder: Path, records: Mapping[str, FileRecord]) -> Iterator[dict[str, Path]]:
    """Copy files into memory of their own and compare the copies with their records.

    The paths, by file name, name the copies and work only within the block; what is mapped or read
    from them then stays. No more than a record's length is ever copied.

    Raises:
        FileFormatError: a file is missing, no regular file, or not as its record says.
    """
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        held = {folder / name: _read(folder / name, record) for name, record in records.items()}
        with held_copies(held):
            yield {path.name: path for path in held}
        return
    with contextlib.ExitStack() as stack:
        paths = {}
        for name, record in records.items():
            descriptor = _new_memory(folder / name)
            stack.callback(os.close, descriptor)
            _copy(folder / name, descriptor, record)
            paths[name] = Path(f"/proc/self/fd/{descriptor}")
        yield paths


def _read(path: Path, record: FileRecord) -> bytes:
    """A file as it is in its record. Raises FileFormatError as `private_copies`."""
    with _opened(path, record) as source, _copying(path):
        data = _read_most(source, record.length)
    _compare(path, record, len(data), hashlib.sha256(data).hexdigest())
    return data


def _read_most(source: int, most: int) -> bytes:
    """The first bytes of a file, so many of them at most."""
    with os.fdopen(source, "rb", closefd=False) as file:
        return file.read(most)


def _new_memory(path: Path) -> int:
    """A descriptor of memory for a file's copy. Raises FileFormatError: the system refuses."""
    if sys.platform != "linux":
        raise UnsupportedError(NO_MEMORY)
    with _copying(path):
        return os.memfd_create("ondevice", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _copy(path: Path, descriptor: int, record: FileRecord) -> None:
    """Fill sealed memory with a file and compare it. Raises FileFormatError."""
    if sys.platform != "linux":
        raise UnsupportedError(NO_MEMORY)
    with _opened(path, record) as source, _copying(path):
        left = record.length
        while left and (sent := os.sendfile(descriptor, source, None, left)):
            left -= sent
        _seal(descriptor)
    _compare(path, record, record.length - left, _sha256(descriptor))


def _seal(descriptor: int) -> None:
    """Let nobody change memory any more.

    The kernel refuses (EBUSY) while something holds one of the pages for a moment, as its own
    reclaim of memory does; it is asked again for some seconds.

    Raises:
        OSError: it refuses.
    """
    if sys.platform != "linux":
        raise UnsupportedError(NO_MEMORY)
    import fcntl  # not on every system

    seals = functools.reduce(operator.or_, (getattr(fcntl, name) for name in _SEALS))
    for seconds in _WAITS:
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except OSError as error:
            if error.errno != errno.EBUSY or seconds == _WAITS[-1]:
                raise
            time.sleep(seconds)
        else:
            return


@contextlib.contextmanager
def _copying(path: Path) -> Iterator[None]:
    """What the system refuses meanwhile is a FileFormatError."""
    try:
        yield
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be copied: {error.strerror}") from error
    except MemoryError as error:
        raise FileFormatError(f"{path}: is too large for the memory of this machine") from error


@contextlib.contextmanager
def _opened(path: Path, record: FileRecord) -> Iterator[int]:
    """A descriptor of a regular file of a record's length. Raises FileFormatError."""
    flags = os.O_RDONLY
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"):  # opening a FIFO waits for its writer
        flags |= getattr(os, name, 0)
    try:
        source = os.open(path, flags)
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
        yield source
    finally:
        os.close(source)


def _compare(path: Path, record: FileRecord, length: int, actual: str) -> None:
    """Compare what was copied with the record. Raises FileFormatError."""
    if length != record.length or actual != record.sha256:
        raise FileFormatError(f"{path}: its SHA-256 is {actual}, its manifest says {record.sha256}")


def _sha256(descriptor: int) -> str:
    """SHA-256 of a file, in hexadecimal."""
    if not os.fstat(descriptor).st_size:
        return hashlib.sha256().hexdigest()
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped:
        return hashlib.sha256(mapped).hexdigest()
