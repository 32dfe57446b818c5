"""Finds by bisection which values the source accepts of an ID that the model computes with.

Tables state their rows, but the range of `one_hot(day, 7)`, of a selected step or of a computed row
is known to the source only. Files must refuse what it refuses, and do so by a stated limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ondevice.converters.source.torch_source import Source
from ondevice.converters.verify.id_origins import LEAST, TOP, InputIds
from ondevice.converters.verify.probe import special_values
from ondevice.errors import SpecError

Array = npt.NDArray[Any]

TRIED = 48  # values of all computed IDs that are tried together first
OTHER_REQUESTS = 3  # in which a limit must hold too
MOST_ELEMENTS = 64  # of a row that are tried separately


def with_legal_values(
    source: Source,
    uses: Mapping[str, InputIds],
    constants: Sequence[int],
    fixed: Mapping[str, bool],
) -> dict[str, InputIds]:
    """The uses with the limits of IDs that the graph computes with, where the source has some.

    An input has none where the legal values depend on other inputs: files then refuse by
    themselves, or the conversion warns.

    Args:
        source: what is asked.
        uses: what the inputs' elements are.
        constants: numbers near which the model may behave in another way.
        fixed: whether all sizes of an input but the batch are fixed; else its elements are alike.
    """
    uses = {name: _narrow_limits(use) for name, use in uses.items()}
    asked = {name: use for name, use in uses.items() if use.computed.any()}
    requests = _Requests(source)
    trials = {name: _trials(use, constants) for name, use in asked.items()}
    if not asked or requests.accept_all(trials, asked):
        return dict(uses)
    limited = dict(uses)
    for name, use in asked.items():
        if not requests.accept_all({name: trials[name]}, asked):
            limited[name] = _limited(requests, name, use, trials[name], fixed[name])
    return limited


class Answers(NamedTuple):
    """What a source answers to the rows of a batch.

    Attributes:
        answered: bool [rows], where it gives finite numbers.
        accepted: bool [rows], where it does not refuse the row.
        outputs: its outputs by name; None if it refuses the batch as a whole.
    """

    answered: npt.NDArray[np.bool_]
    accepted: npt.NDArray[np.bool_]
    outputs: dict[str, npt.NDArray[np.float32]] | None


def answered_rows(source: Source, batch: Mapping[str, Array]) -> Answers:
    """Which rows a source answers, and its answers.

    Where it refuses a batch, each half is tried.
    """
    rows = len(next(iter(batch.values())))
    try:
        outputs = source(batch)
    except SpecError:
        if rows == 1:
            return Answers(np.array([False]), np.array([False]), None)
        halves = slice(0, rows // 2), slice(rows // 2, rows)
        tried = ({name: array[half] for name, array in batch.items()} for half in halves)
        first, second = (answered_rows(source, half) for half in tried)
        answered = np.concatenate([first.answered, second.answered])
        return Answers(answered, np.concatenate([first.accepted, second.accepted]), None)
    return Answers(all_finite(outputs), np.ones(rows, bool), outputs)


def all_finite(outputs: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.bool_]:
    """In which rows all outputs, float32 [rows, ...], are finite, bool [rows]."""
    finite = [np.isfinite(array.reshape(len(array), -1)).all(1) for array in outputs.values()]
    result: npt.NDArray[np.bool_] = np.logical_and.reduce(finite)
    return result


class _Requests:
    """The source's examples with other values in the places of some IDs."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._count = len(next(iter(source.examples.values())))

    def accept_all(self, trials: Mapping[str, Sequence[int]], uses: Mapping[str, InputIds]) -> bool:
        """Whether the source takes all trials, given in turn to all computed IDs of inputs."""
        rows = max(map(len, trials.values()))
        batch = {
            name: array[np.arange(rows) % self._count].copy()
            for name, array in self._source.examples.items()
        }
        for shift, (name, values) in enumerate(trials.items()):
            column = np.array(values, dtype=object)[(np.arange(rows) + shift) % len(values)]
            self._fill(batch[name], uses[name].computed, column.astype(np.int64))
        try:
            self._source(batch)
        except SpecError:
            return False
        return True

    def accepts(self, name: str, elements: Array, value: int, row: int = 0) -> bool:
        """Whether the source takes one example with a value in the place of some elements."""
        place = row % self._count
        batch = {key: array[[place]].copy() for key, array in self._source.examples.items()}
        self._fill(batch[name], elements, np.array([value], np.int64))
        try:
            self._source(batch)
        except SpecError:
            return False
        return True

    def legal(self, name: str, elements: Array) -> tuple[int, int]:
        """The least and the greatest value of some elements in the examples."""
        examples = self._source.examples[name]
        flat = examples.reshape(len(examples), -1)
        chosen = flat[:, elements] if flat.shape[1] == len(elements) else flat
        return int(chosen.min()), int(chosen.max())

    @staticmethod
    def _fill(array: Array, elements: Array, column: npt.NDArray[np.int64]) -> None:
        flat = array.reshape(len(array), -1)
        if flat.shape[1] == len(elements):
            flat[:, elements] = column[:, None]
        else:  # along free axes all elements are alike
            flat[:] = column[:, None]


def _narrow_limits(use: InputIds) -> InputIds:
    """A use with the limits of narrow integers, to which the source would cut other values."""
    narrow = (use.computed | use.numbers) & (use.highs < TOP)
    return replace(use, limits=np.where(narrow, use.highs + 1, use.limits))


def _trials(use: InputIds, constants: Sequence[int]) -> list[int]:
    low, high = max(use.lows[use.computed]), min(use.highs[use.computed])
    values = special_values(int(low), int(high), constants)
    step = -(-len(values) // TRIED)
    return [*values[::step], values[-1]]


def _limited(
    requests: _Requests, name: str, use: InputIds, trials: Sequence[int], fixed: bool
) -> InputIds:
    """The use of an input with the legal interval of each computed element that has one.

    Args:
        requests: asks the source.
        name: of the input.
        use: what its elements are used for.
        trials: values to ask for, in ascending order.
        fixed: whether all sizes of the input but the batch are fixed; else elements are alike.
    """
    together = use.computed
    interval = _interval(requests, name, together, trials, use)
    elements = np.flatnonzero(together)
    alike = not fixed or len(elements) == 1 or len(elements) > MOST_ELEMENTS
    intervals: dict[int, tuple[int, int] | None] = {}
    for place in elements.tolist():
        only = np.arange(len(together)) == place
        if alike or (interval is not None and _ends(requests, name, only, interval, use)):
            intervals[place] = interval
        elif _takes_all(requests, name, only, trials):
            intervals[place] = None
        else:
            intervals[place] = _interval(requests, name, only, trials, use)
    limits, lows, highs = use.limits.copy(), use.lows.copy(), use.highs.copy()
    for place, ends in intervals.items():
        if ends is not None:
            lows[place], highs[place] = ends
            limits[place] = ends[1] + 1
    return replace(use, limits=limits, lows=lows, highs=highs)


def _takes_all(requests: _Requests, name: str, only: Array, trials: Sequence[int]) -> bool:
    """Whether the source takes every trial in the place of one element."""
    return all(requests.accepts(name, only, value) for value in trials)


def _interval(
    requests: _Requests, name: str, elements: Array, trials: Sequence[int], use: InputIds
) -> tuple[int, int] | None:
    """The legal values around those of the examples.

    None where other requests have others, or where legal values lie behind refused ones.
    """
    least, greatest = requests.legal(name, elements)
    bounds = int(max(use.lows[use.computed])), int(min(use.highs[use.computed]))
    low = _end(requests, name, elements, least, [v for v in trials if v < least], bounds[0])
    high = _end(requests, name, elements, greatest, [v for v in trials if v > greatest], bounds[1])
    interval = low, high
    outside = [value for value in (*trials, *bounds) if not low <= value <= high]
    if any(requests.accepts(name, elements, value) for value in outside):
        return None
    holds = all(
        _ends(requests, name, elements, interval, use, row) for row in range(1, 1 + OTHER_REQUESTS)
    )
    return interval if holds else None


def _end(
    requests: _Requests,
    name: str,
    elements: Array,
    legal: int,
    trials: Sequence[int],
    bound: int,
) -> int:
    """The last legal value from a legal one towards a bound, by trials and then bisection."""
    refused = None
    for value in sorted({*trials, bound}, key=lambda trial: abs(trial - legal)):
        if not requests.accepts(name, elements, value):
            refused = value
            break
        legal = value
    if refused is None:
        return legal
    while abs(refused - legal) > 1:
        middle = (refused + legal) // 2
        if requests.accepts(name, elements, middle):
            legal = middle
        else:
            refused = middle
    return legal


def _ends(
    requests: _Requests,
    name: str,
    elements: Array,
    interval: tuple[int, int],
    use: InputIds,
    row: int = 0,
) -> bool:
    """Whether a request's legal values end where an interval does."""
    low, high = interval
    inside = all(requests.accepts(name, elements, value, row) for value in interval)
    beyond = [value for value in (low - 1, high + 1) if LEAST <= value <= TOP]
    bounds = int(max(use.lows[use.computed])), int(min(use.highs[use.computed]))
    beyond = [value for value in beyond if bounds[0] <= value <= bounds[1]]
    return inside and not any(requests.accepts(name, elements, value, row) for value in beyond)
