"""Lowering rules that move a window or an edge over known sizes: pooling, padding, triangles."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import Lowering, Outputs, Rule
from ondevice.converters.lowering.operands import (
    array_of,
    first_of,
    fixed,
    operand,
    rank_of,
    shape_of,
)
from ondevice.errors import UnsupportedError

_LOWEST = float(np.finfo(np.float32).min)


def _pool(kind: str) -> Rule:
    """The largest, or the mean, of the elements under a window, as slices of the whole."""

    def rule(made: Lowering, node: ir.Node) -> Outputs | None:
        attributes, x = node.attributes, first_of(node)
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
            edges = made.ints(0, 0, *pads[:axes], 0, 0, *pads[axes:])
            fill = made.constant(_LOWEST if kind == "Max" else 0.0)
            x = made.op("Pad", x, edges, fill, mode="constant")
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
                part = made.slice(part, 2 + i, start, stop, strides[i])
            total = part if total is None else made.op(kind, total, part)
        if total is None:
            raise UnsupportedError("no window")
        if kind == "Add":
            total = made.op("Mul", total, made.constant(1 / math.prod(window)))
        return [total, *[None] * (len(node.outputs) - 1)]

    return rule


def _pool_all(kind: str) -> Rule:
    def rule(made: Lowering, node: ir.Node) -> Outputs | None:
        axes = made.ints(*range(2, rank_of(first_of(node))))
        return [made.op(kind, first_of(node), axes, keepdims=1)]

    return rule


def _pad(made: Lowering, node: ir.Node) -> Outputs | None:
    """Padding by the elements of the edge: a selection of known places along each axis."""
    mode = node.attributes.get_string("mode", "constant")
    if mode == "constant":
        return None
    how = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
    x, pads, rank = first_of(node), fixed(node.inputs[1]), rank_of(first_of(node))
    axes = operand(node, 3)
    places = list(range(rank)) if axes is None else [axis % rank for axis in fixed(axes)]
    for number, axis in enumerate(places):
        before, after = pads[number], pads[number + len(places)]
        size = shape_of(first_of(node))[axis]
        if not before and not after:
            continue
        if isinstance(size, str):
            raise UnsupportedError("padding of a free axis")
        chosen = np.pad(np.arange(size), (before, after), mode=how)  # type: ignore[call-overload]
        x = made.op("Gather", x, made.constant(chosen, np.int64), axis=axis)
    return [x]


def _triangle(made: Lowering, node: ir.Node) -> Outputs | None:
    """A product with a mask; where, so that infinities beyond it vanish."""
    rows, columns = shape_of(first_of(node))[-2:]
    shift = fixed(operand(node, 1))[0] if operand(node, 1) is not None else 0
    if isinstance(rows, str) or isinstance(columns, str):
        raise UnsupportedError("a free size")
    upper = node.attributes.get_int("upper", 1)
    ones = np.ones((rows, columns), bool)
    mask = made.constant(np.triu(ones, shift) if upper else np.tril(ones, shift), np.bool_)
    dtype = np.float32 if node.outputs[0].dtype in (ir.DataType.FLOAT, None) else np.int64
    return [made.op("Where", mask, first_of(node), made.constant(0, dtype))]


def _diagonal(made: Lowering, node: ir.Node) -> Outputs | None:
    sizes = shape_of(first_of(node))
    dtype = node.outputs[0].dtype
    if any(isinstance(size, str) for size in sizes) or dtype is None:
        raise UnsupportedError("a free size")
    rows, columns = (int(size) for size in sizes)
    ones = np.eye(rows, columns, node.attributes.get_int("k", 0))
    return [made.constant(ones, dtype.numpy())]


def _group_norm(made: Lowering, node: ir.Node) -> Outputs | None:
    x, scale, bias = first_of(node), array_of(node.inputs[1]), array_of(node.inputs[2])
    groups, sizes = node.attributes.get_int("num_groups", 1), shape_of(first_of(node))
    if scale is None or bias is None or any(isinstance(size, str) for size in sizes[1:]):
        raise UnsupportedError("a free size, or weights that are not constant")
    rest = [int(size) for size in sizes[1:]]
    parts = made.op("Reshape", x, made.ints(-1, groups, math.prod(rest) // groups))
    last = made.ints(2)
    centred = made.op("Sub", parts, made.op("ReduceMean", parts, last, keepdims=1))
    squares = made.op("ReduceMean", made.op("Mul", centred, centred), last, keepdims=1)
    epsilon = made.constant(node.attributes.get_float("epsilon", 1e-5))
    normed = made.op("Div", centred, made.op("Sqrt", made.op("Add", squares, epsilon)))
    out = made.op("Reshape", normed, made.ints(-1, *rest))
    each = (-1, *[1] * (len(rest) - 1))
    scaled = made.op("Mul", out, made.constant(scale.reshape(each)))
    return [made.op("Add", scaled, made.constant(bias.reshape(each)))]


def _scatter_elements(made: Lowering, node: ir.Node) -> Outputs | None:
    """x[:, 2] = y: one known place along an axis, repeated over all others."""
    x, updates = first_of(node), node.inputs[2]
    rank = rank_of(x)
    axis = node.attributes.get_int("axis", 0) % rank
    place, size = _same_place(node.inputs[1]), shape_of(x)[axis]
    if place is None or isinstance(size, str) or shape_of(updates)[axis] != 1 or axis == 0:
        raise UnsupportedError("places that depend on the request, or several")
    if node.attributes.get_string("reduction", "none") != "none" or updates is None:
        raise UnsupportedError("a reduction")
    place %= size
    parts = [made.slice(x, axis, 0, place)] if place else []
    parts.append(updates)
    if place + 1 < size:
        parts.append(made.slice(x, axis, place + 1, size))
    return [made.op("Concat", *parts, axis=axis) if len(parts) > 1 else updates]


def _same_place(value: ir.Value | None) -> int | None:
    """The one number in a value that repeats it."""
    node = None if value is None else value.producer()
    while array_of(value) is None and node is not None and node.op_type in _REPEATING:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    array = array_of(value)
    return int(array.flat[0]) if array is not None and len(np.unique(array)) == 1 else None


_REPEATING = {"Cast", "Expand", "ExpandRows", "Identity", "Reshape", "Unsqueeze"}


def backwards(made: Lowering, node: ir.Node) -> Outputs | None:
    """A slice with a negative step, as a selection."""
    starts, stops = fixed(node.inputs[1]), fixed(node.inputs[2])
    axes = fixed(node.inputs[3]) if operand(node, 3) is not None else list(range(len(starts)))
    steps = fixed(node.inputs[4]) if operand(node, 4) is not None else [1] * len(starts)
    if all(step > 0 for step in steps):
        return None
    x, sizes = first_of(node), shape_of(first_of(node))
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        size = sizes[axis]
        if step > 0:
            x = made.slice(x, axis, start, stop, step)
            continue
        if isinstance(size, str):
            raise UnsupportedError("a free size")
        last = None if stop < -size else stop
        chosen = np.arange(size)[start:last:step]
        x = made.op("Gather", x, made.constant(chosen, np.int64), axis=axis % len(sizes))
    return [x]


WINDOWS: dict[str, Rule] = {
    "AveragePool": _pool("Add"),
    "EyeLike": _diagonal,
    "GlobalAveragePool": _pool_all("ReduceMean"),
    "GlobalMaxPool": _pool_all("ReduceMax"),
    "GroupNormalization": _group_norm,
    "MaxPool": _pool("Max"),
    "Pad": _pad,
    "ScatterElements": _scatter_elements,
    "Trilu": _triangle,
}
