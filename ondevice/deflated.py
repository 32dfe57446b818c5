"""Texts as a file stores them: their size, then a raw DEFLATE stream (RFC 1951)."""

from __future__ import annotations

import zlib

from ondevice.errors import FileFormatError
from ondevice.limits import MAX_HEADER_BYTES

SIZE_BYTES = 4
MOST_EXPANSION = 1032  # of DEFLATE: no stream stands for more bytes per byte


def deflate(data: bytes) -> bytes:
    """The size as a U32, little-endian, and the DEFLATE stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(data).to_bytes(SIZE_BYTES, "little") + packer.compress(data) + packer.flush()


def inflate(data: bytes, what: str, most: int = MAX_HEADER_BYTES) -> bytes:
    """What `deflate` was given; `what` names it in errors.

    Raises:
        FileFormatError: the stream is damaged, of another size than it says, or of more than
            `most` bytes.
    """
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    stream = data[SIZE_BYTES:]
    if size > min(most, MOST_EXPANSION * len(stream)):
        raise FileFormatError(
            f"{what}: {size} bytes are more than {most}, or cannot come from a stream of "
            f"{len(stream)}"
        )
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(stream, size + 1)
    except zlib.error as error:
        raise FileFormatError(f"{what}: not a DEFLATE stream: {error}") from error
    if len(unpacked) != size or not unpacker.eof or unpacker.unused_data:
        raise FileFormatError(f"{what}: its DEFLATE stream is not {size} bytes long, as it says")
    return unpacked
