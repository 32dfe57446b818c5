"""Requests to measure with: IDs from the file's own test vectors, or random ones it accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.bench.measure.constants import RANDOM_ROWS, RANK_TOLERANCE
from ondevice.errors import InputError
from ondevice.info import InputSpec, ModelInfo

ValueArray = npt.NDArray[Any]  # int64 or float32
Ids = dict[str, ValueArray]


def pool(info: ModelInfo) -> Ids:
    """Rows to draw requests from: int64 or float32 [rows, ...] for every input.

    A file without test vectors gets random IDs below its inputs' limits, or of all 64 bits; axes
    of free size then have length 1.
    """
    if info.vectors is not None:
        return info.vectors.inputs
    rng = np.random.default_rng(0)
    return {item.name: _random_ids(item, rng) for item in info.inputs}


def _random_ids(spec: InputSpec, rng: np.random.Generator) -> ValueArray:
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    shape[0] = RANDOM_ROWS
    free = 2**63 if spec.dtype == "int64" else None
    limits = spec.id_limit if isinstance(spec.id_limit, tuple) else (spec.id_limit,)
    columns = [_random_column(RANDOM_ROWS, limit or free, limit is None, rng) for limit in limits]
    if len(columns) > 1:
        return np.stack(columns, 1).reshape(shape).astype(spec.dtype)
    return _random_column(shape, limits[0] or free, limits[0] is None, rng).astype(spec.dtype)


def _random_column(
    shape: int | list[int], limit: int | None, free: bool, rng: np.random.Generator
) -> npt.NDArray[Any]:
    """IDs below their limit, of all 64 bits if free, or, without any limit, numbers in [0, 1)."""
    if limit is None:
        return rng.random(shape)
    return rng.integers(-limit if free else 0, limit - 1, shape, dtype=np.int64, endpoint=True)


def draw(rows_to_draw_from: Mapping[str, ValueArray], rows: int, count: int) -> list[Ids]:
    """`count` different requests of `rows` rows, the same in every run."""
    rng = np.random.default_rng(0)
    size = len(next(iter(rows_to_draw_from.values())))
    picked = [rng.integers(0, size, rows) for _ in range(count)]
    return [
        {name: np.ascontiguousarray(ids[chosen]) for name, ids in rows_to_draw_from.items()}
        for chosen in picked
    ]


def rank_tolerance(info: ModelInfo) -> float:
    """How far `rank` may be from `predict` in a file that is measured."""
    return RANK_TOLERANCE if info.vectors is None else info.vectors.tolerance


def split(request: Ids, context: Sequence[str]) -> tuple[Ids, Ids]:
    """The context (first row) and the candidates (all rows) of a request of `Model.rank`."""
    context_ids = {name: np.ascontiguousarray(request[name][:1]) for name in context}
    candidate_ids = {name: ids for name, ids in request.items() if name not in context}
    return context_ids, candidate_ids


def context_inputs(info: ModelInfo, wanted: Sequence[str]) -> tuple[str, ...]:
    """The inputs that make up the context of a ranking; by default only the first.

    Raises:
        InputError: an input that the model lacks, or no input is left for the candidates.
    """
    names = [item.name for item in info.inputs]
    chosen = tuple(wanted) or (names[0],)
    if unknown := [name for name in chosen if name not in names]:
        raise InputError(f"no such input: {', '.join(unknown)}; the model takes {', '.join(names)}")
    if len(set(chosen)) >= len(names):
        raise InputError(
            f"ranking needs an input that differs between candidates, but all of "
            f"{', '.join(names)} are context"
        )
    return chosen
