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
MAX_LINE = 2**24  # bytes; a small compressed file may hold an endless line
_BLOCK = 2**16  # bytes that are read at once


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


def decompressed(raw: BinaryIO, suffix: str, *, closes: bool = False) -> BinaryIO:
    """The bytes of a text file whose name ends in `suffix`, as they are where it is unknown.

    Reading raises one of `damage()` where the file is cut off, has bytes behind its end, or has a
    line of more than MAX_LINE bytes.

    Args:
        raw: the file.
        suffix: of its name.
        closes: whether closing what is returned closes `raw`.

    Raises:
        MissingDependencyError: the Python that runs lacks the module for it.
    """
    opener = _OPENERS.get(suffix.lower())
    bounded = _BoundedLines(raw if opener is None else opener(raw), raw, closes)
    return cast(BinaryIO, io.BufferedReader(bounded, _BLOCK))


class _BoundedLines(io.RawIOBase):
    """Bytes of text; reading raises OSError in a line of more than MAX_LINE bytes."""

    def __init__(self, source: BinaryIO, file: BinaryIO, closes: bool) -> None:
        self.name = getattr(file, "name", "the input")  # for messages
        self._source = source
        self._closed_with = file if closes else None
        self._line = 0  # bytes of the last line so far

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        end = data.rfind(b"\n")
        if end < 0:
            end = data.rfind(b"\r")
        self._line = self._line + len(data) if end < 0 else len(data) - end - 1
        if self._line > MAX_LINE:
            raise OSError(f"expected lines of up to {MAX_LINE:,} bytes, got a longer one")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        super().close()
        if self._closed_with is not None:
            self._closed_with.close()


class _Streams(io.RawIOBase):
    """The bytes of compressed streams, one after the other, and nothing behind the last one.

    The modules' own files take what follows a stream and is none for its end: the rest of a log
    whose second stream is damaged would be lost without a word.
    """

    def __init__(self, raw: BinaryIO, decompressor: Callable[[], Any]) -> None:
        self._raw = raw
        self._new = decompressor
        self._stream = decompressor()
        self._ended = True  # between two streams, where the file may end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stream.eof:
                rest, self._stream, self._ended = self._stream.unused_data, self._new(), True
            else:
                rest = b""
            if not rest and (self._ended or self._stream.needs_input):
                rest = self._raw.read(_BLOCK)
                if not rest and self._ended:
                    return 0
                if not rest:
                    raise EOFError("the compressed file ends within a stream")
            self._ended = False
            data = self._stream.decompress(rest, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)


def _by_module(name: str, suffix: str) -> Callable[[BinaryIO], Any]:
    """What opens files by a module of the standard library that Python may be built without."""

    def opened(raw: BinaryIO) -> Any:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise MissingDependencyError(
                f"reading a {suffix} file needs Python's module {name!r}, which this Python lacks"
            ) from error
        if name == "gzip":  # refuses what follows the last stream by itself
            return module.open(raw)
        decompressor = module.LZMADecompressor if name == "lzma" else module.BZ2Decompressor
        return io.BufferedReader(_Streams(raw, decompressor), _BLOCK)

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
