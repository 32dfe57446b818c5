"""Lowering rules that move a window or an edge over known sizes: pooling, padding, triangles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.free_sizes import is_batch
from ondevice.converters.lowering.operands import (
    first_input,
    optional_input,
    rank_of,
    required_integers,
    shape_of,
    triangle_mask,
)
from ondevice.converters.lowering.rules.shapes import counted
from ondevice.converters.lowering.symbolic_shapes import Size
from ondevice.errors import UnsupportedError

_LOWEST = float(np.finfo(np.float32).min)


def _pool(kind: str) -> Rule:
    """The largest, or the mean, of the elements under a window, as slices of the whole."""

    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        """Combine one strided slice for each place in the window."""
        _check_pool(node, kind)
        attributes, x = node.attributes, first_input(node)
        window = list(attributes.get_ints("kernel_shape", []))
        axes = len(window)
        strides = attributes.get_ints("strides", [1] * axes)
        dilations = attributes.get_ints("dilations", [1] * axes)
        pads = list(attributes.get_ints("pads", [0] * 2 * axes))
        if any(pads):
            edges = builder.ints(0, 0, *pads[:axes], 0, 0, *pads[axes:])
            fill = builder.constant(_LOWEST if kind == "Max" else 0.0)
            x = builder.op("Pad", x, edges, fill, mode="constant")
        sizes = shape_of(first_input(node))[2:]
        padded = [int(size) + pads[i] + pads[i + axes] for i, size in enumerate(sizes)]
        counts = [
            (size - dilation * (taps - 1) - 1) // step + 1
            for size, dilation, taps, step in zip(padded, dilations, window, strides, strict=True)
        ]
        total: ir.Value | None = None
        for tap in np.ndindex(*window):
            part = x
            for i, place in enumerate(tap):
                start = place * dilations[i]
                stop = start + (counts[i] - 1) * strides[i] + 1
                part = builder.slice(part, 2 + i, start, stop, strides[i])
            total = part if total is None else builder.op(kind, total, part)
        if total is None:
            raise UnsupportedError("its window is empty")
        if kind == "Add":
            total = builder.op("Mul", total, builder.constant(1 / math.prod(window)))
        return [total, *[None] * (len(node.outputs) - 1)]

    return rule


def _check_pool(node: ir.Node, kind: str) -> None:
    """Raise UnsupportedError for a form of pooling that slices do not express."""
    attributes = node.attributes
    if any(isinstance(size, str) for size in shape_of(first_input(node))[2:]):
        raise UnsupportedError("a size beside the batch is free")
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError("its padding depends on the size")
    if attributes.get_int("ceil_mode", 0) or (len(node.outputs) > 1 and node.outputs[1].uses()):
        raise UnsupportedError("it has ceil_mode, or returns the places of the largest")
    is_padded = any(attributes.get_ints("pads", []))
    if kind == "Add" and is_padded and not attributes.get_int("count_include_pad", 0):
        raise UnsupportedError("its mean leaves out the padding (count_include_pad is 0)")


def _pool_all(kind: str) -> Rule:
    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        axes = builder.ints(*range(2, rank_of(first_input(node))))
        return [builder.op(kind, first_input(node), axes, keepdims=1)]

    return rule


def _pad(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Padding by the elements of the edge: a selection of known places along each axis.

    Raises:
        UnsupportedError: pads that are not constant, or of an axis whose size is free.
    """
    mode = node.attributes.get_string("mode", "constant")
    if mode == "constant":
        return None
    x, pads, sizes = first_input(node), required_integers(node.inputs[1]), shape_of(node.inputs[0])
    axes = list(range(len(sizes)))
    if (given_axes := optional_input(node, 3)) is not None:
        axes = [axis % len(sizes) for axis in required_integers(given_axes)]
    for number, axis in enumerate(axes):
        before, after = pads[number], pads[number + len(axes)]
        size = sizes[axis]
        if not before and not after:
            continue
        if isinstance(size, str):
            raise UnsupportedError("it pads an axis whose size is free")
        places = np.pad(np.arange(size), (before, after), mode=mode)  # type: ignore[call-overload]
        x = builder.op("Gather", x, builder.constant(places, np.int64), axis=axis)
    return [x]


def _triangle(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A selection by a mask, not a product with it, so that infinities outside vanish."""
    x, sizes = first_input(node), shape_of(first_input(node))[-2:]
    if any(isinstance(size, str) for size in sizes):
        mask = _free_triangle(builder, node, sizes)
    else:
        mask = builder.constant(triangle_mask(node), np.bool_)
    dtype = node.outputs[0].dtype
    if dtype == ir.DataType.BOOL:
        return [builder.op("And", x, mask)]
    zero = builder.constant(0, np.float32 if dtype in (ir.DataType.FLOAT, None) else np.int64)
    return [builder.op("Where", mask, x, zero)]


def _free_triangle(builder: NodeBuilder, node: ir.Node, sizes: Sequence[Size]) -> ir.Value:
    """The same mask where a size is free: a comparison of the numbers of rows and columns.

    Raises:
        UnsupportedError: a matrix of the request's rows, or a diagonal that is not constant.
    """
    if any(is_batch(builder, size) for size in sizes):
        raise UnsupportedError("its matrices are of the request's rows")
    diagonal = optional_input(node, 1)
    shift = 0 if diagonal is None else required_integers(diagonal)[0]
    rows, columns = (counted(builder, size) for size in sizes)
    rows = builder.op("Add", builder.op("Unsqueeze", rows, builder.ints(1)), builder.ints(shift))
    kind = "GreaterOrEqual" if node.attributes.get_int("upper", 1) else "LessOrEqual"
    return builder.op(kind, builder.op("Unsqueeze", columns, builder.ints(0)), rows)


def _diagonal(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    sizes = shape_of(first_input(node))
    dtype = node.outputs[0].dtype
    if any(isinstance(size, str) for size in sizes) or dtype is None:
        raise UnsupportedError("a size, or its dtype, is not known")
    rows, columns = (int(size) for size in sizes)
    ones = np.eye(rows, columns, node.attributes.get_int("k", 0))
    return [builder.constant(ones, dtype.numpy())]


RULES: dict[str, Rule] = {
    "AveragePool": _pool("Add"),
    "EyeLike": _diagonal,
    "GlobalAveragePool": _pool_all("ReduceMean"),
    "GlobalMaxPool": _pool_all("ReduceMax"),
    "MaxPool": _pool("Max"),
    "Pad": _pad,
    "Trilu": _triangle,
}
