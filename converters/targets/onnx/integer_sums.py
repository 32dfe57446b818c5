"""Sums and products of int64 in operators that ONNX Runtime computes in integers.

Its ReduceSum and ReduceProd of int64 add and multiply doubles, which round beyond 2**53.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ondevice.converters.graph import PackedModel
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.operands import constant_integers, optional_input
from ondevice.converters.lowering.replace import replace_node

MOST_FACTORS = 256


def exact_integer_sums(packed: PackedModel) -> PackedModel:
    """A model whose integer sums and products are exact; the given one is not changed.

    A sum of truth values, which stays small, is left as it is.
    """
    packed = packed.cloned()
    graph = packed.model.graph
    for number, node in enumerate(list(graph)):
        value = node.inputs[0] if node.inputs else None
        if node.domain or node.op_type not in ("ReduceSum", "ReduceProd") or value is None:
            continue
        if value.dtype != ir.DataType.INT64 or value.shape is None or _is_of_truth_values(value):
            continue
        given = optional_input(node, 1)
        axes = range(len(value.shape)) if given is None else constant_integers(given)
        if axes is None:
            continue
        places = sorted(int(axis) % len(value.shape) for axis in axes)
        builder = NodeBuilder(graph, node, f"exact.{number}")
        reduce = _summed if node.op_type == "ReduceSum" else _multiplied
        result = reduce(builder, value, places)
        if result is None:
            continue
        if node.attributes.get_int("keepdims", 1):
            result = builder.op("Unsqueeze", result, builder.ints(*places))
        replace_node(graph, node, builder, [result])
    return packed


def _is_of_truth_values(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "Cast" or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype == ir.DataType.BOOL


def _summed(builder: NodeBuilder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Products with vectors of ones, the last axis first."""
    rank, shape = len(value.shape or ()), value.shape or ()
    for axis in reversed(axes):
        size = shape[axis]
        if isinstance(size, int):
            ones = builder.constant(np.ones(size), np.int64)
        else:
            length = builder.op("Shape", value, start=axis, end=axis + 1)
            ones = builder.op("ConstantOfShape", length, value=ir.tensor(np.ones(1, np.int64)))
        if axis < rank - 1:
            order = [place for place in range(rank) if place != axis]
            value = builder.op("Transpose", value, perm=[*order, axis])
        value = builder.op("MatMul", value, ones)
        rank -= 1
    return value


def _multiplied(builder: NodeBuilder, value: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    """Products of one element after another; None where there are many, or a free number."""
    every = [(value.shape or ())[axis] for axis in axes]
    sizes = [size for size in every if isinstance(size, int) and 0 < size <= MOST_FACTORS]
    if len(sizes) < len(every):
        return None
    for axis, size in zip(reversed(axes), reversed(sizes), strict=True):
        factors = [
            builder.op("Gather", value, builder.constant(place, np.int64), axis=axis)
            for place in range(size)
        ]
        value = factors[0]
        for factor in factors[1:]:
            value = builder.op("Mul", value, factor)
    return value
