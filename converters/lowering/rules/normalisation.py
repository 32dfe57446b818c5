"""Lowering rules of normalisations: batch, layer, instance, group and norm, and LogSoftmax."""

from __future__ import annotations

import math

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    batch_norm_factors,
    constant_array,
    first_input,
    optional_input,
    rank_of,
    shape_of,
)
from ondevice.errors import UnsupportedError


def _batch_norm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    factors = batch_norm_factors(node)
    if factors is None or len(node.outputs) != 1:
        statistics = [constant_array(value) for value in node.inputs[3:5]]
        if node.attributes.get_int("training_mode", 0) or any(one is None for one in statistics):
            raise UnsupportedError(
                "it has no running statistics: it would mix the rows of a request"
            )
        raise UnsupportedError("its parameters are not constant")
    shape = [-1] + [1] * (rank_of(node.inputs[0]) - 2)
    scale, shift = (array.reshape(shape) for array in factors)
    scaled = builder.op("Mul", first_input(node), builder.constant(scale))
    return [builder.op("Add", scaled, builder.constant(shift))]


def _normalised(builder: NodeBuilder, x: ir.Value, axes: ir.Value, epsilon: float) -> ir.Value:
    """A value with mean 0 and variance 1 along axes."""
    centred = builder.op("Sub", x, builder.op("ReduceMean", x, axes, keepdims=1))
    variance = builder.op("ReduceMean", builder.op("Mul", centred, centred), axes, keepdims=1)
    spread = builder.op("Sqrt", builder.op("Add", variance, builder.constant(epsilon)))
    return builder.op("Div", centred, spread)


def _layer_norm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    rank = rank_of(node.inputs[0])
    axis = node.attributes.get_int("axis", -1) % rank
    axes = builder.ints(*range(axis, rank))
    x = _normalised(builder, first_input(node), axes, node.attributes.get_float("epsilon", 1e-5))
    x = builder.op("Mul", x, node.inputs[1])
    if (bias := optional_input(node, 2)) is not None:
        x = builder.op("Add", x, bias)
    return [x, *[None] * (len(node.outputs) - 1)]


def _instance_norm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    rank = rank_of(node.inputs[0])
    scale, bias = (constant_array(value) for value in node.inputs[1:3])
    if scale is None or bias is None:
        raise UnsupportedError("its parameters are not constant")
    axes = builder.ints(*range(2, rank))
    shape = [-1] + [1] * (rank - 2)
    x = _normalised(builder, first_input(node), axes, node.attributes.get_float("epsilon", 1e-5))
    x = builder.op("Mul", x, builder.constant(scale.reshape(shape)))
    return [builder.op("Add", x, builder.constant(bias.reshape(shape)))]


def _group_norm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    scale, bias = (constant_array(value) for value in node.inputs[1:3])
    groups, sizes = node.attributes.get_int("num_groups", 1), shape_of(node.inputs[0])
    if scale is None or bias is None:
        raise UnsupportedError("its parameters are not constant")
    if any(isinstance(size, str) for size in sizes[1:]):
        raise UnsupportedError("a size beside the batch is free")
    rest = [int(size) for size in sizes[1:]]
    target = builder.ints(-1, groups, math.prod(rest) // groups)
    x = builder.op("Reshape", first_input(node), target)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    x = _normalised(builder, x, builder.ints(2), epsilon)
    x = builder.op("Reshape", x, builder.ints(-1, *rest))
    shape = [-1] + [1] * (len(rest) - 1)
    x = builder.op("Mul", x, builder.constant(scale.reshape(shape)))
    return [builder.op("Add", x, builder.constant(bias.reshape(shape)))]


def _log_softmax(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x, axis = first_input(node), builder.ints(node.attributes.get_int("axis", -1))
    shifted = builder.op("Sub", x, builder.op("ReduceMax", x, axis, keepdims=1))
    total = builder.op("ReduceSum", builder.op("Exp", shifted), axis, keepdims=1)
    return [builder.op("Sub", shifted, builder.op("Log", total))]


def _lp_norm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Vectors along an axis divided by their norm, 1 or 2; zeros stay."""
    x, axis = first_input(node), builder.ints(node.attributes.get_int("axis", -1))
    if node.attributes.get_int("p", 2) == 1:
        size = builder.op("ReduceSum", builder.op("Abs", x), axis, keepdims=1)
    else:
        size = builder.op("ReduceSum", builder.op("Mul", x, x), axis, keepdims=1)
        size = builder.op("Sqrt", size)
    zero = builder.op("Equal", size, builder.constant(0.0))
    return [builder.op("Div", x, builder.op("Where", zero, builder.constant(1.0), size))]


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_norm,
}
