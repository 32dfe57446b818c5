"""The requests that a conversion is verified with: what inputs are, and rows that are answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.converters.graph import PackedModel
from ondevice.converters.source.torch_source import Source
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.verify.id_origins import InputIds, input_ids
from ondevice.converters.verify.probe import ANY, probe_inputs
from ondevice.errors import SpecError
from ondevice.info import InputSpec, RankingVectors
from ondevice.ranking import context_splits, repeated_request

# Rankings inside a file: few and short, since they travel to the device. `ondevice verify` compares
# `rank` with `predict` for all other splits there.
MOST_RANKINGS = 4
RANKED_ROWS = 8

Array = npt.NDArray[Any]


def id_uses(packed: PackedModel, examples: Mapping[str, Array]) -> dict[str, InputIds]:
    """What every input's elements are used for: IDs of which table, or something else."""
    shapes = {name: array.shape for name, array in examples.items()}
    return input_ids(packed.model.graph, packed.lookups, shapes)


def input_specs(packed: PackedModel, uses: Mapping[str, InputIds]) -> tuple[InputSpec, ...]:
    """What a file says of its inputs: name, shape, dtype, and below which limit IDs must be."""
    specs = []
    for value in packed.model.graph.inputs:
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape or ()]
        dtype = "int64" if value.dtype is None else value.dtype.numpy().name
        name, use = str(value.name), uses[str(value.name)]
        limits = [None if limit in (-1, ANY) else int(limit) for limit in use.limits]
        shape = ("batch", *sizes[1:])
        free = any(isinstance(size, str) for size in sizes[1:])
        if free or (not use.added and len(set(limits)) <= 1):  # one limit for all elements
            limit = min((one for one in limits if one is not None), default=None)
            specs.append(InputSpec(name, shape, limit, dtype))
        elif not any(limits):
            specs.append(InputSpec(name, shape, None, dtype))
        else:
            specs.append(InputSpec(name, shape, tuple(limits), dtype))
    return tuple(specs)


def answered_requests(
    source: Source, inputs: tuple[InputSpec, ...], uses: Mapping[str, InputIds], rows: int
) -> dict[str, Array]:
    """Requests of `rows` rows by input name, all of which the source answers with finite numbers.

    A row that it does not answer is replaced by one of the examples.

    Raises:
        SpecError: it does not answer its own examples.
    """
    batch = probe_inputs(inputs, uses, source.examples, rows)
    answered = _answered(source, batch)
    if answered.all():
        return batch
    count = len(next(iter(source.examples.values())))
    for name, example in source.examples.items():
        ordinary = example[np.arange(rows) % count]
        batch[name][~answered] = ordinary[~answered]
    if not _answered(source, batch).all():
        raise SpecError("the model fails, or returns NaN or infinity, for its own example inputs")
    return batch


def ranking_vectors(
    source: Source, tables: Mapping[str, PackedTable], rows: Mapping[str, Array]
) -> tuple[RankingVectors, ...]:
    """The source's scores of ranked requests, for the first rows of a file's test vectors.

    A split is left out where the source refuses the context's values beside the candidates'.
    """
    splits = context_splits(list(rows))
    chosen = splits[:: -(-len(splits) // MOST_RANKINGS) or 1]
    first = {name: values[:RANKED_ROWS] for name, values in rows.items()}
    vectors = []
    for context in chosen:
        request = repeated_request(first, context)
        if _answered(source, request).all():
            vectors.append(RankingVectors(context, source(request, tables)))
    return tuple(vectors)


def _answered(source: Source, batch: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
    """For which rows a source has a finite answer; where it fails, each half is tried."""
    rows = len(next(iter(batch.values())))
    try:
        outputs = source(batch)
    except SpecError:
        if rows == 1:
            return np.array([False])
        halves = slice(0, rows // 2), slice(rows // 2, rows)
        tried = ({name: array[half] for name, array in batch.items()} for half in halves)
        return np.concatenate([_answered(source, half) for half in tried])
    finite = [np.isfinite(array.reshape(rows, -1)).all(1) for array in outputs.values()]
    together: npt.NDArray[np.bool_] = np.logical_and.reduce(finite)
    return together
