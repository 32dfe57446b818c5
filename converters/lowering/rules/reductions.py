"""Lowering rules of reductions, by those over neighbouring axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    constant_array,
    first_input,
    optional_input,
    rank_of,
    required_integers,
)
from ondevice.errors import UnsupportedError


def _axes(node: ir.Node) -> list[int]:
    """The axes of a reduction, in order: of its second input, of its attribute, or all."""
    rank = rank_of(node.inputs[0])
    axes = list(node.attributes.get_ints("axes", []))
    if (given_axes := optional_input(node, 1)) is not None:
        axes = required_integers(given_axes)
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        raise UnsupportedError("it has no axes, and noop_with_empty_axes")
    return sorted({axis % rank for axis in axes}) or list(range(rank))


def _reduced(builder: NodeBuilder, kind: str, x: ir.Value, node: ir.Node) -> ir.Value:
    """A reduction by runs of neighbouring axes, from the last."""
    keep, axes = node.attributes.get_int("keepdims", 1), _axes(node)
    runs: list[list[int]] = []
    for axis in axes:
        if runs and runs[-1][-1] == axis - 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    for run in reversed(runs):
        x = builder.op(kind, x, builder.ints(*run), keepdims=keep)
    return x


def _reduce(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A reduction over neighbouring axes at a time; of truth values, whether any or all are true.

    ONNX has the greatest and the least truth value, the native engine those of numbers.
    """
    axes, x = _axes(node), first_input(node)
    if x.dtype is ir.DataType.BOOL:
        numbers = builder.op("Cast", x, to=int(ir.DataType.INT64))
        reduced = _reduced(builder, node.op_type, numbers, node)
        return [builder.op("Cast", reduced, to=int(ir.DataType.BOOL))]
    are_neighbours = axes == list(range(axes[0], axes[-1] + 1))
    if are_neighbours and constant_array(optional_input(node, 1)) is not None:
        return None
    return [_reduced(builder, node.op_type, x, node)]


def _sum_between(before: str | None, after: str | None) -> Rule:
    """A sum of elements after one operator ("Square" is a product), and another one of the sum."""

    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        x = first_input(node)
        if before == "Square":
            x = builder.op("Mul", x, x)
        elif before is not None:
            x = builder.op(before, x)
        total = _reduced(builder, "ReduceSum", x, node)
        return [total if after is None else builder.op(after, total)]

    return rule


def _log_sum_exp(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x, axes = first_input(node), builder.ints(*_axes(node))
    largest = builder.op("ReduceMax", x, axes, keepdims=1)
    # where all are minus infinity, as behind a mask, infinity less infinity would be no number
    largest = builder.op("Max", largest, builder.constant(np.finfo(np.float32).min))
    powers = builder.op("Exp", builder.op("Sub", x, largest))
    total = builder.op("ReduceSum", powers, axes, keepdims=1)
    out = builder.op("Add", builder.op("Log", total), largest)
    return [out if node.attributes.get_int("keepdims", 1) else builder.op("Squeeze", out, axes)]


RULES: dict[str, Rule] = {
    "ReduceL1": _sum_between("Abs", None),
    "ReduceL2": _sum_between("Square", "Sqrt"),
    "ReduceLogSum": _sum_between(None, "Log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "ReduceSumSquare": _sum_between("Square", None),
}
