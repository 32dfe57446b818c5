"""XXH64: raw strings and integers to 64-bit IDs, identical in Python, C and Java.

Algorithm: xxHash specification, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_P1 = 0x9E3779B185EBCA87
_P2 = 0xC2B2AE3D27D4EB4F
_P3 = 0x165667B19E3779F9
_P4 = 0x85EBCA77C2B2AE63
_P5 = 0x27D4EB2F165667C5
_MASK = 2**64 - 1


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 of `data` as an unsigned 64-bit integer; `seed` is 0..2**64-1."""
    length = len(data)
    position = 0
    if length >= 32:
        lanes = [(seed + _P1 + _P2), seed + _P2, seed, seed - _P1]
        while position + 32 <= length:
            for lane in range(4):
                start = position + 8 * lane
                word = int.from_bytes(data[start : start + 8], "little")
                lanes[lane] = _round(lanes[lane] & _MASK, word)
            position += 32
        value = sum(_rotl(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True))
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    else:
        value = seed + _P5
    value = (value + length) & _MASK
    while position + 8 <= length:
        word = int.from_bytes(data[position : position + 8], "little")
        value = (_rotl(value ^ _round(0, word), 27) * _P1 + _P4) & _MASK
        position += 8
    if position + 4 <= length:
        word = int.from_bytes(data[position : position + 4], "little")
        value = (_rotl(value ^ (word * _P1) & _MASK, 23) * _P2 + _P3) & _MASK
        position += 4
    for byte in data[position:]:
        value = (_rotl(value ^ (byte * _P5) & _MASK, 11) * _P1) & _MASK
    value = ((value ^ (value >> 33)) * _P2) & _MASK
    value = ((value ^ (value >> 29)) * _P3) & _MASK
    return value ^ (value >> 32)


def hash_string(text: str, seed: int = 0) -> int:
    """XXH64 of the UTF-8 bytes of `text`, as a signed 64-bit integer."""
    value = xxh64(text.encode("utf-8"), seed)
    return value - 2**64 if value >= 2**63 else value


def hash_int64(values: npt.NDArray[np.int64], seed: int = 0) -> npt.NDArray[np.int64]:
    """XXH64 of each integer's 8 little-endian bytes, element by element, as int64."""
    words = np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)
    p1, p2, p3, p4 = (np.uint64(p) for p in (_P1, _P2, _P3, _P4))
    with np.errstate(over="ignore"):
        mixed = _rotl_array(words * p2, 31) * p1
        value = np.uint64((seed + _P5 + 8) & _MASK) ^ mixed
        value = _rotl_array(value, 27) * p1 + p4
        value = (value ^ (value >> np.uint64(33))) * p2
        value = (value ^ (value >> np.uint64(29))) * p3
    return (value ^ (value >> np.uint64(32))).view(np.int64)


def _rotl(value: int, turn: int) -> int:
    return ((value << turn) | (value >> (64 - turn))) & _MASK


def _rotl_array(values: npt.NDArray[np.uint64], turn: int) -> npt.NDArray[np.uint64]:
    return (values << np.uint64(turn)) | (values >> np.uint64(64 - turn))


def _round(lane: int, word: int) -> int:
    return (_rotl((lane + word * _P2) & _MASK, 31) * _P1) & _MASK
