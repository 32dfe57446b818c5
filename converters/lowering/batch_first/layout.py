"""The layout algebra: a value that is kept batch first in another shape, and moves of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.symbolic_shapes import Size

Group = tuple[int, ...]


class LayoutError(Exception):
    """A rule cannot work on the layouts of its operands; the operator then reads the originals."""


@dataclass(frozen=True)
class Layout:
    """A value that is kept batch first.

    Attributes:
        value: the tensor that stands for the original; its first axis is the batch.
        sizes: its sizes.
        groups: for every axis of the original, the axes of `value` that it joins, in order; none
            for an axis of size 1.
    """

    value: ir.Value
    sizes: tuple[Size, ...]
    groups: tuple[Group, ...]

    @property
    def rank(self) -> int:
        """Number of axes of the original."""
        return len(self.groups)

    @property
    def is_original(self) -> bool:
        """Whether the value is the original."""
        return self.groups == tuple((i,) for i in range(len(self.sizes)))

    def single_axis(self, axis: int) -> int:
        """The axis of `value` that is the whole of an axis of the original.

        Raises:
            LayoutError: it is several axes, none, or the batch.
        """
        group = self.groups[axis]
        if len(group) != 1 or group == (0,):
            raise LayoutError
        return group[0]

    def key(self, axis: int) -> tuple[int, int]:
        """The axis of the original that an axis of `value` belongs to, and its number in it.

        Raises:
            LayoutError: it is of size 1 and belongs to none.
        """
        for number, group in enumerate(self.groups):
            if axis in group:
                return number, group.index(axis)
        raise LayoutError


def known_size(size: Size) -> int:
    """A size that is not free.

    Raises:
        LayoutError: it is free.
    """
    if isinstance(size, str):
        raise LayoutError
    return size


def permuted(builder: NodeBuilder, layout: Layout, order: Sequence[int]) -> Layout:
    """The same layout with the axes of its value in another order.

    Raises:
        LayoutError: the batch would not be first.
    """
    if list(order) == list(range(len(order))):
        return layout
    if order[0] != 0:
        raise LayoutError
    sizes = [layout.sizes[i] for i in order]
    dtype = layout.value.dtype
    value = builder.typed_op("Transpose", [layout.value], sizes, dtype, perm=list(order))
    groups = tuple(tuple(list(order).index(i) for i in group) for group in layout.groups)
    return Layout(value, tuple(sizes), groups)


def reshaped(builder: NodeBuilder, value: ir.Value, sizes: Sequence[Size]) -> ir.Value:
    """A value in other sizes, the batch first.

    Raises:
        LayoutError: a size behind the batch is free.
    """
    if any(isinstance(size, str) for size in sizes[1:]):
        raise LayoutError
    target = builder.ints(-1, *(known_size(size) for size in sizes[1:]))
    return builder.typed_op("Reshape", [value, target], sizes, value.dtype)


def split_axes(builder: NodeBuilder, layout: Layout, parts: dict[int, list[int]]) -> Layout:
    """Every axis of the value that is in `parts` as several, of the sizes given there."""
    if not any(len(sizes) > 1 for sizes in parts.values()):
        return layout
    sizes: list[Size] = []
    new_axes: list[list[int]] = []
    for axis, size in enumerate(layout.sizes):
        part_sizes = parts.get(axis, [size])
        new_axes.append(list(range(len(sizes), len(sizes) + len(part_sizes))))
        sizes += part_sizes
    groups = tuple(tuple(j for i in group for j in new_axes[i]) for group in layout.groups)
    return Layout(reshaped(builder, layout.value, sizes), tuple(sizes), groups)


def merged_last(builder: NodeBuilder, layout: Layout, axis: int) -> Layout:
    """An axis of the original as the last axis of the value.

    Raises:
        LayoutError: the batch is part of the axis, or nothing is.
    """
    group = layout.groups[axis]
    if not group or 0 in group:
        raise LayoutError
    rest = [i for i in range(len(layout.sizes)) if i not in group]
    layout = permuted(builder, layout, [*rest, *group])
    if len(group) == 1:
        return layout
    merged = math.prod(known_size(layout.sizes[i]) for i in layout.groups[axis])
    sizes = (*layout.sizes[: len(rest)], merged)
    groups = list(layout.groups)
    groups[axis] = (len(rest),)
    return Layout(reshaped(builder, layout.value, sizes), sizes, tuple(groups))


def merged_neighbours(builder: NodeBuilder, layout: Layout) -> Layout:
    """Axes of the original as one where their parts lie side by side, without the batch."""
    for axis, group in enumerate(layout.groups):
        if len(group) < 2 or 0 in group or group != (*range(group[0], group[-1] + 1),):
            continue
        size = math.prod(known_size(layout.sizes[i]) for i in group)
        sizes = (*layout.sizes[: group[0]], size, *layout.sizes[group[-1] + 1 :])
        removed = len(group) - 1
        groups = [tuple(i - removed * (i > group[-1]) for i in g) for g in layout.groups]
        groups[axis] = (group[0],)
        merged = Layout(reshaped(builder, layout.value, sizes), sizes, tuple(groups))
        return merged_neighbours(builder, merged)
    return layout


def without_unit_axes(builder: NodeBuilder, layout: Layout, rank: int) -> Layout:
    """Without axes of size 1 inside the first `rank` axes of the original."""
    removed = {i for g in layout.groups[:rank] for i in g if i and layout.sizes[i] == 1}
    if not removed:
        return layout
    left = [i for i in range(len(layout.sizes)) if i not in removed]
    sizes = tuple(layout.sizes[i] for i in left)
    groups = tuple(tuple(left.index(i) for i in g if i not in removed) for g in layout.groups)
    return Layout(reshaped(builder, layout.value, sizes), sizes, groups)


def with_unit_axis(builder: NodeBuilder, layout: Layout, axis: int) -> Layout:
    """With an axis of size 1 behind the batch as the first part of an axis of the original."""
    sizes = (layout.sizes[0], 1, *layout.sizes[1:])
    groups = [tuple(i + (i > 0) for i in group) for group in layout.groups]
    groups[axis] = (1, *groups[axis])
    return Layout(reshaped(builder, layout.value, sizes), sizes, tuple(groups))


def restored(builder: NodeBuilder, layout: Layout, shape: ir.Shape | None) -> ir.Value:
    """The original value, of the given shape."""
    layout = merged_neighbours(builder, without_unit_axes(builder, layout, layout.rank))
    empty = [axis for axis, group in enumerate(layout.groups) if not group]
    if empty and all(len(group) <= 1 for group in layout.groups):
        # with the axes of size 1 put in first, the original is a transpose, which the next rule
        # may undo
        count = len(layout.sizes)
        sizes = (*layout.sizes, *[1] * len(empty))
        groups = tuple(
            group or (count + empty.index(axis),) for axis, group in enumerate(layout.groups)
        )
        layout = Layout(reshaped(builder, layout.value, sizes), sizes, groups)
    order = [i for group in layout.groups for i in group]
    order += [i for i in range(len(layout.sizes)) if i not in order]  # of size 1
    value = layout.value
    if order != list(range(len(order))):
        moved = [layout.sizes[i] for i in order]
        value = builder.typed_op("Transpose", [value], moved, value.dtype, perm=order)
    if any(len(group) != 1 for group in layout.groups) or len(order) != layout.rank:
        target = [
            -1 if 0 in group else math.prod(known_size(layout.sizes[i]) for i in group)
            for group in layout.groups
        ]
        value = builder.typed_op("Reshape", [value, builder.ints(*target)], [], value.dtype)
    value.shape = shape
    return value
