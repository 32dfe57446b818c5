"""The requests that a conversion is verified with: what inputs are, and rows that are answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import PackedModel
from ondevice.converters.source.double_integers import EXACT, exact_inputs
from ondevice.converters.source.torch_source import Source
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.verify.graph_numbers import (
    changing_numbers,
    may_divide_by_minus_one,
    thresholds,
)
from ondevice.converters.verify.id_origins import LEAST, InputIds, input_ids
from ondevice.converters.verify.legal_ids import all_finite, answered_rows, with_legal_values
from ondevice.converters.verify.probe import ANY, probe_inputs
from ondevice.difference import output_scale
from ondevice.errors import ParityError, SpecError
from ondevice.info import InputSpec, RankingVectors, TestVectors
from ondevice.ranking import context_splits, repeated_request

# Test vectors inside a file: few rows, and few and short rankings, since they travel to the device.
# `ondevice verify` compares `rank` with `predict` for all other splits there.
VECTOR_ROWS = 32
MOST_VECTOR_ROWS = 4096
MOST_VECTOR_BYTES = 65_536
MOST_RANKINGS = 4
# Answers are rounded to this share of the tolerance, where that is at least LEAST_ROUNDED.
ROUNDED_SHARE = 1 / 32
LEAST_ROUNDED = 1e-4
RANKED_ROWS = 8
# Rows of each batch that the source refuses and that every file is tried with.
MOST_REFUSED = 8

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Domain:
    """What the inputs of a model are, and which of their values are legal.

    Attributes:
        inputs: what files say of them.
        uses: what their elements are used for.
        constants: integers near which the model may behave in another way.
        thresholds: such numbers of float32.
    """

    inputs: tuple[InputSpec, ...]
    uses: Mapping[str, InputIds]
    constants: tuple[int, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Requests:
    """Rows by input name: those that the source answers, and some that it refuses.

    Attributes:
        answered: the former.
        answers: the source's outputs for them, by name.
        refused: the latter.
    """

    answered: dict[str, Array]
    answers: dict[str, npt.NDArray[np.float32]]
    refused: dict[str, Array]


def domain_of(packed: PackedModel, source: Source) -> Domain:
    """What the inputs are by the graph, and by the source where the graph does not say it.

    Raises:
        ParityError: the source computes with integers of the examples in float64, and must.
    """
    graph = packed.model.graph
    shapes = {name: array.shape for name, array in source.examples.items()}
    uses = input_ids(graph, packed.lookups, shapes)
    for name in exact_inputs(packed.model):
        uses = {**uses, name: _exact(name, uses[name], source.examples[name])}
    constants = changing_numbers(graph, packed.lookups)
    if may_divide_by_minus_one(graph):
        uses = {name: _without_the_least(use) for name, use in uses.items()}
    integers = {
        str(value.name): all(isinstance(size, int) for size in list(value.shape or ())[1:])
        for value in graph.inputs
        if value.dtype in (ir.DataType.INT64, None)
    }
    asked = with_legal_values(source, {name: uses[name] for name in integers}, constants, integers)
    uses = {name: asked.get(name, use) for name, use in uses.items()}
    return Domain(input_specs(packed, uses), uses, constants, thresholds(graph))


def _exact(name: str, use: InputIds, examples: Array) -> InputIds:
    """The use of an input with which the source computes in float64, and files in float32.

    Raises:
        ParityError: an example is beyond what float32 holds.
    """
    if len(beyond := examples[(examples > EXACT) | (examples < -EXACT)]):
        raise ParityError(
            f"the module computes with input {name!r} in float64, where float32, in which files "
            f"compute, is not enough: it holds integers up to {EXACT}, and the examples hold "
            f"{beyond[0]}. Take differences, quotients and comparisons of integers, such as "
            "(now - then).double() or ts // 3600 % 24; nothing was written"
        )
    read = use.numbers | use.computed
    lows = np.where(read, np.maximum(use.lows, -EXACT), use.lows)
    highs = np.where(read, np.minimum(use.highs, EXACT), use.highs)
    return replace(use, lows=lows, highs=highs, limits=np.where(read, highs + 1, use.limits))


def _without_the_least(use: InputIds) -> InputIds:
    return replace(use, lows=np.maximum(use.lows, LEAST + 1))


def input_specs(packed: PackedModel, uses: Mapping[str, InputIds]) -> tuple[InputSpec, ...]:
    """What a file says of its inputs: name, shape, dtype, and between which limits IDs must be."""
    specs = []
    for value in packed.model.graph.inputs:
        sizes = [size if isinstance(size, int) else str(size) for size in value.shape or ()]
        dtype = "int64" if value.dtype is None else value.dtype.numpy().name
        name, use = str(value.name), uses[str(value.name)]
        limits = [
            int(limit) if 0 <= limit < ANY or (limit == ANY and low > LEAST) else None
            for limit, low in zip(use.limits, use.lows, strict=True)
        ]
        shape = ("batch", *sizes[1:])
        free = any(isinstance(size, str) for size in sizes[1:])
        low = _lowest(use, limits)
        computed = any(
            known and limit is not None
            for known, limit in zip(use.computed | use.numbers, limits, strict=True)
        )
        alike = not use.added and len(set(limits)) <= 1 and isinstance(low, int)
        if free or alike:  # all elements have the same limit
            limit = min((item for item in limits if item is not None), default=None)
            specs.append(InputSpec(name, shape, limit, dtype, low, computed))
        elif all(limit is None for limit in limits):
            specs.append(InputSpec(name, shape, None, dtype))
        else:
            specs.append(InputSpec(name, shape, tuple(limits), dtype, low, computed))
    return tuple(specs)


def _lowest(use: InputIds, limits: Sequence[int | None]) -> int | tuple[int, ...]:
    """The least legal value of elements that have a limit; a tuple where it differs."""
    lows = [
        0 if limit is None else int(low) if computed else use.lowest
        for limit, low, computed in zip(limits, use.lows, use.computed | use.numbers, strict=True)
    ]
    stated = {low for low, limit in zip(lows, limits, strict=True) if limit is not None}
    return tuple(lows) if len(stated) > 1 else next(iter(stated), 0)


def requests_of(source: Source, domain: Domain, rows: int) -> Requests:
    """Requests of `rows` rows, all of which the source answers with finite numbers.

    An example replaces a row that it does not answer; a row that it refuses is among the refused.

    Raises:
        SpecError: it does not answer its own examples.
    """
    batch = probe_inputs(
        domain.inputs,
        domain.uses,
        source.examples,
        rows,
        constants=domain.constants,
        thresholds=domain.thresholds,
    )
    answered, accepted, answers = answered_rows(source, batch)
    refused = {name: array[~accepted][:MOST_REFUSED] for name, array in batch.items()}
    if answers is not None and answered.all():
        return Requests(batch, answers, refused)
    count = len(next(iter(source.examples.values())))
    for name, example in source.examples.items():
        ordinary = example[np.arange(rows) % count]
        batch[name][~answered] = ordinary[~answered]
    answered, _, answers = answered_rows(source, batch)
    if answers is None or not answered.all():
        source(source.examples)  # which may say what is wrong with them
        raise SpecError("the model fails, or returns NaN or infinity, for its own example inputs")
    return Requests(batch, answers, refused)


def vectors_of(
    source: Source,
    domain: Domain,
    tables: Mapping[str, PackedTable],
    rows: int,
    tolerance: float,
    earlier: TestVectors | None = None,
) -> TestVectors | None:
    """Requests and the source's answers that travel in the files.

    Args:
        source: the model.
        domain: what its inputs are.
        tables: as files store them.
        rows: how many, if they take at most MOST_VECTOR_BYTES, else fewer; 0: None is returned.
        tolerance: how far an engine may be from the answers, which are `coarse`.
        earlier: of the model before, whose requests are taken if the source answers them.
    """
    if not rows:
        return None
    inputs = requests_of(source, domain, rows).answered
    if earlier is not None:
        inputs = earlier_requests(source, earlier, inputs)
    outputs = source(inputs, tables)
    size = sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
    if size > MOST_VECTOR_BYTES:
        rows = max(1, rows * MOST_VECTOR_BYTES // size)
        inputs = requests_of(source, domain, rows).answered
        outputs = source(inputs, tables)
    scales = {name: output_scale([array]) for name, array in outputs.items()}
    rankings = tuple(
        replace(item, outputs=coarse(item.outputs, scales, tolerance))
        for item in ranking_vectors(source, tables, inputs)
    )
    return TestVectors(inputs, coarse(outputs, scales, tolerance), tolerance, rankings)


def earlier_requests(
    source: Source, earlier: TestVectors, fresh: dict[str, Array]
) -> dict[str, Array]:
    """The first of earlier requests, as many as the fresh ones; those where a model of other
    inputs came before, or has fewer, or a row is not answered.
    """
    kinds = {name: (array.shape, array.dtype) for name, array in fresh.items()}
    rows = len(next(iter(fresh.values())))
    first = {name: earlier.inputs[name][:rows] for name in fresh if name in earlier.inputs}
    if {name: (array.shape, array.dtype) for name, array in first.items()} != kinds:
        return fresh
    return first if answered_rows(source, first).answered.all() else fresh


def coarse(
    outputs: Mapping[str, Array], scales: Mapping[str, npt.NDArray[np.float64]], tolerance: float
) -> dict[str, Array]:
    """Answers rounded to less than a ROUNDED_SHARE of the tolerance: bits that no check needs take
    half of their bytes in a file. Those of exact layers stay as they are.

    Args:
        outputs: float32, by name.
        scales: of each, see `output_scale`.
        tolerance: in units of the scale.
    """
    if tolerance < LEAST_ROUNDED:
        return dict(outputs)
    rounded = {}
    for name, values in outputs.items():
        step = np.exp2(np.floor(np.log2(ROUNDED_SHARE * tolerance * scales[name])))
        rounded[name] = (np.rint(values / step) * step).astype(np.float32)
    return rounded


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
        try:
            outputs = source(repeated_request(first, context), tables)
        except SpecError:
            continue
        if all_finite(outputs).all():
            vectors.append(RankingVectors(context, outputs))
    return tuple(vectors)
