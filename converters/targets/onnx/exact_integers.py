"""Operators of int64 by others that every release of ONNX Runtime computes exactly.

Seen with releases 1.20 to 1.32 on x86-64: ReduceSum (since 1.28) and ReduceProd add and multiply
doubles, which round beyond 2**53, and so does Mod with the sign of the dividend (before 1.32). Max,
Min, Clip and Sign take integers just above 2**31 for negative ones (1.23 to 1.31, with AVX-512).
Division of the least integer by -1 ends the process, and by 0 it did before 1.26.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from ondevice.converters.graph import PackedModel
from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    constant_array,
    constant_integers,
    first_input,
    optional_input,
)
from ondevice.converters.lowering.replace import replace_node

MOST_FACTORS = 256


def exact_integers(packed: PackedModel) -> PackedModel:
    """A model whose integers are exact in ONNX Runtime; the given one is not changed."""
    packed = packed.cloned()
    graph = packed.model.graph
    for number, node in enumerate(list(graph)):
        rule = None if node.domain else _RULES.get(node.op_type)
        if rule is None or first_input(node).dtype != ir.DataType.INT64:
            continue
        builder = NodeBuilder(graph, node, f"exact.{number}")
        if (outputs := rule(builder, node)) is not None:
            replace_node(graph, node, builder, outputs)
    return packed


def _reduction(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A sum or product over axes; a sum of truth values, which stays small, is left as it is."""
    value, given = first_input(node), optional_input(node, 1)
    if value.shape is None or _is_of_truth_values(value):
        return None
    axes = range(len(value.shape)) if given is None else constant_integers(given)
    if axes is None:
        return None
    places = sorted(int(axis) % len(value.shape) for axis in axes)
    reduce = _summed if node.op_type == "ReduceSum" else _multiplied
    result = reduce(builder, value, places)
    if result is None:
        return None
    if node.attributes.get_int("keepdims", 1):
        result = builder.op("Unsqueeze", result, builder.ints(*places))
    return [result]


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


def _extreme(compare: str, builder: NodeBuilder, node: ir.Node) -> Outputs:
    """The greatest ("Greater") or least ("Less") of values, one after another."""
    values = [value for value in node.inputs if value is not None]
    best = values[0]
    for value in values[1:]:
        best = builder.op("Where", builder.op(compare, best, value), best, value)
    return [best]


def _clip(builder: NodeBuilder, node: ir.Node) -> Outputs:
    value = first_input(node)
    for place, compare in ((1, "Greater"), (2, "Less")):
        if (bound := optional_input(node, place)) is not None:
            value = builder.op("Where", builder.op(compare, value, bound), value, bound)
    return [value]


def _sign(builder: NodeBuilder, node: ir.Node) -> Outputs:
    zero = builder.constant(0, np.int64)
    above, below = (
        builder.op("Cast", builder.op(compare, first_input(node), zero), to=int(ir.DataType.INT64))
        for compare in ("Greater", "Less")
    )
    return [builder.op("Sub", above, below)]


def _quotient(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    dividend, divisor = first_input(node), node.inputs[1]
    if _is_harmless(divisor):
        return None
    minus = builder.op("Equal", divisor, builder.constant(-1, np.int64))
    quotient = builder.op("Div", dividend, _divisor(builder, divisor))
    return [builder.op("Where", minus, builder.op("Neg", dividend), quotient)]


def _remainder(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A remainder with the divisor's sign, and from that the one with the dividend's (`fmod`)."""
    dividend, divisor = first_input(node), node.inputs[1]
    of_dividend = node.attributes.get_int("fmod", 0)
    if _is_harmless(divisor) and not of_dividend:
        return None
    if not _is_harmless(divisor):
        divisor = _divisor(builder, divisor)
    rest = builder.op("Mod", dividend, divisor)
    if not of_dividend:
        return [rest]
    zero = builder.constant(0, np.int64)
    signs = (builder.op("Less", value, zero) for value in (dividend, divisor))
    exact = builder.op("Equal", rest, zero)
    other_side = builder.op("And", builder.op("Xor", *signs), builder.op("Not", exact))
    return [builder.op("Where", other_side, builder.op("Sub", rest, divisor), rest)]


def _is_harmless(divisor: ir.Value | None) -> bool:
    """Whether a division by it cannot end the process, as by 0 and by -1 it can."""
    number = constant_array(divisor)
    return number is not None and not np.isin(number, (0, -1)).any()


def _divisor(builder: NodeBuilder, divisor: ir.Value | None) -> ir.Value:
    """The divisor with 1 in the place of -1, which leaves the same rest; 0 fails the request.

    Before release 1.26 a division by 0 ended the process, and the least integer by -1 always did. A
    Gather beyond its values is an error in each.
    """
    ones = builder.constant([1], np.int64)
    is_zero = builder.op("Equal", divisor, builder.constant(0, np.int64))
    place = builder.op("Cast", is_zero, to=int(ir.DataType.INT64))
    one = builder.op("Gather", ones, place, axis=0)
    dangerous = builder.op(
        "Or", is_zero, builder.op("Equal", divisor, builder.constant(-1, np.int64))
    )
    return builder.op("Where", dangerous, one, divisor)


_RULES: dict[str, Rule] = {
    "Clip": _clip,
    "Div": _quotient,
    "Max": partial(_extreme, "Greater"),
    "Min": partial(_extreme, "Less"),
    "Mod": _remainder,
    "ReduceProd": _reduction,
    "ReduceSum": _reduction,
    "Sign": _sign,
}
