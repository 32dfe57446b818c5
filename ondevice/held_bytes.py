"""How engines hold a model file: as private memory, or mapped where nobody else writes the file."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from ondevice.errors import FileFormatError

FileBytes = bytes | mmap.mmap
PIECE_BYTES = 8 * 2**20

_mapped: ContextVar[bool] = ContextVar("mapped", default=False)
_copies: ContextVar[Mapping[Path, bytes]] = ContextVar("copies", default=MappingProxyType({}))


@contextlib.contextmanager
def mapped_files() -> Iterator[None]:
    """Inside, files are mapped instead of read: nobody else may write them.

    For files in a temporary folder of this process, which may be larger than its memory.
    """
    token = _mapped.set(True)
    try:
        yield
    finally:
        _mapped.reset(token)


def are_mapped() -> bool:
    """Whether this runs inside `mapped_files`."""
    return _mapped.get()


@contextlib.contextmanager
def held_copies(copies: Mapping[Path, bytes]) -> Iterator[None]:
    """Inside, these bytes stand for the files at these paths, whatever is there."""
    token = _copies.set(copies)
    try:
        yield
    finally:
        _copies.reset(token)


def copy_of(path: Path) -> bytes | None:
    """The bytes that stand for a file inside `held_copies`; None: the file stands for itself."""
    return _copies.get().get(path)


def read_file(path: Path) -> FileBytes:
    """A file as private memory: nobody who truncates or overwrites it can change what was read.

    Inside `mapped_files` it is mapped; a copy that is held stands for it.

    Raises:
        FileFormatError: it cannot be read, or is too large for the memory.
    """
    if (held := copy_of(path)) is not None:
        return held
    if path.exists() and not path.is_file():  # a device or FIFO would be read for ever
        raise FileFormatError(f"{path}: cannot be read: it is no regular file")
    try:
        if not are_mapped() or path.stat().st_size == 0:
            return path.read_bytes()
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise FileFormatError(f"{path}: is too large for the memory of this machine") from error


def pieces(data: FileBytes, start: int = 0) -> Iterator[memoryview]:
    """The bytes from a place on, in pieces; a mapped file's pages are given back after each."""
    view = memoryview(data)
    for at in range(start, len(data), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]
        if isinstance(data, mmap.mmap) and sys.platform != "win32":
            first = at - at % mmap.PAGESIZE
            data.madvise(mmap.MADV_DONTNEED, first, min(PIECE_BYTES, len(data) - first))


def sha256(data: FileBytes) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces(data):
        digest.update(piece)
    return digest.hexdigest()
