"""Sparse equations of a few unknowns each, solved modulo 256 by peeling, and densely what stays.

Equations are taken away one after another with an unknown that no other equation still reads, and
are solved in the opposite order. Where every unknown is read twice, an equation is put off. Those
that were put off become a small dense system over the unknowns that no equation determines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Round = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

# The dense system takes memory of unknowns x dense columns, and time of its third power.
MOST_DENSE = 1500
MOST_COEFFICIENTS = 2**28
SPARE_COLUMNS = 24  # of the dense system, so that it is solvable almost always


@dataclass(frozen=True)
class Order:
    """An order in which equations are solved.

    Attributes:
        rounds: equations and the unknown that each determines, int64 arrays of the same length; a
            round's equations do not read one another's unknowns. Solved from the last to the first.
        put_off: int64, equations that determine none of these unknowns.
    """

    rounds: list[Round]
    put_off: npt.NDArray[np.int64]


class _Peeler:
    """The state of peeling: how many equations are left that read each unknown, and which."""

    def __init__(self, places: Places, count: int) -> None:
        self.places = places
        self.degrees = np.bincount(places.reshape(-1), minlength=count).astype(np.int32)
        # the sum of the numbers of an unknown's equations: the number itself once there is one left
        self.sums = np.zeros(count, dtype=np.int64)
        numbers = np.arange(len(places), dtype=np.float64)
        for column in range(places.shape[1]):
            self.sums += np.bincount(places[:, column], numbers, count).astype(np.int64)
        self.left = np.ones(len(places), dtype=bool)
        self.rounds: list[Round] = []
        self._chosen = np.empty(len(places), dtype=np.int64)

    def remove(self, equations: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Take equations away; the unknowns that one other equation reads now."""
        touched = self.places[equations].reshape(-1)
        self.left[equations] = False
        np.subtract.at(self.degrees, touched, 1)
        np.subtract.at(self.sums, touched, np.repeat(equations, self.places.shape[1]))
        return np.unique(touched[self.degrees[touched] == 1]).astype(np.int64)

    def peel(self, frontier: npt.NDArray[np.int64]) -> None:
        """Peel round after round, from unknowns that one equation reads."""
        while len(frontier):
            taken = self.sums[frontier]
            self._chosen[taken] = frontier
            last = self._chosen[taken] == frontier  # one unknown for an equation that has several
            self.rounds.append((taken[last], frontier[last]))
            frontier = self.remove(taken[last])


def order(places: Places, count: int, most_dense: int = MOST_DENSE) -> Order | None:
    """An order of all equations, or None where too many would have to be put off.

    Args:
        places: int32 [equations, n], which different unknowns each equation adds up.
        count: of the unknowns.
        most_dense: how many equations may be put off.
    """
    peeler = _Peeler(places, count)
    peeler.peel(np.flatnonzero(peeler.degrees == 1))
    put_off: list[int] = []
    next_equation = 0
    first = places[:, 0]
    by_place = np.argsort(first, kind="stable") if peeler.left.any() else np.empty(0, np.int64)
    while next_equation < len(by_place):
        equation = int(by_place[next_equation])
        next_equation += 1
        if not peeler.left[equation]:
            continue
        if len(put_off) == most_dense:
            return None
        put_off.append(equation)
        peeler.peel(peeler.remove(np.array([equation])))
    return Order(peeler.rounds, np.array(put_off, dtype=np.int64))


def solve(places: Places, found: Order, wanted: Bytes, count: int) -> Bytes | None:
    """Unknowns uint8 [count, m] with which the equations give `wanted` [equations, m], modulo 256.

    Unknowns that nothing determines are zero. None where the dense system has no solution.

    Args:
        places: see `order`.
        found: its result.
        wanted: uint8 [equations, m].
        count: of the unknowns.
    """
    values = np.zeros((count, wanted.shape[1]), dtype=np.uint8)
    if len(found.put_off):
        free = _free(places, found, count)
        coefficients = np.zeros((count, len(free)), dtype=np.uint8)
        coefficients[free, np.arange(len(free))] = 1
        none = np.zeros((len(places), 1), dtype=np.uint8)
        _substitute(places, found.rounds, coefficients, none)
        _substitute(places, found.rounds, values, wanted)
        read = places[found.put_off]
        matrix = coefficients[read].sum(axis=1, dtype=np.uint8)
        rest = wanted[found.put_off] - values[read].sum(axis=1, dtype=np.uint8)
        solved = solve_dense(matrix, rest)
        if solved is None:
            return None
        values[:] = 0
        values[free] = solved
    _substitute(places, found.rounds, values, wanted)
    return values


def _free(places: Places, found: Order, count: int) -> npt.NDArray[np.int64]:
    """Unknowns that no round determines, as many as the dense system needs, evenly spread."""
    determined = np.zeros(count, dtype=bool)
    for _, unknowns in found.rounds:
        determined[unknowns] = True
    free = np.flatnonzero(~determined)
    wanted = min(len(free), 2 * len(found.put_off) + SPARE_COLUMNS, MOST_COEFFICIENTS // count)
    return free[np.unique(np.linspace(0, len(free) - 1, wanted).astype(np.int64))]


def _substitute(places: Places, rounds: list[Round], values: Bytes, wanted: Bytes) -> None:
    """Compute the unknowns of all rounds in place, from the values of those that are free."""
    for equations, unknowns in reversed(rounds):
        values[unknowns] = 0
        others = values[places[equations]].sum(axis=1, dtype=np.uint8)
        values[unknowns] = wanted[equations] - others


def solve_dense(matrix: Bytes, wanted: Bytes) -> Bytes | None:
    """X uint8 [n, m] with matrix [d, n] times x = wanted [d, m] modulo 256; None if there is none.

    By elimination with odd pivots, which alone have an inverse.
    """
    matrix, wanted = matrix.copy(), wanted.copy()
    pivots = []
    for row in range(len(matrix)):
        odd = np.flatnonzero(matrix[row] & 1)
        if not len(odd):
            return None
        column = int(odd[0])
        inverse = np.uint8(pow(int(matrix[row, column]), -1, 256))
        matrix[row] *= inverse
        wanted[row] *= inverse
        factors = matrix[row + 1 :, column].copy()
        used = np.flatnonzero(factors)
        matrix[row + 1 + used] -= factors[used, None] * matrix[row]
        wanted[row + 1 + used] -= factors[used, None] * wanted[row]
        pivots.append(column)
    solved = np.zeros((matrix.shape[1], wanted.shape[1]), dtype=np.uint8)
    for row in reversed(range(len(matrix))):
        products = matrix[row, :, None] * solved
        solved[pivots[row]] = wanted[row] - products.sum(axis=0, dtype=np.uint8)
    return solved
