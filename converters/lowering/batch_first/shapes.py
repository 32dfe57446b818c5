"""Batch-first rules of operators that move, join or repeat whole axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.batch_first.context import LayoutRule, Rewrite
from ondevice.converters.lowering.batch_first.layout import (
    Layout,
    LayoutError,
    known_size,
    permuted,
    reshaped,
    with_unit_axis,
    without_unit_axes,
)
from ondevice.converters.lowering.batch_first.regroup import regrouped
from ondevice.converters.lowering.free_sizes import request_rows
from ondevice.converters.lowering.operands import constant_array, fill_value, rank_of
from ondevice.converters.lowering.symbolic_shapes import Size, integers

Array = npt.NDArray[Any]


def _transpose(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    x = rewrite.layout_of(node.inputs[0])
    perm = list(node.attributes.get_ints("perm", range(x.rank)[::-1]))
    return [replace(x, groups=tuple(x.groups[i] for i in perm))]


def _reshape(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """The target with the batch by its name, and -1 for a size that is not known otherwise."""
    x = rewrite.layout_of(node.inputs[0])
    sizes = integers(node.inputs[1])
    shape = node.outputs[0].shape
    if sizes is None and shape is not None:
        sizes = [size if isinstance(size, int) else str(size) for size in shape]
    if sizes is None:
        raise LayoutError
    target: list[Size] = []
    for axis, size in enumerate(sizes):
        if size == 0:  # that of the input
            group = x.groups[axis]
            free = any(isinstance(x.sizes[i], str) for i in group)
            size = -1 if free else math.prod(known_size(x.sizes[i]) for i in group)
            size = rewrite.batch if group == (0,) and rewrite.batch else size
        target.append(size if size == rewrite.batch or not isinstance(size, str) else -1)
    return [regrouped(rewrite.builder, x, target)]


def _squeeze(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    x = rewrite.layout_of(node.inputs[0])
    axes = constant_axes(node, x.rank)
    if any(x.sizes[i] != 1 for axis in axes for i in x.groups[axis]):
        raise LayoutError
    left = [i for i in range(len(x.sizes)) if not any(i in x.groups[axis] for axis in axes)]
    sizes = tuple(x.sizes[i] for i in left)
    value = x.value if len(left) == len(x.sizes) else reshaped(rewrite.builder, x.value, sizes)
    groups = tuple(
        tuple(left.index(i) for i in group)
        for axis, group in enumerate(x.groups)
        if axis not in axes
    )
    return [Layout(value, sizes, groups)]


def _unsqueeze(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    x = rewrite.layout_of(node.inputs[0])
    rank = x.rank + len(integers(node.inputs[1]) or ())
    axes = constant_axes(node, rank)
    remaining = iter(x.groups)
    return [
        replace(x, groups=tuple(() if axis in axes else next(remaining) for axis in range(rank)))
    ]


def constant_axes(node: ir.Node, rank: int) -> set[int]:
    """The axes that the second input of a node names, counted from the front.

    Raises:
        LayoutError: they are left out, or not constant.
    """
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        raise LayoutError
    return {known_size(axis) % rank for axis in axes}


def _concat(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """Parts in the layout of the first; rows behind rows become an axis of their own."""
    parts = [rewrite.layout_of(value) for value in node.inputs]
    axis = node.attributes.get_int("axis", 0) % parts[0].rank
    joins_rows = all(part.groups[axis] == (0,) for part in parts)
    if joins_rows or not any(part.groups[axis] for part in parts):  # or it is a stack
        parts = [with_unit_axis(rewrite.builder, part, axis) for part in parts]
    first = parts[0]
    value_axis = 1 if joins_rows else first.single_axis(axis)
    values: list[ir.Value] = []
    total = 0
    for part in parts:
        part = _arranged_like(rewrite, part, first)
        if any(
            a != b
            for i, (a, b) in enumerate(zip(part.sizes, first.sizes, strict=True))
            if i != value_axis
        ):
            raise LayoutError
        values.append(part.value)
        total += known_size(part.sizes[value_axis])
    sizes = (*first.sizes[:value_axis], total, *first.sizes[value_axis + 1 :])
    out = rewrite.builder.typed_op("Concat", values, sizes, first.value.dtype, axis=value_axis)
    return [replace(first, value=out, sizes=sizes)]


def _arranged_like(rewrite: Rewrite, layout: Layout, model: Layout) -> Layout:
    """A layout whose axes are in the order of another one.

    Raises:
        LayoutError: they belong to the axes of the original in another way.
    """
    if [len(group) for group in layout.groups] != [len(group) for group in model.groups]:
        raise LayoutError
    axis_of = {
        i: j
        for group, other in zip(model.groups, layout.groups, strict=True)
        for i, j in zip(group, other, strict=True)
    }
    if sorted(axis_of) != list(range(len(model.sizes))):
        raise LayoutError
    return permuted(rewrite.builder, layout, [axis_of[i] for i in range(len(model.sizes))])


def _expand(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """A constant that is filled in for every row, or a value whose axes of size 1 grow.

    Raises:
        LayoutError: a size of the result is not known, or the batch is repeated.
    """
    x, shape = node.inputs[0], node.outputs[0].shape
    if (array := constant_array(x)) is not None:
        like = rewrite.layout_like(node)
        if like is not None and array.size == 1:
            return [_filled_like(rewrite, like, array)]
        return [_filled(rewrite, node, array)]
    if shape is None:
        raise LayoutError
    layout = without_unit_axes(rewrite.builder, rewrite.layout_of(x), rank_of(x))
    target: list[Size] = [size if isinstance(size, int) else str(size) for size in shape]
    layout = replace(layout, groups=((),) * (len(target) - layout.rank) + layout.groups)
    grown = {
        axis: known_size(size)
        for axis, size in enumerate(target)
        if not layout.groups[axis] and size != 1
    }
    return [_repeated(rewrite, layout, grown)]


def _tile(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """Repeats of whole axes; those of the batch are the outer part of its axis.

    Raises:
        LayoutError: a number of repeats is not known.
    """
    repeats = integers(node.inputs[1])
    if repeats is None:
        raise LayoutError
    times = {axis: known_size(count) for axis, count in enumerate(repeats) if count != 1}
    return [_repeated(rewrite, rewrite.layout_of(node.inputs[0]), times)]


def _repeated(rewrite: Rewrite, layout: Layout, times: Mapping[int, int]) -> Layout:
    """A layout with axes of the original repeated as a whole, by their number of times."""
    if not times:
        return layout
    for axis in times:
        layout = with_unit_axis(rewrite.builder, layout, axis)
    sizes = (layout.sizes[0], *list(times.values())[::-1], *layout.sizes[1 + len(times) :])
    target = rewrite.builder.ints(1, *(known_size(size) for size in sizes[1:]))
    out = rewrite.builder.typed_op("Expand", [layout.value, target], sizes, layout.value.dtype)
    return replace(layout, value=out, sizes=sizes)


def _constant_of_shape(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    return [_filled(rewrite, node, fill_value(node))]


def _filled(rewrite: Rewrite, node: ir.Node, array: Array) -> Layout:
    """A constant that is repeated to the shape of a node's output, whose first axis is no batch.

    Raises:
        LayoutError: the first axis is the batch, or another one is free.
    """
    axis, shape = rewrite.batch_axis(node.outputs[0]), node.outputs[0].shape
    if axis < 1 or shape is None:
        raise LayoutError
    rest = [size for size in shape if isinstance(size, int)]
    row = np.broadcast_to(array, [*rest[:axis], 1, *rest[axis:]])
    moved = np.ascontiguousarray(np.moveaxis(row, axis, 0))
    constant = rewrite.builder.constant(moved, moved.dtype)
    sizes: Sequence[Size] = (str(shape[axis]), *rest)
    inputs = [constant, request_rows(rewrite.builder)]
    out = rewrite.builder.typed_op("ExpandRows", inputs, sizes, node.outputs[0].dtype)
    order = [axis, *(i for i in range(len(shape)) if i != axis)]
    return Layout(out, tuple(sizes), tuple((order.index(i),) for i in range(len(shape))))


def _filled_like(rewrite: Rewrite, like: Layout, array: Array) -> Layout:
    """A number in the layout of another value, as of `torch.zeros_like`."""
    sizes = [known_size(size) for size in like.sizes[1:]]
    row = rewrite.builder.constant(np.full([1, *sizes], array.item()), array.dtype)
    inputs = [row, request_rows(rewrite.builder)]
    out = rewrite.builder.typed_op("ExpandRows", inputs, like.sizes, row.dtype)
    return replace(like, value=out)


RULES: dict[str, LayoutRule] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
