"""Digests inside .onnx and .tflite files, which have no checksums of their own.

A file holds the mark "ondevice-sha256:" once; behind it stand 64 hexadecimal digits: the SHA-256 of
the whole file with zeros in their place.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ondevice.errors import FileFormatError
from ondevice.held_bytes import FileBytes, pieces, read_file

MARK = b"ondevice-sha256:"
DIGITS = 64
UNSEALED = MARK + b"0" * DIGITS  # what a writer puts in first
_SHA256 = re.compile(rb"[0-9a-f]{64}")


def seal(path: Path) -> None:
    """Write the digest of a complete file behind its mark, in place of what stands there.

    Raises:
        ValueError: the mark is missing.
        FileFormatError, OSError: the file cannot be read or written.
    """
    data = read_file(path)
    start = data.find(MARK)
    if start < 0 or start + len(UNSEALED) > len(data):
        raise ValueError(f"{path}: expected the mark {MARK!r} with digits behind it")
    start += len(MARK)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(_digest(data, start))


def check_seal(path: Path, data: FileBytes) -> int | None:
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


def sha256_at(data: FileBytes, start: int) -> str | None:
    """The SHA-256 written in hexadecimal at a place in a file; None where there is none."""
    digits = data[start : start + DIGITS]
    return digits.decode() if _SHA256.fullmatch(digits) else None


def _digest(data: FileBytes, start: int) -> bytes:
    """The SHA-256 of a file, in hexadecimal, with zeros where the digest itself stands."""
    digest = hashlib.sha256(data[:start])
    digest.update(b"0" * DIGITS)
    for piece in pieces(data, start + DIGITS):
        digest.update(piece)
    return digest.hexdigest().encode()
