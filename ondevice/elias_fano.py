"""Elias-Fano coding: ascending numbers in about 2 + log2(range / count) bits each.

Each number of `bits` bits has floor(log2(count)) high bits, as far as it has them, and low bits.
The code is the low bits of all numbers, one after another from the lowest bit on, filled up with
zeros to a whole byte; then a bit for every place, of which number i with the high bits h sets the
one at h + i.

P. Elias, Efficient storage and retrieval by content and address of static files, J. ACM 1974.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError

UnsignedArray = npt.NDArray[np.uint64]
CHUNK = 1 << 16  # numbers that are unpacked at a time, a multiple of 8


def encode(numbers: UnsignedArray, bits: int) -> bytes:
    """The code of strictly ascending numbers uint64 [count], all below 2**bits."""
    count = len(numbers)
    if not count:
        return b""
    low, places = _split(count, bits)
    parts = []
    if low:
        for start in range(0, count, CHUNK):
            chunk = numbers[start : start + CHUNK, None] >> np.arange(low, dtype=np.uint64)
            parts.append(np.packbits((chunk & np.uint64(1)).astype(np.uint8), bitorder="little"))
    high = np.zeros(places, np.uint8)
    high[_shifted(numbers, low).astype(np.int64) + np.arange(count)] = 1
    parts.append(np.packbits(high, bitorder="little"))
    return b"".join(part.tobytes() for part in parts)


def decode(data: bytes, count: int, bits: int) -> UnsignedArray:
    """The numbers uint64 [count] of a code; they ascend, but equal ones may follow each other.

    Raises:
        FileFormatError: `data` is no code of `count` numbers of 1..64 bits.
    """
    if len(data) != code_bytes(count, bits):
        raise FileFormatError(
            f"Elias-Fano code of {count} numbers of {bits} bits: expected "
            f"{code_bytes(count, bits)} bytes, got {len(data)}"
        )
    if not count:
        return np.empty(0, np.uint64)
    low, places = _split(count, bits)
    low_bytes = (count * low + 7) // 8
    high = np.unpackbits(np.frombuffer(data, np.uint8, offset=low_bytes), bitorder="little")
    ones = np.flatnonzero(high)
    if len(ones) != count or ones[-1] >= places:
        raise FileFormatError(f"Elias-Fano code: expected {count} set bits, got {len(ones)}")
    numbers = (ones - np.arange(count)).astype(np.uint64)
    if not low:
        return numbers
    if low < 64:  # a shift by 64 is no shift
        numbers <<= np.uint64(low)
    packed = np.frombuffer(data, np.uint8, low_bytes)
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        chunk = packed[start * low // 8 :]
        unpacked = np.unpackbits(chunk, count=length * low, bitorder="little")
        weights = np.uint64(1) << np.arange(low, dtype=np.uint64)
        numbers[start : start + length] |= unpacked.reshape(length, low).astype(np.uint64) @ weights
    return numbers


def code_bytes(count: int, bits: int) -> int:
    """Bytes of a code of `count` numbers of `bits` bits."""
    if not count:
        return 0
    low, places = _split(count, bits)
    return (count * low + 7) // 8 + (places + 7) // 8


def _split(count: int, bits: int) -> tuple[int, int]:
    """Low bits of each of `count` > 0 numbers, and places for the high ones."""
    high = min(count.bit_length() - 1, bits)
    return bits - high, count + (1 << high) - 1


def _shifted(numbers: UnsignedArray, bits: int) -> UnsignedArray:
    return numbers >> np.uint64(bits) if bits < 64 else np.zeros_like(numbers)
