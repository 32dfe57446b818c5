"""Lowering rules of operators that read or overwrite chosen elements of a value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    TO_THE_END,
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

# Operators that only convert, move or repeat the elements of their input.
_LARGEST = 2**63 - 1  # ONNX's own way to write "to the end"
_REPEATING = {"Cast", "Expand", "ExpandRows", "Identity", "Reshape", "Unsqueeze"}


def _slice(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    if folded := fold_integers(builder, node):
        return folded
    if whole := _to_a_free_end(builder, node):
        return whole
    if reversed_axes := _reversed_slice(builder, node):
        return reversed_axes
    ends = required_integers(node.inputs[2])
    if not any(TO_THE_END <= end < _LARGEST for end in ends):
        return None
    plain = builder.ints(*(_LARGEST if end >= TO_THE_END else end for end in ends))
    return [builder.op("Slice", *node.inputs[:2], plain, *node.inputs[3:])]


def _to_a_free_end(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A slice that ends with the free size of its axis, such as x[:len(x)]: with the last one."""
    ends = integers(node.inputs[2])
    if ends is None or not any(isinstance(end, str) for end in ends):
        return None
    given_axes, given_steps = optional_input(node, 3), optional_input(node, 4)
    if given_steps is not None and min(required_integers(given_steps)) < 0:
        return None
    axes = list(range(len(ends))) if given_axes is None else required_integers(given_axes)
    sizes = shape_of(first_input(node))
    last = [
        _LARGEST if isinstance(end, str) and end == sizes[axis] else end
        for end, axis in zip(ends, axes, strict=True)
    ]
    numbers = [end for end in last if not isinstance(end, str)]
    if len(numbers) < len(last):
        return None
    return [builder.op("Slice", *node.inputs[:2], builder.ints(*numbers), *node.inputs[3:])]


def _reversed_slice(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A slice with a negative step, as a selection.

    Raises:
        UnsupportedError: bounds that are not constant, or the size along a negative step is free.
    """
    starts, stops = required_integers(node.inputs[1]), required_integers(node.inputs[2])
    axes, steps = list(range(len(starts))), [1] * len(starts)
    if (given_axes := optional_input(node, 3)) is not None:
        axes = required_integers(given_axes)
    if (given_steps := optional_input(node, 4)) is not None:
        steps = required_integers(given_steps)
    if all(step > 0 for step in steps):
        return None
    x, sizes = first_input(node), shape_of(first_input(node))
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        size = sizes[axis]
        if step > 0:
            x = builder.slice(x, axis, start, stop, step)
            continue
        if isinstance(size, str):
            raise UnsupportedError("a negative step along a free size")
        end = None if stop < -size else stop
        places = builder.constant(np.arange(size)[start:end:step], np.int64)
        x = builder.op("Gather", x, places, axis=axis % len(sizes))
    return [x]


def _gather(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[:, i] comes as transpose, selection, transpose back: select along the axis itself."""
    if folded := fold_integers(builder, node):
        return folded
    places = constant_integers(node.inputs[1])
    if node.op_type == "GatherND" and places is None:
        return _gather_of_rows(builder, node)
    transposed = transposed_source(node)
    if transposed is None or places is None:
        return None
    x, perm = transposed
    axis = node.attributes.get_int("axis", 0)
    if node.op_type == "GatherND":
        if node.attributes.get_int("batch_dims", 0) or places.shape[-1] != 1:
            return None
        places, axis = places[..., 0], 0
    if places.ndim != 1:
        return None
    selected = builder.op("Gather", x, builder.constant(places, np.int64), axis=perm[axis])
    return [builder.op("Transpose", selected, perm=perm)]


def _gather_of_rows(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[torch.arange(rows), places]: every row selects from itself."""
    joined = None if node.inputs[1] is None else node.inputs[1].producer()
    batch_dims = node.attributes.get_int("batch_dims", 0)
    if joined is None or joined.op_type != "Concat" or batch_dims != 0:
        return None
    axis, rank = joined.attributes.get_int("axis", 0), rank_of(node.inputs[1])
    row_numbers, *rest = joined.inputs
    if axis % rank != rank - 1 or not _is_row_number(row_numbers):
        return None
    places = rest[0] if len(rest) == 1 else builder.op("Concat", *rest, axis=-1)
    return [builder.op("GatherND", first_input(node), places, batch_dims=1)]


def _is_row_number(value: ir.Value | None) -> bool:
    """Whether a value holds 0, 1, 2, ... for the rows of the request, along its first axis."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _REPEATING:
        source = node.inputs[0]
        node = None if source is None else source.producer()
    if node is None or node.op_type != "Range":
        return False
    bounds = [integers(bound) for bound in node.inputs]
    rows = shape_of(value)[0]
    return bounds == [[0], [rows], [1]] and isinstance(rows, str)


def _scatter_nd(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[:, 2:] = y, which comes as transpose, ScatterND of known places, transpose back.

    Raises:
        UnsupportedError: places that are not known, or along several axes, or rows; a reduction.
    """
    places, updates = constant_integers(node.inputs[1]), node.inputs[2]
    if places is None or places.ndim != 2 or places.shape[1] != 1 or updates is None:
        raise UnsupportedError("it can only write known places along one axis")
    if node.attributes.get_string("reduction", "none") != "none":
        raise UnsupportedError("it has a reduction")
    transposed = transposed_source(node)
    x, perm = first_input(node), list(range(rank_of(node.inputs[0])))
    if transposed is not None:
        x, perm = transposed
    size, axis = shape_of(node.inputs[0])[0], perm[0]
    if isinstance(size, str):
        raise UnsupportedError("it writes rows of the request")
    earlier = updates.producer()
    inverse = [perm.index(i) for i in range(len(perm))]
    if earlier is not None and earlier.op_type == "Transpose" and permutation(earlier) == perm:
        updates = first_input(earlier)
    elif inverse != perm or axis:
        updates = builder.op("Transpose", updates, perm=inverse)
    joined = _overwritten(builder, x, updates, axis, [int(i) % size for i in places[:, 0]], size)
    return [joined if transposed is None else builder.op("Transpose", joined, perm=perm)]


def _overwritten(
    builder: NodeBuilder, x: ir.Value, updates: ir.Value, axis: int, places: list[int], size: int
) -> ir.Value:
    """A value of `size` elements along an axis, with updates at their places."""
    update_at: list[int | None] = [None] * size
    for number, place in enumerate(places):
        update_at[place] = number
    parts: list[ir.Value] = []
    start = 0
    while start < size:  # runs of elements that stay, and of neighbours among the updates
        first, stop = update_at[start], start + 1
        while stop < size and update_at[stop] == (None if first is None else first + stop - start):
            stop += 1
        if first is None:
            parts.append(builder.slice(x, axis, start, stop))
        else:
            parts.append(builder.slice(updates, axis, first, first + stop - start))
        start = stop
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=axis)


def _scatter_elements(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """x[:, 2] = y: one known place along an axis, repeated over all others."""
    x, updates = first_input(node), node.inputs[2]
    rank = rank_of(x)
    axis = node.attributes.get_int("axis", 0) % rank
    place, size = _same_place(node.inputs[1]), shape_of(x)[axis]
    if place is None or isinstance(size, str) or shape_of(updates)[axis] != 1 or axis == 0:
        raise UnsupportedError("it writes places that depend on the request, several, or rows")
    if node.attributes.get_string("reduction", "none") != "none" or updates is None:
        raise UnsupportedError("it has a reduction")
    place %= size
    parts = [builder.slice(x, axis, 0, place)] if place else []
    parts.append(updates)
    if place + 1 < size:
        parts.append(builder.slice(x, axis, place + 1, size))
    return [builder.op("Concat", *parts, axis=axis) if len(parts) > 1 else updates]


def _same_place(value: ir.Value | None) -> int | None:
    """The single number in a value that repeats it; None where there are others."""
    node = None if value is None else value.producer()
    while constant_array(value) is None and node is not None and node.op_type in _REPEATING:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    array = constant_array(value)
    return int(array.flat[0]) if array is not None and len(np.unique(array)) == 1 else None


def _one_hot(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A comparison of every index with every place; an index below 0 counts from the end.

    Raises:
        UnsupportedError: a number of places or values that are not constant, or places in front of
            the rows.
    """
    depth, values = constant_array(node.inputs[1]), constant_array(node.inputs[2])
    x, rank = first_input(node), rank_of(node.inputs[0])
    axis = node.attributes.get_int("axis", -1) % (rank + 1)
    if depth is None or values is None:
        raise UnsupportedError("its number of places or its values depend on the request")
    if axis == 0:
        raise UnsupportedError("its places are in front of the rows")
    count = int(depth.reshape(-1)[0])
    if x.dtype is not ir.DataType.INT64:
        x = builder.op("Cast", x, to=int(ir.DataType.INT64))
    column = builder.op("Unsqueeze", x, builder.ints(axis))
    places = np.arange(count).reshape(-1, *[1] * (rank - axis))
    from_start = builder.op("Equal", column, builder.constant(places, np.int64))
    from_end = builder.op("Equal", column, builder.constant(places - count, np.int64))
    off, on = (builder.constant(value, values.dtype) for value in values)
    return [builder.op("Where", builder.op("Or", from_start, from_end), on, off)]


def _top_k(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    (k,) = required_integers(node.inputs[1])
    axis = node.attributes.get_int("axis", -1)
    largest = node.attributes.get_int("largest", 1)
    places = builder.op("TopKIndices", first_input(node), axis=axis, k=k, largest=largest)
    return [builder.op("GatherElements", first_input(node), places, axis=axis), places]


RULES: dict[str, Rule] = {
    "Gather": _gather,
    "GatherND": _gather,
    "OneHot": _one_hot,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "TopK": _top_k,
}
