"""Batch-first rules of reductions and of what they make: normalisations and softmax."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from ondevice.converters.lowering.batch_first.context import LayoutRule, Rewrite
from ondevice.converters.lowering.batch_first.elementwise import combined
from ondevice.converters.lowering.batch_first.layout import Layout, LayoutError, merged_last
from ondevice.converters.lowering.batch_first.shapes import constant_axes
from ondevice.converters.lowering.operands import attribute_values, batch_norm_factors

REDUCTIONS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
}  # fmt: skip
# Reductions that leave a single element as it is.
_IDENTITY_OF_ONE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


def _reduction(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """A reduction over all parts of the axes; over axes without a part it is no operator."""
    x = rewrite.layout_of(node.inputs[0])
    axes = constant_axes(node, x.rank)
    removed = sorted(i for axis in axes for i in x.groups[axis])
    if 0 in removed or not axes:
        raise LayoutError
    keep = node.attributes.get_int("keepdims", 1)
    left = [i for i in range(len(x.sizes)) if i not in removed]
    sizes = tuple(x.sizes[i] for i in left)
    out = x.value
    if removed:
        inputs = [x.value, rewrite.builder.ints(*removed)]
        out = rewrite.builder.typed_op(node.op_type, inputs, sizes, x.value.dtype, keepdims=0)
    elif node.op_type not in _IDENTITY_OF_ONE:
        raise LayoutError
    groups = [
        () if axis in axes else tuple(left.index(i) for i in group)
        for axis, group in enumerate(x.groups)
        if keep or axis not in axes
    ]
    return [Layout(out, sizes, tuple(groups))]


def _softmax(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    x = rewrite.layout_of(node.inputs[0])
    axis = x.single_axis(node.attributes.get_int("axis", -1) % x.rank)
    out = rewrite.builder.typed_op(node.op_type, [x.value], x.sizes, x.value.dtype, axis=axis)
    return [replace(x, value=out)]


def _batch_norm(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    factors = batch_norm_factors(node)
    if factors is None:
        raise LayoutError
    rank = rewrite.layout_of(node.inputs[0]).rank
    scale, shift = (array.reshape([1, -1] + [1] * (rank - 2)) for array in factors)
    dtype = node.outputs[0].dtype
    scaled = combined(rewrite, "Mul", [node.inputs[0], scale], dtype)
    return [combined(rewrite, "Add", [scaled, shift], dtype)]


def _layer_norm(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    x = rewrite.layout_of(node.inputs[0])
    if node.attributes.get_int("axis", -1) % x.rank != x.rank - 1:
        raise LayoutError
    if any(output.uses() for output in node.outputs[1:]):
        raise LayoutError
    x = merged_last(rewrite.builder, x, x.rank - 1)
    attributes = {**attribute_values(node), "axis": -1}
    inputs = [x.value, *node.inputs[1:]]
    out = rewrite.builder.typed_op(node.op_type, inputs, x.sizes, x.value.dtype, **attributes)
    return [replace(x, value=out)]


RULES: dict[str, LayoutRule] = {
    **dict.fromkeys(REDUCTIONS, _reduction),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "Softmax": _softmax,
}
