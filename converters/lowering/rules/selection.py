"""Lowering rules of operators that read or overwrite chosen elements of a value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    constant_array,
    constant_integers,
    first_input,
    optional_input,
    rank_of,
    required_integers,
    shape_of,
)
from ondevice.converters.lowering.rules.shapes import fold_integers
from ondevice.converters.lowering.symbolic_shapes import integers
from ondevice.converters.lowering.transposes import (
    permutation,
    transposed_source,
)
from ondevice.errors import UnsupportedError


def _slice(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    return fold_integers(builder, node) or _reversed_slice(builder, node)


def _reversed_slice(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A slice with a negative step, as a selection."""
    starts, stops = required_integers(node.inputs[1]), required_integers(node.inputs[2])
    axes = (
        required_integers(node.inputs[3])
        if optional_input(node, 3) is not None
        else list(range(len(starts)))
    )
    steps = (
        required_integers(node.inputs[4])
        if optional_input(node, 4) is not None
        else [1] * len(starts)
    )
    if all(step > 0 for step in steps):
        return None
    x, sizes = first_input(node), shape_of(first_input(node))
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        size = sizes[axis]
        if step > 0:
            x = builder.slice(x, axis, start, stop, step)
            continue
        if isinstance(size, str):
            raise UnsupportedError("a free size")
        last = None if stop < -size else stop
        chosen = np.arange(size)[start:last:step]
        x = builder.op("Gather", x, builder.constant(chosen, np.int64), axis=axis % len(sizes))
    return [x]


def _gather(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[:, i] comes as transpose, selection, transpose back: select along the axis itself."""
    if folded := fold_integers(builder, node):
        return folded
    places = constant_integers(node.inputs[1])
    if node.op_type == "GatherND" and places is None:
        return _gather_of_rows(builder, node)
    before = transposed_source(node)
    if before is None or places is None:
        return None
    x, perm = before
    if node.op_type == "GatherND":
        if node.attributes.get_int("batch_dims", 0) or places.shape[-1] != 1:
            return None
        places, axis = places[..., 0], 0
    else:
        axis = node.attributes.get_int("axis", 0)
    if places.ndim != 1:
        return None
    chosen = builder.op("Gather", x, builder.constant(places, np.int64), axis=perm[axis])
    return [builder.op("Transpose", chosen, perm=perm)]


def _gather_of_rows(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[torch.arange(rows), places]: every row selects from itself."""
    joined = None if node.inputs[1] is None else node.inputs[1].producer()
    if (
        joined is None
        or joined.op_type != "Concat"
        or node.attributes.get_int("batch_dims", 0) != 0
    ):
        return None
    axis, rank = joined.attributes.get_int("axis", 0), rank_of(node.inputs[1])
    numbers_of_rows, *rest = joined.inputs
    if axis % rank != rank - 1 or not _is_row_number(numbers_of_rows):
        return None
    places = rest[0] if len(rest) == 1 else builder.op("Concat", *rest, axis=-1)
    return [builder.op("GatherND", first_input(node), places, batch_dims=1)]


def _is_row_number(value: ir.Value | None) -> bool:
    """Whether a value holds 0, 1, 2, ... for the rows of the request, along its first axis."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in (
        "Cast",
        "Expand",
        "Identity",
        "Reshape",
        "Unsqueeze",
    ):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    if node is None or node.op_type != "Range":
        return False
    bounds = [integers(bound) for bound in node.inputs]
    rows = shape_of(value)[0]
    return bounds == [[0], [rows], [1]] and isinstance(rows, str)


def _scatter_nd(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[:, 2:] = y, which comes as transpose, ScatterND of known places, transpose back."""
    places, updates = constant_integers(node.inputs[1]), node.inputs[2]
    if places is None or places.ndim != 2 or places.shape[1] != 1 or updates is None:
        raise UnsupportedError("only known places along one axis")
    if node.attributes.get_string("reduction", "none") != "none":
        raise UnsupportedError("a reduction")
    before = transposed_source(node)
    x, perm = (
        before if before is not None else (first_input(node), list(range(rank_of(node.inputs[0]))))
    )
    size, axis = shape_of(node.inputs[0])[0], perm[0]
    if isinstance(size, str):
        raise UnsupportedError("it writes rows")
    moved = updates.producer()
    back = [perm.index(i) for i in range(len(perm))]
    if moved is not None and moved.op_type == "Transpose" and permutation(moved) == perm:
        fresh = first_input(moved)
    else:
        fresh = builder.op("Transpose", updates, perm=back) if back != perm or axis else updates
    source: list[int | None] = [None] * size
    for number, place in enumerate(places[:, 0].tolist()):
        source[place % size] = number
    parts: list[ir.Value] = []
    start = 0
    while start < size:  # runs of elements that stay, and of neighbours among the updates
        first, stop = source[start], start + 1
        while stop < size and source[stop] == (None if first is None else first + stop - start):
            stop += 1
        if first is None:
            parts.append(builder.slice(x, axis, start, stop))
        else:
            parts.append(builder.slice(fresh, axis, first, first + stop - start))
        start = stop
    joined = parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=axis)
    return [joined if before is None else builder.op("Transpose", joined, perm=perm)]


_REPEATING = {"Cast", "Expand", "ExpandRows", "Identity", "Reshape", "Unsqueeze"}


def _scatter_elements(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[:, 2] = y: one known place along an axis, repeated over all others."""
    x, updates = first_input(node), node.inputs[2]
    rank = rank_of(x)
    axis = node.attributes.get_int("axis", 0) % rank
    place, size = _same_place(node.inputs[1]), shape_of(x)[axis]
    if place is None or isinstance(size, str) or shape_of(updates)[axis] != 1 or axis == 0:
        raise UnsupportedError("places that depend on the request, or several")
    if node.attributes.get_string("reduction", "none") != "none" or updates is None:
        raise UnsupportedError("a reduction")
    place %= size
    parts = [builder.slice(x, axis, 0, place)] if place else []
    parts.append(updates)
    if place + 1 < size:
        parts.append(builder.slice(x, axis, place + 1, size))
    return [builder.op("Concat", *parts, axis=axis) if len(parts) > 1 else updates]


def _same_place(value: ir.Value | None) -> int | None:
    """The one number in a value that repeats it."""
    node = None if value is None else value.producer()
    while constant_array(value) is None and node is not None and node.op_type in _REPEATING:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    array = constant_array(value)
    return int(array.flat[0]) if array is not None and len(np.unique(array)) == 1 else None


def _top_k(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    (k,) = required_integers(node.inputs[1])
    axis = node.attributes.get_int("axis", -1)
    largest = node.attributes.get_int("largest", 1)
    places = builder.op("TopKIndices", first_input(node), axis=axis, k=k, largest=largest)
    return [builder.op("GatherElements", first_input(node), places, axis=axis), places]


RULES: dict[str, Rule] = {
    "Gather": _gather,
    "GatherND": _gather,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "TopK": _top_k,
}
