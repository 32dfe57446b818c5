"""Digests inside .onnx and .tflite files, which have no checksums of their own.

A file holds the mark "ondevice-sha256:" once; behind it stand 64 hexadecimal digits: the SHA-256 of
the whole file with zeros in their place.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ondevice.errors import FileFormatError

MARK = b"ondevice-sha256:"
DIGITS = 64
UNSEALED = MARK + b"0" * DIGITS  # what a writer puts in first
_SHA256 = re.compile(rb"[0-9a-f]{64}")


def read_file(path: Path) -> bytes:
    """A file as private memory: nobody who truncates or overwrites it can change what was read.

    Raises:
        FileFormatError: it cannot be read, or is too large for the memory.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise FileFormatError(f"{path}: is too large for the memory of this machine") from error


def seal(path: Path) -> None:
    """Write the digest of a complete file behind its mark, in place of what stands there.

    Raises:
        ValueError: the mark is missing, or occurs again.
        OSError: the file cannot be read or written.
    """
    data = path.read_bytes()
    start = data.find(MARK)
    if data.count(MARK) != 1 or start + len(UNSEALED) > len(data):
        raise ValueError(
            f"{path}: expected the mark {MARK!r} and digits once, got it {data.count(MARK)} times"
        )
    start += len(MARK)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(_digest(data, start))


def check_seal(path: Path, data: bytes) -> int | None:
    """Compare a file's bytes with the digest in them.

    Args:
        path: begins the text of errors.
        data: all bytes of the file.

    Returns:
        where the digest ends; None for a file without the mark.

    Raises:
        FileFormatError: the bytes differ.
    """
    start = data.find(MARK)
    if start < 0:
        return None
    start += len(MARK)
    if data[start : start + DIGITS] != _digest(data, start):
        raise FileFormatError(f"{path}: is damaged (the SHA-256 inside differs from its bytes)")
    return start + DIGITS


def sha256_at(data: bytes, start: int) -> str | None:
    """The SHA-256 written in hexadecimal at a place in a file; None where there is none."""
    digits = data[start : start + DIGITS]
    return digits.decode() if _SHA256.fullmatch(digits) else None


def _digest(data: bytes, start: int) -> bytes:
    """The SHA-256 of a file, in hexadecimal, with zeros where the digest itself stands."""
    whole = memoryview(data)
    digest = hashlib.sha256(whole[:start])
    digest.update(b"0" * DIGITS)
    digest.update(whole[start + DIGITS :])
    return digest.hexdigest().encode()
