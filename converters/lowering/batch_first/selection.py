"""Batch-first rules of operators that select elements at known places."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.batch_first.context import LayoutRule, Rewrite
from ondevice.converters.lowering.batch_first.layout import (
    Layout,
    LayoutError,
    known_size,
    permuted,
    reshaped,
    with_unit_axis,
)
from ondevice.converters.lowering.operands import TO_THE_END, constant_array, constant_integers
from ondevice.converters.lowering.symbolic_shapes import integers


def _slice(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """Slices of axes that are one axis of the value; those of all elements are left out."""
    x = rewrite.layout_of(node.inputs[0])
    operands: list[list[int]] = []
    for value in node.inputs[1:]:
        given = integers(value)
        if given is None:
            raise LayoutError
        operands.append([known_size(size) for size in given])
    starts, stops = operands[:2]
    axes = operands[2] if len(operands) > 2 else list(range(len(starts)))
    steps = operands[3] if len(operands) > 3 else [1] * len(starts)
    sizes = list(x.sizes)
    bounds: list[tuple[int, int, int, int]] = []
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        if (start, step) == (0, 1) and stop >= TO_THE_END:
            continue
        if not x.groups[axis % x.rank]:
            x = with_unit_axis(rewrite.builder, x, axis % x.rank)
            sizes.insert(1, 1)
            bounds = [(a, b, i + 1, c) for a, b, i, c in bounds]
        value_axis = x.single_axis(axis % x.rank)
        size = known_size(sizes[value_axis])
        sizes[value_axis] = len(range(*slice(start, stop, step).indices(size)))
        bounds.append((start, stop, value_axis, step))
    if not bounds:
        return [x]
    columns = [rewrite.builder.ints(*column) for column in zip(*bounds, strict=True)]
    out = rewrite.builder.typed_op("Slice", [x.value, *columns], sizes, x.value.dtype)
    return [replace(x, value=out, sizes=tuple(sizes))]


def _gather(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """A selection of known places along an axis that is one axis of the value."""
    x, places = rewrite.layout_of(node.inputs[0]), constant_integers(node.inputs[1])
    if places is None or places.ndim > 1:
        raise LayoutError
    axis = node.attributes.get_int("axis", 0) % x.rank
    if not x.groups[axis]:
        x = with_unit_axis(rewrite.builder, x, axis)
    value_axis = x.single_axis(axis)
    sizes = (*x.sizes[:value_axis], *places.shape, *x.sizes[value_axis + 1 :])
    inputs = [x.value, rewrite.builder.constant(places, np.int64)]
    out = rewrite.builder.typed_op("Gather", inputs, sizes, x.value.dtype, axis=value_axis)
    if places.ndim:
        return [replace(x, value=out, sizes=sizes)]
    groups = tuple(
        tuple(i - (i > value_axis) for i in group)
        for number, group in enumerate(x.groups)
        if number != axis
    )
    return [Layout(out, sizes, groups)]


def _gather_nd(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """x[:, rows, columns] of known places, which comes with those axes in front."""
    x, places = rewrite.layout_of(node.inputs[0]), constant_array(node.inputs[1])
    if places is None or places.ndim != 2 or node.attributes.get_int("batch_dims", 0) != 0:
        raise LayoutError
    depth = places.shape[1]
    selected = [x.single_axis(axis) for axis in range(depth)]
    rest = [i for i in range(1, len(x.sizes)) if i not in selected]
    x = permuted(rewrite.builder, x, [0, *selected, *rest])
    sizes = [known_size(size) for size in x.sizes[1 : 1 + depth]]
    flat = np.ravel_multi_index(tuple(places.T % np.array(sizes)[:, None]), sizes)
    merged = (x.sizes[0], math.prod(sizes), *x.sizes[1 + depth :])
    inputs = [reshaped(rewrite.builder, x.value, merged), rewrite.builder.constant(flat, np.int64)]
    out_sizes = (x.sizes[0], len(flat), *x.sizes[1 + depth :])
    out = rewrite.builder.typed_op("Gather", inputs, out_sizes, x.value.dtype, axis=1)
    groups = tuple(tuple(i - depth + 1 if i else 0 for i in g) for g in x.groups[depth:])
    return [Layout(out, out_sizes, ((1,), *groups))]


def _split(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """One slice for every output, of the size that its shape says."""
    x = rewrite.layout_of(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % x.rank
    value_axis = x.single_axis(axis)
    results, start = [], 0
    for output in node.outputs:
        size = output.shape[axis] if output.shape is not None else None
        if not isinstance(size, int):
            raise LayoutError
        sizes = (*x.sizes[:value_axis], size, *x.sizes[value_axis + 1 :])
        bounds = [rewrite.builder.ints(n) for n in (start, start + size, value_axis, 1)]
        out = rewrite.builder.typed_op("Slice", [x.value, *bounds], sizes, x.value.dtype)
        results.append(replace(x, value=out, sizes=sizes))
        start += size
    return results


RULES: dict[str, LayoutRule] = {
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Slice": _slice,
    "Split": _split,
}
