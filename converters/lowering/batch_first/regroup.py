"""Cuts of axes: a layout for another shape of the original, and operands with common axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ondevice.converters.lowering.batch_first.layout import (
    Group,
    Layout,
    LayoutError,
    known_size,
    split_axes,
    without_unit_axes,
)
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.symbolic_shapes import Size

Part = tuple[int, Size]  # an axis of the value, or a part of it, and the size


def regrouped(builder: NodeBuilder, layout: Layout, target: Sequence[Size]) -> Layout:
    """A layout of the original reshaped to `target`, in which one size may be -1.

    The row of axes is cut anew, from both ends towards the size that is not known.

    Raises:
        LayoutError: a size behind the batch is free, or the cuts do not fit the axes.
    """
    order = [i for group in layout.groups for i in group]
    order += [i for i in range(len(layout.sizes)) if i not in order]
    if any(isinstance(layout.sizes[i], str) for i in order if i != 0):
        raise LayoutError
    parts: list[Part] = [(i, layout.sizes[i]) for i in order]
    unknown = [i for i, size in enumerate(target) if size == -1]
    if len(unknown) > 1:
        raise LayoutError
    cut: set[int] = set()
    middle = unknown[0] if unknown else len(target)
    left = [_take(parts, size, cut, from_end=False) for size in target[:middle]]
    right = [_take(parts, size, cut, from_end=True) for size in reversed(target[middle + 1 :])]
    groups = left + ([parts] if unknown else []) + right[::-1]
    if not unknown and any(size != 1 for _, size in parts):
        raise LayoutError
    # an axis that was cut has parts, numbered in order, wherever they went
    cut_layout = split_axes(builder, layout, {axis: _part_sizes(axis, groups) for axis in cut})
    return replace(cut_layout, groups=_numbered(groups, cut, len(layout.sizes)))


def _numbered(groups: Sequence[Sequence[Part]], cut: set[int], count: int) -> tuple[Group, ...]:
    """Groups of parts as groups of the axes that they are after the cuts."""
    starts, next_axis = {}, 0
    for axis in range(count):
        starts[axis] = next_axis
        next_axis += len(_part_sizes(axis, groups)) if axis in cut else 1
    used: dict[int, int] = {}
    numbered: list[Group] = []
    for group in groups:
        axes = []
        for axis, _ in group:
            axes.append(starts[axis] + used.get(axis, 0))
            used[axis] = used.get(axis, 0) + 1
        numbered.append(tuple(axes))
    return tuple(numbered)


def _take(parts: list[Part], size: Size, cut: set[int], *, from_end: bool) -> list[Part]:
    """Take axes of together `size` from one end of `parts`; an axis that is cut joins `cut`.

    Raises:
        LayoutError: no whole number of parts has this size, or the batch is among them.
    """
    end = -1 if from_end else 0
    if isinstance(size, str):  # only the batch is free
        while parts and parts[end][1] == 1:
            parts.pop(end)
        if not parts or parts[end][0] != 0:
            raise LayoutError
        return [parts.pop(end)]
    taken: list[Part] = []
    product = 1
    while product < size:
        if not parts or parts[end][0] == 0:
            raise LayoutError
        axis, axis_size = parts.pop(end)
        axis_size = known_size(axis_size)
        if size % product:
            raise LayoutError
        needed = size // product
        if axis_size > needed:
            if axis_size % needed:
                raise LayoutError
            cut.add(axis)
            rest = (axis, axis_size // needed)
            parts.append(rest) if from_end else parts.insert(0, rest)
            axis_size = needed
        taken.append((axis, axis_size))
        product *= axis_size
    if product != size:
        raise LayoutError
    return taken[::-1] if from_end else taken


def _part_sizes(axis: int, groups: Sequence[Sequence[Part]]) -> list[int]:
    return [known_size(size) for group in groups for part, size in group if part == axis]


def with_common_axes(
    builder: NodeBuilder, layouts: dict[int, Layout], rank: int
) -> dict[int, Layout]:
    """Layouts whose first `rank` axes of the original have the same parts in all of them.

    Raises:
        LayoutError: two operands cut an axis at sizes that do not divide each other.
    """
    layouts = {i: without_unit_axes(builder, layout, rank) for i, layout in layouts.items()}
    parts: dict[int, dict[int, list[int]]] = {i: {} for i in layouts}
    for axis in range(rank):
        sizes_of = {
            i: [layout.sizes[j] for j in layout.groups[axis]]
            for i, layout in layouts.items()
            if layout.groups[axis]
        }
        if len({tuple(sizes) for sizes in sizes_of.values()}) <= 1:
            continue
        known = {i: [known_size(size) for size in sizes] for i, sizes in sizes_of.items()}
        ends = sorted({int(end) for sizes in known.values() for end in np.cumprod(sizes[::-1])})
        for i, sizes in known.items():
            parts[i].update(_cut_at(ends, layouts[i].groups[axis], sizes))
    return {i: split_axes(builder, layout, parts[i]) for i, layout in layouts.items()}


def _cut_at(ends: Sequence[int], group: Group, sizes: Sequence[int]) -> dict[int, list[int]]:
    """The sizes of the parts of every axis of a group, cut where its inner product is an end."""
    parts: dict[int, list[int]] = {}
    inner = 1
    for axis, size in zip(reversed(group), reversed(sizes), strict=True):
        bounds = [end for end in ends if inner < end <= inner * size]
        part_sizes, start = [], inner
        for bound in bounds:
            if bound % start:
                raise LayoutError
            part_sizes.append(bound // start)
            start = bound
        if start != inner * size:
            raise LayoutError
        parts[axis] = part_sizes[::-1]
        inner = start
    return parts
