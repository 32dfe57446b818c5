"""Applies a delta file: streams the old file and the delta to the new one, a block at a time."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ondevice.delta.layout import (
    BLOCK_HEADER_BYTES,
    HEADER_BYTES,
    UNIT,
    BlockHeader,
    Header,
    Kind,
    Operation,
    Reader,
    sparse_differences,
)
from ondevice.errors import BaseMismatchError, FileFormatError
from ondevice.limits import MAX_DELTA_BYTES

COPIED_BYTES = MAX_DELTA_BYTES  # at once

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Delta:
    """The beginning of a delta file.

    Attributes:
        manifest: the new set's manifest.json; empty: none.
    """

    header: Header
    manifest: bytes


def read_delta(file: BinaryIO, where: str) -> Delta:
    """Read the header and the manifest. Raises FileFormatError that begins with `where`."""
    header = Header.from_bytes(file.read(HEADER_BYTES), where)
    manifest = file.read(header.manifest_bytes)
    if len(manifest) != header.manifest_bytes:
        raise FileFormatError(f"{where}: cut off within the manifest")
    return Delta(header, manifest)


def check_base(header: Header, old: BinaryIO, old_name: str, where: str) -> None:
    """Check that a file is the one that a delta was computed from; leaves it at its end.

    Raises:
        BaseMismatchError: another length or SHA-256.
    """
    size = old.seek(0, 2)
    if size != header.old_bytes:
        raise BaseMismatchError(
            f"{old_name}: has {size} bytes; {where} changes a file of {header.old_bytes}"
        )
    digest = hashlib.sha256()
    old.seek(0)
    while part := old.read(COPIED_BYTES):
        digest.update(part)
    if digest.digest() != header.old_sha256:
        raise BaseMismatchError(
            f"{old_name}: its SHA-256 is {digest.hexdigest()}; {where} changes a file of "
            f"{header.old_sha256.hex()}"
        )


def apply_delta(delta: BinaryIO, old: BinaryIO, new: BinaryIO, names: tuple[str, str]) -> Delta:
    """Write the new file. It is complete and right only if this returns.

    Memory: less than 1 MiB, whatever the sizes of the files.

    Args:
        delta: at its first byte.
        old: the file that the delta was computed from; it is read at any place.
        new: written from its first byte on.
        names: of the delta and of the old file, for errors.

    Raises:
        BaseMismatchError: `old` is another file.
        FileFormatError: the delta is damaged, or what it makes is not what it says.
    """
    where, old_name = names
    start = read_delta(delta, where)
    check_base(start.header, old, old_name, where)
    digest = hashlib.sha256()
    reader = Reader(start.header, where)
    while reader.left:
        block = BlockHeader.from_bytes(delta.read(BLOCK_HEADER_BYTES), where)
        codes, data = _inflated(delta.read(block.packed), block, where)
        for operation, used in reader.operations(codes, data):
            for part in _new_bytes(operation, old, used, old_name):
                digest.update(part)
                new.write(part)
    if delta.read(1):
        raise FileFormatError(f"{where}: bytes follow the last block")
    if digest.digest() != start.header.new_sha256:
        raise FileFormatError(
            f"{where}: damaged: it makes a file whose SHA-256 is {digest.hexdigest()}, and says "
            f"{start.header.new_sha256.hex()}"
        )
    return start


def _inflated(packed: bytes, block: BlockHeader, where: str) -> tuple[bytes, Bytes]:
    """Operations and data of a block. Raises FileFormatError."""
    size = block.codes + block.data
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        raw = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise FileFormatError(f"{where}: not a DEFLATE stream: {error}") from error
    if len(raw) != size or not unpacker.eof or unpacker.unused_data or len(packed) != block.packed:
        raise FileFormatError(f"{where}: a block is not {size} bytes long, as it says")
    return raw[: block.codes], np.frombuffer(raw, np.uint8)[block.codes :]


def _new_bytes(operation: Operation, old: BinaryIO, data: Bytes, old_name: str) -> Iterator[bytes]:
    """The bytes that an operation makes, in pieces; `data`: its part of the block's."""
    if operation.kind == Kind.NEW:
        yield data.tobytes()
        return
    if operation.kind == Kind.SPARSE:
        data = sparse_differences(data, operation.size)
    for start in range(0, operation.size, COPIED_BYTES):
        size = min(COPIED_BYTES, operation.size - start)
        part = _read_bits(old, operation.place + 8 * start, size, old_name)
        yield part if operation.kind == Kind.COPY else _changed(operation.kind, part, data)


def _read_bits(old: BinaryIO, place: int, size: int, old_name: str) -> bytes:
    """`size` bytes of a file from a bit on, the lowest bit of a byte first."""
    shift = place % 8
    old.seek(place // 8)
    wanted = size + bool(shift)
    part = old.read(wanted)
    if len(part) != wanted:
        raise BaseMismatchError(f"{old_name}: became shorter while it was read")
    return shifted(np.frombuffer(part, np.uint8), shift)[:size].tobytes()


def _changed(kind: Kind, part: bytes, data: Bytes) -> bytes:
    """Bytes of the old file and the data of an operation, both whole, as the new bytes."""
    before = np.frombuffer(part, np.uint8)
    if kind in (Kind.ADD, Kind.SPARSE):
        return (before + data).tobytes()
    if kind == Kind.XOR:
        return (before ^ data).tobytes()
    unit = UNIT[kind]
    dtype = np.dtype(f"<u{unit}")
    zigzag = np.ascontiguousarray(data.reshape(unit, -1).T).view(dtype).reshape(-1)
    differences = (zigzag >> dtype.type(1)) ^ (dtype.type(0) - (zigzag & dtype.type(1)))
    after: Bytes = (before.view(dtype) + differences).astype(dtype)
    return after.tobytes()


def shifted(data: Bytes, shift: int) -> Bytes:
    """Bytes that begin `shift` bits (0 to 7) later, one fewer unless `shift` is 0."""
    if shift == 0:
        return data
    return (data[:-1] >> np.uint8(shift)) | (data[1:] << np.uint8(8 - shift))
