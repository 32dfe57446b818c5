"""Compressed files of text: gzip, xz, bzip2 and Zstandard, told by the suffix and by the bytes."""

from __future__ import annotations

import importlib
import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from ondevice.errors import MissingDependencyError

SUFFIXES = (".gz", ".xz", ".bz2", ".zst")
# How files begin that are no text, by the usual suffix of their kind.
MARKS = {
    b"\x1f\x8b": ".gz",
    b"\xfd7zXZ\x00": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"PK\x03\x04": ".zip",
    b"7z\xbc\xaf": ".7z",
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
}
_LONGEST = max(map(len, MARKS))


def damage() -> tuple[type[Exception], ...]:
    """What reading a damaged compressed file raises."""
    kinds: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    try:
        return (*kinds, importlib.import_module("lzma").LZMAError)
    except ImportError:  # Python may be built without it
        return kinds


def kind_of_bytes(raw: BinaryIO) -> str | None:
    """The usual suffix of what a file's first bytes say it is; None for text. Keeps the place."""
    start = raw.read(_LONGEST)
    raw.seek(0)
    return next((kind for mark, kind in MARKS.items() if start.startswith(mark)), None)


def decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    """The bytes of a file whose name ends in `suffix`; those of an unknown suffix as they are.

    Raises:
        MissingDependencyError: the Python that runs lacks the module for it.
    """
    opener = _OPENERS.get(suffix.lower())
    return raw if opener is None else cast(BinaryIO, opener(raw))


def _by_module(name: str, suffix: str) -> Callable[[BinaryIO], Any]:
    """What opens files by a module of the standard library that Python may be built without."""

    def opened(raw: BinaryIO) -> Any:
        try:
            return importlib.import_module(name).open(raw)
        except ImportError as error:
            raise MissingDependencyError(
                f"reading a {suffix} file needs Python's module {name!r}, which this Python lacks"
            ) from error

    return opened


def _zstandard(raw: BinaryIO) -> Any:
    """By pyarrow: other packages end quietly where a file is cut off. Raises at import."""
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError(
            "reading a .zst file needs the package 'pyarrow': pip install pyarrow"
        ) from error
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))


_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": _by_module("gzip", ".gz"),
    ".bz2": _by_module("bz2", ".bz2"),
    ".xz": _by_module("lzma", ".xz"),
    ".zst": _zstandard,
}
