"""Requests to measure with: IDs from the file's own test vectors, or random ones it accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError
from ondevice.info import InputSpec, ModelInfo

IdArray = npt.NDArray[np.int64]
Ids = dict[str, IdArray]

RANDOM_ROWS = 256  # rows to draw from where a file has no test vectors


def pool(info: ModelInfo) -> Ids:
    """Rows to draw requests from: int64 [rows, ...] for every input.

    A file without test vectors gets random IDs below its inputs' limits, or of all 64 bits; axes
    of free size then have length 1.
    """
    if info.vectors is not None:
        return info.vectors.inputs
    rng = np.random.default_rng(0)
    return {item.name: _random_ids(item, rng) for item in info.inputs}


def _random_ids(spec: InputSpec, rng: np.random.Generator) -> IdArray:
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    shape[0] = RANDOM_ROWS
    low, high = (-(2**63), 2**63) if spec.id_limit is None else (0, spec.id_limit)
    return rng.integers(low, high - 1, shape, dtype=np.int64, endpoint=True)


def draw(rows_to_draw_from: Mapping[str, IdArray], rows: int, count: int) -> list[Ids]:
    """`count` different requests of `rows` rows, the same in every run."""
    rng = np.random.default_rng(0)
    size = len(next(iter(rows_to_draw_from.values())))
    picked = [rng.integers(0, size, rows) for _ in range(count)]
    return [
        {name: np.ascontiguousarray(ids[chosen]) for name, ids in rows_to_draw_from.items()}
        for chosen in picked
    ]


def split(request: Ids, context: Sequence[str]) -> tuple[Ids, Ids]:
    """The context (first row) and the candidates (all rows) of a request of `Model.rank`."""
    one = {name: np.ascontiguousarray(request[name][:1]) for name in context}
    many = {name: ids for name, ids in request.items() if name not in context}
    return one, many


def context_inputs(info: ModelInfo, wanted: Sequence[str]) -> tuple[str, ...]:
    """The inputs that make up the context of a ranking; by default the first input alone.

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
