"""Fitted levels: the codebook of each column of a table, and the codes of its values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

LEAST_WEIGHT = 1e-9  # of a value, as a share of the largest one
ITERATIONS = 200
# Of a column's values, for the first levels: the best of all partitions of so many bins.
BINS = 256


def fit_levels(
    values: FloatArray, bits: int, weights: Doubles | None = None, kept: npt.ArrayLike | None = None
) -> FloatArray:
    """Levels of least squared error for every column, by the algorithm of Lloyd and Max.

    It begins with the best of all partitions of at most BINS bins of the column's values. A
    column with at most 2**bits different values gets exactly these. Where rows keep different
    widths, zero is a level: it stands for what a row does not keep. The result depends on the
    arguments only.

    Args:
        values: float32 [rows, dim], finite.
        bits: of a code, 1 to MAX_LEVEL_BITS.
        weights: of the rows' squared errors, float64 [rows], at least one above zero; None: equal.
        kept: bool [rows, dim], the values that count; None: all.

    Returns:
        float32 [dim, 2**bits], ascending in every row.
    """
    masses = np.ones(len(values)) if weights is None else weights
    mask = np.ones(values.shape, bool) if kept is None else np.asarray(kept, dtype=bool)
    levels = np.zeros((values.shape[1], 2**bits), dtype=np.float32)
    for column in range(values.shape[1]):
        rows = mask[:, column] & (masses > 0)
        levels[column] = _column_levels(
            values[rows, column], masses[rows], 2**bits, with_zero=kept is not None
        )
    return levels


def level_codes(values: FloatArray, levels: FloatArray) -> npt.NDArray[np.int8]:
    """The nearest level of every value, the lower of two as near: int8 [rows, dim].

    Args:
        values: float32 [rows, dim].
        levels: float32 [dim, 2**bits], ascending.
    """
    wide = levels.astype(np.float64)
    middles = (wide[:, 1:] + wide[:, :-1]) / 2
    codes = np.empty(values.shape, dtype=np.int8)
    for column in range(values.shape[1]):
        codes[:, column] = np.searchsorted(middles[column], values[:, column], side="left")
    return codes


def read_levels(codes: npt.NDArray[np.integer], levels: FloatArray) -> FloatArray:
    """The levels of codes [rows, columns], columns at most the number of codebooks."""
    columns = np.arange(codes.shape[1])
    values: FloatArray = levels[columns, codes]
    return values


def exact_levels(different: FloatArray, count: int, *, with_zero: bool) -> FloatArray | None:
    """The different values of a column, ascending, as its levels [count]; None: too many."""
    if with_zero:
        different = np.union1d(different, np.zeros(1, np.float32))
    if not 0 < len(different) <= count:
        return None
    padded: FloatArray = np.pad(different, (0, count - len(different)), mode="edge")
    return padded


def _column_levels(
    values: FloatArray, weights: Doubles, count: int, *, with_zero: bool
) -> FloatArray:
    """Levels float32 [count] of one column's values [n] with weights [n] above zero."""
    if not len(values):
        return np.zeros(count, dtype=np.float32)
    different, place = np.unique(values, return_inverse=True)
    exact = exact_levels(different, count, with_zero=with_zero)
    if exact is not None:
        return exact
    points = different.astype(np.float64)
    masses = np.zeros(len(points))
    np.add.at(masses, place.reshape(-1), weights)
    column = _Column(points, masses)
    return column.fit(column.first_levels(count), with_zero=with_zero).astype(np.float32)


class _Column:
    """Different values of a column, ascending, with their weights and the sums up to each."""

    def __init__(self, points: Doubles, weights: Doubles) -> None:
        # weights far below the others would vanish in the sums, and their means with them
        weights = np.maximum(weights, LEAST_WEIGHT * weights.max(initial=0))
        self.points, self.weights = points, weights
        self._mass = np.concatenate(([0.0], np.cumsum(weights)))
        self._sum = np.concatenate(([0.0], np.cumsum(weights * points)))

    def fit(self, levels: Doubles, *, with_zero: bool) -> Doubles:
        """Move levels to the means of the values nearest to them until they stay.

        With zero, the level that is nearest to it at first becomes zero and stays.
        """
        for _ in range(ITERATIONS):
            zero = int(np.abs(levels).argmin())
            edges = self._edges(levels)
            mass, total = np.diff(self._mass[edges]), np.diff(self._sum[edges])
            moved = np.where(mass > 0, total / np.where(mass > 0, mass, 1), levels)
            if with_zero:
                moved[zero] = 0
            moved = np.sort(moved)
            if np.array_equal(moved, levels):
                break
            levels = moved
        return levels

    def first_levels(self, count: int) -> Doubles:
        """The means of the best partition of bins, by dynamic programming.

        Half of the bins are narrow where optimal levels are dense, as the values' density to the
        power 1/3; the others have equally many values.
        """
        steps = np.cbrt(self.weights[1:]) * np.diff(self.points) ** (2 / 3)
        place = np.concatenate(([0.0], np.cumsum(steps)))
        rank = np.arange(len(place))
        bins = rank
        if len(place) > BINS:
            share = (place / place[-1] + rank / rank[-1]) / 2
            bins = (share * (BINS - 1)).astype(np.int64)
        firsts = np.flatnonzero(np.diff(bins, prepend=-1))
        centred = self.points - self._sum[-1] / self._mass[-1]
        sums = [
            np.concatenate(([0.0], np.cumsum(np.add.reduceat(self.weights * power, firsts))))
            for power in (np.ones(len(place)), centred, centred**2)
        ]
        parts = _best_partition(sums[0], sums[1], sums[2], count)
        edges = np.append(firsts, len(place))[parts]
        means: Doubles = np.diff(self._sum[edges]) / np.diff(self._mass[edges])
        return means

    def _edges(self, levels: Doubles) -> npt.NDArray[np.int64]:
        """For every level the number of its first value, and the number of all values."""
        inner = np.searchsorted(self.points, (levels[1:] + levels[:-1]) / 2, side="right")
        return np.concatenate(([0], inner, [len(self.points)]))


def _best_partition(mass: Doubles, total: Doubles, squares: Doubles, count: int) -> list[int]:
    """The first bins of `count` runs of bins of least squared error, and the number of bins.

    Args:
        mass: sums of weights over all bins before each, and over all: float64 [bins + 1].
        total: the same of weighted values.
        squares: the same of weighted squares.
        count: at most the number of bins.
    """
    bins = len(mass) - 1
    weights = mass[None, 1:] - mass[:-1, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = squares[None, 1:] - squares[:-1, None]
        errors -= (total[None, 1:] - total[:-1, None]) ** 2 / weights
    # errors[first, last] of one run; a run has at least one bin
    errors = np.where(np.arange(bins)[:, None] <= np.arange(bins), errors, np.inf)
    least, choices = errors[0], []
    for _ in range(count - 1):
        before = np.concatenate(([np.inf], least[:-1]))
        together = before[:, None] + errors
        choices.append(together.argmin(axis=0))
        least = together.min(axis=0)
    edges = [bins]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1] - 1]))
    return [*reversed([*edges, 0])]
