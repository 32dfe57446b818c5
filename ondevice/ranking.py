"""Splits of a request into context and candidates, and how far `rank` is from `predict` on them."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.difference import FloatArray, ScaleArray, largest_difference, output_scale
from ondevice.errors import InputError

ALL_SPLITS = 6  # of this many inputs every split is tried (62); of more, a covering sample
MOST_ROWS = 80  # candidates a split; more than the native engine holds at once (64)

ValueArray = npt.NDArray[Any]  # int64 or float32


class Ranker(Protocol):
    """What a loaded model does; see `ondevice.model.Model`."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        ...

    def predict(self, inputs: Mapping[str, ValueArray]) -> Any:
        """Scores of rows."""
        ...

    def rank(self, context: Mapping[str, ValueArray], candidates: Mapping[str, ValueArray]) -> Any:
        """Scores of candidates."""
        ...


def context_splits(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Which inputs are the context, split by split; the others are the candidates'.

    A context is never empty and never all inputs. Up to ALL_SPLITS inputs give every split; more
    inputs give a sample in which every two inputs are together on each side, and apart both ways.
    """
    count = len(names)
    if count <= ALL_SPLITS:
        sizes = range(1, count)
        return [split for size in sizes for split in itertools.combinations(names, size)]
    return list(_covering(names))


def _covering(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Random splits, each of which has a pair of inputs on sides that no earlier split had.

    Pairs are counted as bits: hundreds of inputs have some hundred thousand pairs.
    """
    draw = random.Random(len(names))  # noqa: S311 - a fixed sample, not a secret
    every = (1 << len(names)) - 1
    # missing[a][x][y]: the inputs b > a, as bits, that were not on side y while a was on side x
    missing = [[[every >> a + 1 << a + 1] * 2 for _ in range(2)] for a in range(len(names))]
    while any(bits for sides in missing for pair in sides for bits in pair):
        sides = [draw.random() < 0.5 for _ in names]
        context = sum(1 << place for place, chosen in enumerate(sides) if chosen)
        on_side = (every ^ context, context)
        lacking = [missing[place][chosen] for place, chosen in enumerate(sides)]
        covers = any(pair[y] & on_side[y] for pair in lacking for y in range(2))
        if covers and any(sides) and not all(sides):
            for pair in lacking:
                pair[:] = [pair[y] & ~on_side[y] for y in range(2)]
            yield tuple(name for name, chosen in zip(names, sides, strict=True) if chosen)


def split_request(
    request: Mapping[str, ValueArray], context: Sequence[str]
) -> tuple[dict[str, ValueArray], dict[str, ValueArray]]:
    """The first row of the context's inputs, and all rows of the others."""
    single = {name: values[:1] for name, values in request.items() if name in context}
    return single, {name: values for name, values in request.items() if name not in context}


def repeated_request(
    request: Mapping[str, ValueArray], context: Sequence[str]
) -> dict[str, ValueArray]:
    """The rows that `predict` takes in the place of a ranking: the context's first row repeated."""
    rows = len(next(iter(request.values())))
    return {
        name: np.repeat(values[:1], rows, axis=0) if name in context else values
        for name, values in request.items()
    }


def ranking_difference(
    load: Callable[[], Ranker],
    request: Mapping[str, ValueArray],
    scales: Mapping[str, ScaleArray] | None = None,
) -> float:
    """The largest difference of `rank` from `predict` over all splits of a request's inputs.

    Args:
        load: opens the model; every split is ranked by a model fresh from it, so that no value
            that an earlier request left can pass for a right one.
        request: values by input name, [rows, ...]; the first MOST_ROWS rows are taken.
        scales: of the outputs, by name; by default those of what `predict` returns.

    Returns:
        As `largest_difference`; 0.0 for a model of one input. Where both refuse a request, or both
        give the same number or no number, there is no difference; where one refuses, infinity.
    """
    rows = {name: values[:MOST_ROWS] for name, values in request.items()}
    predicting = load()
    largest = 0.0
    for context in context_splits(list(rows)):
        difference = split_difference(load(), predicting, rows, context, scales)
        largest = max(largest, difference)
    return largest


def split_difference(
    ranking: Ranker,
    predicting: Ranker,
    request: Mapping[str, ValueArray],
    context: Sequence[str],
    scales: Mapping[str, ScaleArray] | None = None,
) -> float:
    """As `ranking_difference`, for one split of a request and all its rows.

    Args:
        ranking: ranks the candidates.
        predicting: scores the same rows; it may be the same model, which ranks first.
        request: values by input name, [rows, ...].
        context: names of the inputs whose first row is the context.
        scales: as of `ranking_difference`.
    """
    got = _answer(ranking, functools.partial(ranking.rank, *split_request(request, context)))
    predict = functools.partial(predicting.predict, repeated_request(request, context))
    expected = _answer(predicting, predict)
    if expected is None or got is None:
        return 0.0 if expected is got else math.inf
    return max(
        _disagreement(got[name], right, output_scale([right]) if scales is None else scales[name])
        for name, right in expected.items()
    )


def _answer(model: Ranker, ask: Callable[[], Any]) -> dict[str, FloatArray] | None:
    """Scores by output name, None where the model refuses the request."""
    try:
        return named_scores(model, ask())
    except InputError:
        return None


def _disagreement(got: FloatArray, expected: FloatArray, scale: ScaleArray) -> float:
    """As `largest_difference`; two NaN agree, a NaN and a number are infinitely far apart."""
    if got.shape != expected.shape:
        return math.inf
    agree = (got == expected) | (np.isnan(got) & np.isnan(expected))
    units = np.broadcast_to(scale, expected.shape)
    difference = largest_difference(got[~agree], expected[~agree], units[~agree])
    return math.inf if math.isnan(difference) else difference


def named_scores(model: Ranker, scores: Any) -> dict[str, FloatArray]:
    """What `predict` or `rank` returned, by output name also where there is one output."""
    return scores if isinstance(scores, dict) else {model.outputs[0]: scores}
