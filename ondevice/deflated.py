"""Texts as a file stores them: their size, then a raw DEFLATE stream (RFC 1951)."""

from __future__ import annotations

import zlib

from ondevice.errors import FileFormatError
from ondevice.limits import MAX_HEADER_BYTES

SIZE_BYTES = 4
MOST_EXPANSION = 1032  # of DEFLATE: no stream stands for more bytes per byte


def deflate(*parts: bytes) -> bytes:
    """The size of all parts as a U32, little-endian, and the DEFLATE stream of them.

    Each part begins at a whole byte and refers to no other: one that stays the same from one model
    to the next then has the same bytes, and a delta copies them.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b""
    for number, part in enumerate(parts):
        packed += packer.flush(zlib.Z_FULL_FLUSH) if number else b""
        packed += packer.compress(part)
    return sum(map(len, parts)).to_bytes(SIZE_BYTES, "little") + packed + packer.flush()


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
