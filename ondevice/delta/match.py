"""Finds stretches of a new file in an old one, at any bit: rows of narrow codes begin anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ondevice.delta.apply import shifted

WINDOW = 8  # bytes that must be equal for a match to begin
LOOK = 32  # bytes: a match goes on while at least half of the next ones are equal
MOST_BACK = 4096  # bytes that a match is searched back from its seed
LEAST = 12  # bytes of a match; a shorter one costs as much as it saves
# Up to so many bytes old data is searched at every bit, beyond at every byte: the table of its
# windows takes 128 bytes a byte.
BIT_SEARCH_BYTES = 2**22

Bytes = npt.NDArray[np.uint8]


class Match(NamedTuple):
    """Bytes start..stop of the new data are nearly those of the old data from bit `place` on."""

    start: int
    stop: int
    place: int


class Windows:
    """All windows of WINDOW bytes of stretches of an old file, to be searched."""

    def __init__(self, old: Bytes, stretches: Sequence[tuple[int, int]]) -> None:
        """Sort the windows; takes a second per million bytes.

        Args:
            old: the whole file; matches may go on beyond the stretches.
            stretches: first byte and end of each, without overlaps.
        """
        self._old = old
        total = sum(stop - start for start, stop in stretches)
        keys, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for start, stop in stretches:
            for shift in range(8 if total <= BIT_SEARCH_BYTES else 1):
                keys.append(_keys(shifted(old[start:stop], shift)))
                places.append(8 * (start + np.arange(keys[-1].size)) + shift)
        joined, where = np.concatenate(keys), np.concatenate(places)
        order = np.argsort(joined, kind="stable")
        joined, where = joined[order], where[order]
        # where windows are equal, as zeros are, none says where the data comes from
        single = np.ones(joined.size, bool)
        same = joined[1:] == joined[:-1]
        single[1:] &= ~same
        single[:-1] &= ~same
        self._keys, self._places = joined[single], where[single]

    def matches(self, new: Bytes) -> list[Match]:
        """Matches in ascending order, without overlaps; what lies between them is new."""
        seeds, places = self._seeds(new)
        matches: list[Match] = []
        done = at = 0
        while (at := int(np.searchsorted(seeds, max(done, at)))) < seeds.size:
            seed, place = int(seeds[at]), int(places[at])
            start = self._start(new, seed, place, done)
            stop = self._stop(new, seed, place)
            if stop - start >= LEAST:
                matches.append(Match(start, stop, place - 8 * (seed - start)))
                done = stop
            at = max(seed + 1, done)
        return matches

    def _seeds(self, new: Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Bytes of the new data where a window of the old begins, and the bits where it lies."""
        keys = _keys(new)
        if not self._keys.size or not keys.size:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
        seeds = np.flatnonzero(self._keys[at] == keys)
        return seeds, self._places[at[seeds]]

    def _stop(self, new: Bytes, seed: int, place: int) -> int:
        """Where a match that begins at a seed ends: before more than half of LOOK bytes differ."""
        size = min(new.size - seed, (8 * self._old.size - place) // 8)
        position = WINDOW
        while position < size:
            step = min(LOOK, size - position)
            before = read_bits(self._old, place + 8 * position, step)
            equal = new[seed + position : seed + position + step] == before
            if 2 * int(equal.sum()) < step:
                return seed + position + _worth(equal)
            position += step
        return seed + size

    def _start(self, new: Bytes, seed: int, place: int, done: int) -> int:
        """Where a match begins: as far back as bytes are equal, but not before `done`."""
        size = min(seed - done, place // 8, MOST_BACK)
        before = read_bits(self._old, place - 8 * size, size)
        differ = np.flatnonzero(new[seed - size : seed] != before)
        return seed - size + (int(differ[-1]) + 1 if differ.size else 0)


def read_bits(old: Bytes, place: int, size: int) -> Bytes:
    """`size` bytes from a bit on, the lowest bit of a byte first."""
    first, shift = place // 8, place % 8
    return shifted(old[first : first + size + bool(shift)], shift)[:size]


def _worth(equal: npt.NDArray[np.bool_]) -> int:
    """How many of the next bytes to take: as far as most are equal."""
    gain = np.cumsum(np.where(equal, 1, -1))
    best = int(gain.argmax())
    return best + 1 if gain[best] > 0 else 0


def _keys(data: Bytes) -> npt.NDArray[np.uint64]:
    """Every window of WINDOW bytes as a number."""
    if data.size < WINDOW:
        return np.empty(0, np.uint64)
    keys = np.zeros(data.size - WINDOW + 1, np.uint64)
    for i in range(WINDOW):
        keys |= data[i : data.size - WINDOW + 1 + i].astype(np.uint64) << np.uint64(8 * i)
    return keys
