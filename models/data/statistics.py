"""Exact statistics of columns that merge: counts of values, and order statistics of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ondevice.features import PADDING_ID
from ondevice.raw_values import FloatArray

IdArray = npt.NDArray[np.int64]
CHUNK = 1 << 20  # values looked at at once, so that a mapped column is never in memory as a whole
BINS = 1 << 16
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class ValueCounts:
    """How often each value occurs: `values` ascending int64 [m], `counts` int64 [m]."""

    values: IdArray = field(default_factory=lambda: np.empty(0, np.int64))
    counts: IdArray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, values: IdArray) -> ValueCounts:
        """Counts of an array of any shape; PADDING_ID, a missing value, is left out."""
        state = cls()
        pending: list[ValueCounts] = []
        for chunk in chunks(values.reshape(-1)):
            distinct, counts = np.unique(chunk, return_counts=True)
            present = distinct != PADDING_ID
            pending.append(cls(distinct[present], counts[present].astype(np.int64)))
            # merging only what is as large as the rest keeps the work near-linear
            if sum(len(item.values) for item in pending) >= max(len(state.values), CHUNK):
                state, pending = cls.merged([state, *pending]), []
        return cls.merged([state, *pending])

    @classmethod
    def merged(cls, parts: Sequence[ValueCounts]) -> ValueCounts:
        """The counts of all parts; their order does not matter."""
        filled = [part for part in parts if len(part.values)]
        if len(filled) < 2:
            return filled[0] if filled else cls()
        values = np.concatenate([part.values for part in filled])
        order = np.argsort(values, kind="stable")  # runs that are sorted already: a merge
        values = values[order]
        counts = np.concatenate([part.counts for part in filled])[order]
        first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        return cls(values[first], np.add.reduceat(counts, first).astype(np.int64))

    def at_least(self, count: int) -> IdArray:
        """The values that occur `count` times or more, ascending int64."""
        return self.values[self.counts >= count]


@dataclass(frozen=True)
class NumberSummary:
    """What the first pass over numbers finds: enough to know which bins hold wanted ranks.

    Attributes:
        bins: int64 [BINS], how many finite numbers have these top 16 bits of the ordered key.
        low, high: the smallest and the largest finite number; infinities where there is none.
    """

    bins: IdArray
    low: float = np.inf
    high: float = -np.inf

    @classmethod
    def of(cls, numbers: FloatArray) -> NumberSummary:
        """The summary of float64 [n]; what is not finite is left out."""
        bins = np.zeros(BINS, np.int64)
        low, high = np.inf, -np.inf
        for chunk in _finite(numbers):
            if len(chunk):
                bins += np.bincount(_bin_of(chunk), minlength=BINS)
                low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        return cls(bins, low, high)

    @classmethod
    def merged(cls, parts: Iterable[NumberSummary]) -> NumberSummary:
        """The summary of all parts; their order does not matter."""
        bins, low, high = np.zeros(BINS, np.int64), np.inf, -np.inf
        for part in parts:
            bins += part.bins
            low, high = min(low, part.low), max(high, part.high)
        return cls(bins, low, high)

    @property
    def count(self) -> int:
        """How many finite numbers there are."""
        return int(self.bins.sum())

    def ranks(self, shares: FloatArray) -> IdArray:
        """The ranks (from 0) of the quantiles `shares`, those between two numbers rounded up."""
        return np.ceil(shares * (self.count - 1) - 1e-9).astype(np.int64)

    def bins_of(self, ranks: IdArray) -> IdArray:
        """The bins, each once, that hold the numbers of these ranks."""
        return np.unique(np.searchsorted(np.cumsum(self.bins), ranks, side="right"))

    def numbers_at(self, ranks: IdArray, within: ValueCounts) -> FloatArray:
        """The numbers of these ranks, float64 [len(ranks)].

        Args:
            ranks: from 0.
            within: counts of the numbers in `bins_of(ranks)`: see `counts_within`.
        """
        numbers = _numbers_of(within.values)
        before = np.cumsum(self.bins) - self.bins
        bins = _bin_of(numbers)
        ends = np.zeros(len(numbers), np.int64)  # ranks that each number's copies end before
        for number in np.unique(bins):
            inside = bins == number
            ends[inside] = before[number] + np.cumsum(within.counts[inside])
        return numbers[np.searchsorted(ends, ranks, side="right")]


def counts_within(numbers: FloatArray, bins: IdArray) -> ValueCounts:
    """Counts of the finite numbers, by their ordered keys, that lie in the given bins."""
    wanted = np.zeros(BINS, dtype=bool)
    wanted[bins] = True
    parts = []
    for chunk in _finite(numbers):
        inside = chunk[wanted[_bin_of(chunk)]]
        keys, counts = np.unique(_ordered(inside), return_counts=True)
        parts.append(ValueCounts(keys, counts.astype(np.int64)))
    return ValueCounts.merged(parts)


def quantiles(numbers: FloatArray, shares: FloatArray, summary: NumberSummary) -> FloatArray:
    """Exact quantiles of the finite numbers: of each share the number of that rank, rounded up.

    Args:
        numbers: float64 [n], at least one of them finite.
        shares: 0..1.
        summary: of the numbers.
    """
    ranks = summary.ranks(shares)
    return summary.numbers_at(ranks, counts_within(numbers, summary.bins_of(ranks)))


def chunks(values: IdArray) -> Iterator[IdArray]:
    """Consecutive pieces of an array; none of an empty one."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def _finite(numbers: FloatArray) -> Iterator[FloatArray]:
    """Chunks of the finite numbers, with 0.0 for -0.0, which is equal but ordered before it."""
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK]
        yield chunk[np.isfinite(chunk)] + 0.0


def _ordered(numbers: FloatArray) -> IdArray:
    """Keys int64 that are ordered as the float64 numbers are."""
    bits = numbers.view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits - 1, bits)


def _numbers_of(keys: IdArray) -> FloatArray:
    bits = np.where(keys < 0, np.int64(-(2**63)) - keys - 1, keys)
    return bits.view(np.float64)


def _bin_of(numbers: FloatArray) -> IdArray:
    keys = _ordered(numbers).view(np.uint64) ^ _SIGN
    return (keys >> np.uint64(48)).astype(np.int64)
