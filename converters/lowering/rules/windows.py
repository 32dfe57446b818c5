"""Lowering rules that move a window or an edge over known sizes: pooling, padding, triangles."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    first_input,
    optional_input,
    rank_of,
    required_integers,
    shape_of,
)
from ondevice.errors import UnsupportedError

_LOWEST = float(np.finfo(np.float32).min)


def _pool(kind: str) -> Rule:
    """The largest, or the mean, of the elements under a window, as slices of the whole."""

    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        attributes, x = node.attributes, first_input(node)
        window = list(attributes.get_ints("kernel_shape", []))
        axes = len(window)
        strides = attributes.get_ints("strides", [1] * axes)
        dilations = attributes.get_ints("dilations", [1] * axes)
        pads = list(attributes.get_ints("pads", [0] * 2 * axes))
        sizes = shape_of(x)[2:]
        if any(isinstance(size, str) for size in sizes):
            raise UnsupportedError("a free size beside the batch")
        if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise UnsupportedError("padding that depends on the size")
        if attributes.get_int("ceil_mode", 0) or (len(node.outputs) > 1 and node.outputs[1].uses()):
            raise UnsupportedError("ceil_mode, or the places of the largest")
        if any(pads):
            if kind == "Add" and not attributes.get_int("count_include_pad", 0):
                raise UnsupportedError("a mean that leaves out its padding")
            edges = builder.ints(0, 0, *pads[:axes], 0, 0, *pads[axes:])
            fill = builder.constant(_LOWEST if kind == "Max" else 0.0)
            x = builder.op("Pad", x, edges, fill, mode="constant")
        whole = [int(size) + pads[i] + pads[i + axes] for i, size in enumerate(sizes)]
        counts = [
            (size - gap * (taps - 1) - 1) // step + 1
            for size, gap, taps, step in zip(whole, dilations, window, strides, strict=True)
        ]
        total: ir.Value | None = None
        for tap in np.ndindex(*window):
            part = x
            for i, at in enumerate(tap):
                start = at * dilations[i]
                stop = start + (counts[i] - 1) * strides[i] + 1
                part = builder.slice(part, 2 + i, start, stop, strides[i])
            total = part if total is None else builder.op(kind, total, part)
        if total is None:
            raise UnsupportedError("no window")
        if kind == "Add":
            total = builder.op("Mul", total, builder.constant(1 / math.prod(window)))
        return [total, *[None] * (len(node.outputs) - 1)]

    return rule


def _pool_all(kind: str) -> Rule:
    def rule(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
        axes = builder.ints(*range(2, rank_of(first_input(node))))
        return [builder.op(kind, first_input(node), axes, keepdims=1)]

    return rule


def _pad(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Padding by the elements of the edge: a selection of known places along each axis."""
    mode = node.attributes.get_string("mode", "constant")
    if mode == "constant":
        return None
    how = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
    x, pads, rank = first_input(node), required_integers(node.inputs[1]), rank_of(first_input(node))
    axes = optional_input(node, 3)
    places = (
        list(range(rank)) if axes is None else [axis % rank for axis in required_integers(axes)]
    )
    for number, axis in enumerate(places):
        before, after = pads[number], pads[number + len(places)]
        size = shape_of(first_input(node))[axis]
        if not before and not after:
            continue
        if isinstance(size, str):
            raise UnsupportedError("padding of a free axis")
        chosen = np.pad(np.arange(size), (before, after), mode=how)  # type: ignore[call-overload]
        x = builder.op("Gather", x, builder.constant(chosen, np.int64), axis=axis)
    return [x]


def _triangle(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A product with a mask; where, so that infinities beyond it vanish."""
    rows, columns = shape_of(first_input(node))[-2:]
    shift = (
        required_integers(optional_input(node, 1))[0] if optional_input(node, 1) is not None else 0
    )
    if isinstance(rows, str) or isinstance(columns, str):
        raise UnsupportedError("a free size")
    upper = node.attributes.get_int("upper", 1)
    ones = np.ones((rows, columns), bool)
    mask = builder.constant(np.triu(ones, shift) if upper else np.tril(ones, shift), np.bool_)
    dtype = np.float32 if node.outputs[0].dtype in (ir.DataType.FLOAT, None) else np.int64
    return [builder.op("Where", mask, first_input(node), builder.constant(0, dtype))]


def _diagonal(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    sizes = shape_of(first_input(node))
    dtype = node.outputs[0].dtype
    if any(isinstance(size, str) for size in sizes) or dtype is None:
        raise UnsupportedError("a free size")
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
