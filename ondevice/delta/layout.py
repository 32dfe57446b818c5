"""The bytes of a .odd file: its header, and blocks of operations that make a new file of an old.

Little-endian, in order:

    8 bytes   "ondelta1"
    u64 u64   bytes of the old file, and of the new one
    32 32     their SHA-256
    u32       bytes of the new set's manifest that follow the header; 0: none
    blocks    until the new file is complete; nothing follows the last

A block is three u32 (bytes of its operations, of their data, and of both deflated) and a raw
DEFLATE stream of the operations and then the data. An operation is a number, size * 16 + moved * 8
+ kind; if `moved` is 1, a second number (zigzag) says how many bits of the old file its first bit
lies behind the end of what the operation before it read: rows of 3 bits a value begin anywhere.
Numbers are LEB128: 7 bits a byte, the lowest first. Every operation makes `size` bytes of the new
file, by its kind:

    COPY      those of the old file
    ADD       those of the old file plus those of the data, modulo 256
    XOR       those of the old file, exclusive or those of the data
    NEW       those of the data; the old file is not read, so `moved` is 0
    WORDS     32-bit numbers of the old file plus differences
    HALVES    the same with 16 bits
    SPARSE    those of the old file plus differences modulo 256, most of which are 0

Differences of numbers are zigzag numbers; the data has the lowest bytes of all of them, then the
next bytes. Data of SPARSE are codes, then bytes. A code c below 255 stands for c // 3 bytes of
difference 0 and one of difference 1, of 255, or of the next of the bytes behind the codes, where
c % 3 is 0, 1 or 2; 255 stands for 85 of difference 0, or as many as the operation still has, which
is of at most 65,536 bytes. So a changed byte and its distance take one symbol of DEFLATE.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError
from ondevice.limits import (
    MAX_DELTA_ADDED,
    MAX_DELTA_BYTES,
    MAX_DELTA_GROWTH,
    MAX_MANIFEST_BYTES,
)

MAGIC = b"ondelta1"
LONG_RUN = 255  # the code of SPARSE without a difference of its own
ZEROS = LONG_RUN // 3  # that it stands for
HEADER_BYTES = 92
BLOCK_HEADER_BYTES = 12
MOST_OVERHEAD = 1024  # of DEFLATE where nothing shrinks, in blocks of at most 2 * MAX_DELTA_BYTES
NUMBER_BYTES = 9  # of 7 bits
LARGEST = 2**58 - 1  # bytes of a file: places of bits and sums of two still fit into 63 bits


Bytes = npt.NDArray[np.uint8]


class Kind(enum.IntEnum):
    """What an operation does; see the module text."""

    COPY = 0
    ADD = 1
    XOR = 2
    NEW = 3
    WORDS = 4
    HALVES = 5
    SPARSE = 6


# Bytes of the numbers that a kind's size must be a multiple of.
UNIT = {Kind.WORDS: 4, Kind.HALVES: 2}


class Operation(NamedTuple):
    """One operation: `size` bytes of the new file, from bit `place` of the old one on."""

    kind: Kind
    size: int
    place: int


@dataclass(frozen=True)
class Header:
    """The beginning of a .odd file; hashes are the 32 bytes of SHA-256."""

    old_bytes: int
    new_bytes: int
    old_sha256: bytes
    new_sha256: bytes
    manifest_bytes: int = 0

    def to_bytes(self) -> bytes:
        """The first HEADER_BYTES of the file."""
        sizes = self.old_bytes.to_bytes(8, "little") + self.new_bytes.to_bytes(8, "little")
        hashes = self.old_sha256 + self.new_sha256
        return MAGIC + sizes + hashes + self.manifest_bytes.to_bytes(4, "little")

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Header:
        """Read a header. Raises FileFormatError that begins with `where`."""
        if len(data) != HEADER_BYTES or data[:8] != MAGIC:
            raise FileFormatError(f"{where}: not a delta file (.odd), or cut off")
        old, new = (int.from_bytes(data[at : at + 8], "little") for at in (8, 16))
        manifest = int.from_bytes(data[88:92], "little")
        most = min(LARGEST, MAX_DELTA_GROWTH * old + MAX_DELTA_ADDED)
        if old > LARGEST or new > most or manifest > MAX_MANIFEST_BYTES:
            raise FileFormatError(
                f"{where}: {new} bytes from a file of {old}, with a manifest of {manifest}: more "
                f"than {most} or {MAX_MANIFEST_BYTES}"
            )
        return cls(old, new, data[24:56], data[56:88], manifest)


@dataclass(frozen=True)
class BlockHeader:
    """Bytes of a block's operations and data, and of the DEFLATE stream of both."""

    codes: int
    data: int
    packed: int

    def to_bytes(self) -> bytes:
        """The BLOCK_HEADER_BYTES before the stream."""
        sizes = (self.codes, self.data, self.packed)
        return b"".join(size.to_bytes(4, "little") for size in sizes)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> BlockHeader:
        """Read a block's header. Raises FileFormatError: cut off, or more than a limit allows."""
        if len(data) != BLOCK_HEADER_BYTES:
            raise FileFormatError(f"{where}: cut off: the new file is not complete")
        codes, data_bytes, packed = (
            int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8)
        )
        if (
            not 1 <= codes <= MAX_DELTA_BYTES
            or data_bytes > MAX_DELTA_BYTES
            or not 1 <= packed <= codes + data_bytes + MOST_OVERHEAD
        ):
            raise FileFormatError(
                f"{where}: a block of {codes} + {data_bytes} bytes in a stream of {packed}: at "
                f"most {MAX_DELTA_BYTES} each, and {MOST_OVERHEAD} more in the stream"
            )
        return cls(codes, data_bytes, packed)


def number_bytes(number: int) -> bytes:
    """A number from 0 to LARGEST as an operation stores it."""
    stored = bytearray()
    while number >= 0x80:
        stored.append(number & 0x7F | 0x80)
        number >>= 7
    stored.append(number)
    return bytes(stored)


def zigzag(number: int) -> int:
    """Numbers near zero, of either sign, as small numbers without a sign."""
    return 2 * number if number >= 0 else -2 * number - 1


def operation_bytes(operation: Operation, place: int) -> bytes:
    """An operation as a block stores it; `place`: where the one before it stopped reading."""
    moved = 0 if operation.kind == Kind.NEW else operation.place - place
    first = number_bytes(operation.size << 4 | bool(moved) << 3 | operation.kind)
    return first + number_bytes(zigzag(moved)) if moved else first


def sparse_codes(data: Bytes, size: int) -> tuple[Bytes, int]:
    """The codes that data of SPARSE begins with, for `size` bytes, and how many they stand for."""
    steps = np.where(data == LONG_RUN, ZEROS, data // 3 + np.uint8(1))
    ends = np.cumsum(steps, dtype=np.int64)
    count = min(int(np.searchsorted(ends, size)) + 1, data.size)
    return data[:count], int(ends[count - 1]) if count else 0


def sparse_differences(data: Bytes, size: int) -> Bytes:
    """The `size` differences that data of SPARSE, whole and checked, stands for."""
    codes, _ = sparse_codes(data, size)
    differs = codes != LONG_RUN
    ends = np.cumsum(np.where(differs, codes // 3 + np.uint8(1), ZEROS), dtype=np.int64)
    values = np.array([1, 255, 0], np.uint8)[codes % 3]
    values[differs & (codes % 3 == 2)] = data[codes.size :]
    differences = np.zeros(size, np.uint8)
    differences[ends[differs] - 1] = values[differs]
    return differences


class Reader:
    """Reads the operations of all blocks, one block after another, and checks each."""

    def __init__(self, header: Header, where: str) -> None:
        """Begin at the first byte of both files; `where` begins the text of errors."""
        self.left = header.new_bytes
        self._old_bits = 8 * header.old_bytes
        self._place = 0
        self._where = where

    def operations(self, codes: bytes, data: Bytes) -> Iterator[tuple[Operation, Bytes]]:
        """The operations of a block, each with its part of the block's data.

        Raises:
            FileFormatError: an unknown kind, a size that is not of whole numbers, an operation
                outside one of the files or of the data, data that no operation uses.
        """
        at = used = 0
        while at < len(codes):
            first, at = self._number(codes, at)
            size, kind = first >> 4, self._kind(first & 7)
            if first & 8:
                moved, at = self._number(codes, at)
                if kind == Kind.NEW:
                    self._refuse("an operation moves in the old file, but does not read it")
                self._place += moved // 2 if moved % 2 == 0 else -(moved // 2) - 1
            self._check(kind, size)
            stop = used + self._data_bytes(kind, size, data[used:])
            if stop > data.size:
                self._refuse("the operations of a block use more than its data")
            yield Operation(kind, size, self._place), data[used:stop]
            used = stop
            self._place += 0 if kind == Kind.NEW else 8 * size
            self.left -= size
        if used < data.size:
            self._refuse(f"no operation of a block uses {data.size - used} bytes of its data")

    def _data_bytes(self, kind: Kind, size: int, data: Bytes) -> int:
        """How many bytes of the data an operation uses; more than there are where it is damaged."""
        if kind == Kind.COPY:
            return 0
        if kind != Kind.SPARSE:
            return size
        codes, bytes_made = sparse_codes(data, size)
        if bytes_made < size:
            return data.size + 1
        if bytes_made > size and codes[-1] != LONG_RUN:
            self._refuse("a difference leaves its operation")
        return codes.size + int((codes[codes != LONG_RUN] % 3 == 2).sum())

    def _check(self, kind: Kind, size: int) -> None:
        place = self._place
        if not 1 <= size <= self.left:
            self._refuse(f"an operation of {size} bytes, where the new file lacks {self.left}")
        if kind != Kind.NEW and not 0 <= place <= self._old_bits - 8 * size:
            self._refuse(
                f"an operation reads {size} bytes from bit {place} on of the old file, which has "
                f"{self._old_bits} bits"
            )
        if kind == Kind.SPARSE and size > MAX_DELTA_BYTES:
            self._refuse(f"{size} bytes of differences; an operation has at most {MAX_DELTA_BYTES}")
        if size % UNIT.get(kind, 1):
            self._refuse(f"{size} bytes are not a whole number of {UNIT[kind]} bytes each")

    def _number(self, codes: bytes, at: int) -> tuple[int, int]:
        number = 0
        for i in range(NUMBER_BYTES):
            if at + i == len(codes):
                break
            number |= (codes[at + i] & 0x7F) << 7 * i
            if codes[at + i] < 0x80:
                return number, at + i + 1
        return self._refuse(f"a number is cut off, or has more than {NUMBER_BYTES} bytes")

    def _kind(self, number: int) -> Kind:
        if number > max(Kind):
            self._refuse(f"an operation of the unknown kind {number}")
        return Kind(number)

    def _refuse(self, reason: str) -> NoReturn:
        raise FileFormatError(f"{self._where}: {reason}")
