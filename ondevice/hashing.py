"""XXH64: raw strings and integers to 64-bit IDs, identical in Python, C and Java.

Algorithm: xxHash specification, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md.
Columns are hashed by the compiled module; where there is none, by the package xxhash, or else by
Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError

try:
    from ondevice import _native

    COMPILED = True
except ImportError:
    COMPILED = False

IdArray = npt.NDArray[np.int64]
StateArray = npt.NDArray[np.uint8]

HASHED, MISSING, UNREAD = 0, 1, 2  # states of a value

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


def _fastest_digest() -> Callable[[bytes, int], int]:
    """XXH64 of bytes with a seed, unsigned."""
    if COMPILED:
        return _native.xxh64
    try:
        from xxhash import xxh64_intdigest
    except ImportError:
        return xxh64
    return xxh64_intdigest


_digest = _fastest_digest()


def hash_string(text: str, seed: int = 0) -> int:
    """XXH64 of the UTF-8 bytes of `text`, as a signed 64-bit integer."""
    value = _digest(text.encode("utf-8"), seed)
    return value - 2**64 if value >= 2**63 else value


def hash_texts(texts: Sequence[str], seed: int = 0) -> IdArray:
    """XXH64 of the UTF-8 bytes of each text, as int64 [len(texts)].

    Raises:
        InputError: an element is no text, or has lone surrogates; it names the position.
    """
    listed = texts if isinstance(texts, list) else list(texts)
    hashes, states, unhashed = hash_values(listed, seed, ())
    if unhashed:
        number = int(states.argmax())
        if isinstance(listed[number], str):
            raise InputError(f"the text at {number} is not valid Unicode")
        raise InputError(f"expected texts, got {type(listed[number]).__name__} at {number}")
    return hashes


def hash_values(
    values: list[Any], seed: int, missing: tuple[str | None, ...]
) -> tuple[IdArray, StateArray, int]:
    """XXH64 of the texts among `values`; the elements of `missing` stand for no value.

    Returns:
        int64 [n], the hashes, 0 of what is not hashed; uint8 [n], HASHED, MISSING, or UNREAD for
        what is no text or not valid Unicode; and how many are not HASHED.
    """
    hashes = np.empty(len(values), dtype=np.int64)
    states = np.empty(len(values), dtype=np.uint8)
    if COMPILED:
        return hashes, states, _native.hash_texts(values, seed, missing, hashes, states)
    return hashes, states, _hash_values_in_python(values, seed, missing, hashes, states)


def _hash_values_in_python(
    values: list[Any],
    seed: int,
    missing: tuple[str | None, ...],
    hashes: IdArray,
    states: StateArray,
) -> int:
    """As the compiled `hash_texts`; every distinct text is hashed once."""
    known: dict[str | None, tuple[int, int]] = dict.fromkeys(missing, (0, MISSING))
    for number, value in enumerate(values):
        if isinstance(value, str) and value not in known:
            try:
                known[value] = hash_string(value, seed), HASHED
            except UnicodeEncodeError:
                known[value] = 0, UNREAD
        is_known = value is None or isinstance(value, str)
        hashes[number], states[number] = known.get(value, (0, UNREAD)) if is_known else (0, UNREAD)
    return int(np.count_nonzero(states))


def hash_int64(values: npt.NDArray[np.int64], seed: int = 0) -> IdArray:
    """XXH64 of each integer's 8 little-endian bytes, element by element, as int64."""
    whole = np.ascontiguousarray(values, dtype=np.int64)
    if not COMPILED:
        return _hash_int64_in_python(whole, seed)
    hashes = np.empty_like(whole)
    _native.hash_integers(whole, seed, hashes)
    return hashes


def _hash_int64_in_python(values: IdArray, seed: int) -> IdArray:
    """As `hash_int64`, by operations of numpy on the whole array."""
    words = values.view(np.uint64)
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
