"""Peeling: an order in which equations of a few unknowns each are solved one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int32]
Round = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Cells:
    """Which unknowns each equation adds up.

    Attributes:
        places: int32 [equations, n], different unknowns in each row.
        count: how many unknowns there are.
    """

    places: Places
    count: int


def peel(cells: Cells) -> list[Round] | None:
    """Equations and the unknown that each of them determines, in rounds; None where some are left.

    An unknown that only one equation still reads determines nothing else: that equation is taken
    away and solved last. A round takes all such equations away at once, and looks on only among
    the unknowns that they read.

    Returns:
        Per round int64 arrays of the same length, equations and unknowns; equations of one round
        do not read one another's unknowns.
    """
    places, (equations, each) = cells.places, cells.places.shape
    degrees = np.bincount(places.reshape(-1), minlength=cells.count).astype(np.int32)
    # the sum of the numbers of an unknown's equations: the number itself once there is one left
    sums = np.zeros(cells.count, dtype=np.int64)
    numbers = np.arange(equations, dtype=np.float64)
    for column in range(each):
        sums += np.bincount(places[:, column], numbers, cells.count).astype(np.int64)
    chosen = np.empty(equations, dtype=np.int64)
    rounds: list[Round] = []
    left = equations
    frontier = np.flatnonzero(degrees == 1)
    while len(frontier):
        taken = sums[frontier]
        chosen[taken] = frontier
        last = chosen[taken] == frontier  # one unknown for an equation that has several
        taken, frontier = taken[last], frontier[last]
        rounds.append((taken, frontier))
        left -= len(taken)
        touched = places[taken].reshape(-1)
        np.subtract.at(degrees, touched, 1)
        np.subtract.at(sums, touched, np.repeat(taken, each))
        frontier = np.unique(touched[degrees[touched] == 1]).astype(np.int64)
    return rounds if not left else None


def solve(
    places: Places, rounds: list[Round], wanted: npt.NDArray[np.uint8], count: int
) -> npt.NDArray[np.uint8]:
    """Unknowns uint8 [count, m] with which the equations give `wanted` [equations, m], modulo 256.

    Unknowns that nothing determines are zero.
    """
    values = np.zeros((count, wanted.shape[1]), dtype=np.uint8)
    for equations, unknowns in reversed(rounds):
        others = values[places[equations]].sum(axis=1, dtype=np.uint8)  # its own is still zero
        values[unknowns] = wanted[equations] - others
    return values
