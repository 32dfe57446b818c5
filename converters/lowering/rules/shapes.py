"""Lowering rules of shape arithmetic and of operators that move or repeat elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.free_sizes import (
    is_batch,
    request_rows,
    reshape_target,
    sizes_at_run_time,
)
from ondevice.converters.lowering.operands import (
    constant_array,
    fill_value,
    first_input,
    optional_input,
    rank_of,
    required_integers,
    shape_of,
)
from ondevice.converters.lowering.symbolic_shapes import Size, integers, numbers
from ondevice.converters.lowering.transposes import (
    swap_leading_axes,
    transposed_source,
)
from ondevice.errors import UnsupportedError

_NARROW = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)


def fold_integers(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Shape arithmetic whose result is known at conversion."""
    output = node.outputs[0]
    if output.dtype not in (ir.DataType.INT64, ir.DataType.BOOL):
        return None
    values = numbers(output)
    if values is None or any(isinstance(value, str) for value in values.reshape(-1)):
        return None
    return [builder.constant(values.astype(output.dtype.numpy()), output.dtype.numpy())]


def _reshape(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A target that is constant, with 0 for free sizes that stay and -1 for one that does not."""
    if folded := fold_integers(builder, node):
        return folded
    target = integers(node.inputs[1])
    if target is None:  # a product of free sizes
        target = shape_of(node.outputs[0])
    sizes = shape_of(node.inputs[0])
    steps_first = len(sizes) > 1 and isinstance(sizes[0], int) and isinstance(sizes[1], str)
    if steps_first and target[:2] == sizes[:2]:
        # recurrent layers have their steps first: reshape with the rows in front
        rest = [int(size) for size in (sizes[0], *target[2:])]
        rows_first = swap_leading_axes(builder, node.inputs[0])
        x = builder.op("Reshape", rows_first, builder.ints(-1, *rest))
        return [builder.op("Transpose", x, perm=[1, 0, *range(2, len(target))])]
    is_known = all(isinstance(size, int) for size in target)
    if is_known and constant_array(node.inputs[1]) is not None:
        return None
    if all(s == -1 or (i < len(sizes) and sizes[i] == s) for i, s in _free(target)):
        # free sizes that stay in their places
        constant = builder.ints(*(_zero_if_free(size) for size in target))
        return [builder.op("Reshape", first_input(node), constant)]
    return [builder.op("Reshape", first_input(node), reshape_target(builder, target))]


def _free(sizes: Sequence[Size]) -> list[tuple[int, Size]]:
    return [(i, size) for i, size in enumerate(sizes) if isinstance(size, str) or size == -1]


def _zero_if_free(size: Size) -> int:
    return 0 if isinstance(size, str) else size


def _expand(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    sizes = integers(node.inputs[1])
    if sizes is None:
        raise UnsupportedError("its shape is not constant")
    return [_expand_to(builder, first_input(node), sizes)]


def _expand_to(builder: NodeBuilder, x: ir.Value, target: Sequence[Size]) -> ir.Value:
    """A value repeated along axes of size 1; the rows of the request by ExpandRows.

    Args:
        builder: the nodes that replace the node at hand.
        x: the value.
        target: the sizes to broadcast with, as ONNX's Expand has them.

    Raises:
        UnsupportedError: a free size that no input has.
    """
    sizes = shape_of(x)
    rank, x_rank = max(len(sizes), len(target)), len(sizes)
    unit: Size = 1
    sizes = [unit] * (rank - x_rank) + sizes
    target = [unit] * (rank - len(target)) + list(target)
    if any(isinstance(size, str) for size in target[1:]) or (
        isinstance(target[0], str) and not is_batch(builder, target[0])
    ):
        if not _repeats(target, sizes):
            return x if rank == x_rank else builder.op("Reshape", x, reshape_target(builder, sizes))
        return builder.op("Expand", x, sizes_at_run_time(builder, target))
    known = [1 if isinstance(size, str) else size for size in target]
    adds_rows = sizes[0] == 1 and is_batch(builder, target[0])
    if not adds_rows and not _repeats(known, sizes):
        return x if rank == x_rank else builder.op("Reshape", x, builder.ints(0))
    if adds_rows and x_rank == 0:
        x = builder.op("Reshape", x, builder.ints(*[1] * rank))
    elif adds_rows and x_rank < rank:
        x = builder.op("Unsqueeze", x, builder.ints(*range(rank - x_rank)))
    if _repeats(known, sizes):
        x = builder.op("Expand", x, builder.ints(*known))
    return builder.op("ExpandRows", x, request_rows(builder)) if adds_rows else x


def _repeats(target: Sequence[Size], sizes: Sequence[Size]) -> bool:
    """Whether sizes grow when they are expanded to a target of the same length."""
    return any(new not in (1, old) for new, old in zip(target, sizes, strict=True))


def _range(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """0, 1, 2, ... up to a free size, as a running sum of ones.

    Raises:
        UnsupportedError: other bounds, or the numbers of the request's rows.
    """
    if folded := fold_integers(builder, node):
        return folded
    bounds = [integers(value) for value in node.inputs]
    floats = [constant_array(value) for value in (node.inputs[0], node.inputs[2])]
    start = bounds[0] if bounds[0] is not None else floats[0]
    step = bounds[2] if bounds[2] is not None else floats[1]
    stop = integers(_uncast(node.inputs[1]))
    if stop is None or not isinstance(stop[0], str) or start is None or step is None:
        raise UnsupportedError("its bounds are not constant")
    if np.any(np.asarray(start) != 0) or np.any(np.asarray(step) != 1):
        raise UnsupportedError("with a free size only 0, 1, 2, ... is possible")
    if is_batch(builder, stop[0]):
        raise UnsupportedError("the numbers of the rows can only be used to select from each row")
    counts = counted(builder, stop[0])
    dtype = node.outputs[0].dtype
    return [
        counts if dtype in (ir.DataType.INT64, None) else builder.op("Cast", counts, to=int(dtype))
    ]


def counted(builder: NodeBuilder, size: Size) -> ir.Value:
    """0, 1, 2, ... below a size, int64 [size]; a free one is read from the input that has it.

    Raises:
        UnsupportedError: a free size that no input has.
    """
    if isinstance(size, int):
        return builder.constant(np.arange(size), np.int64)
    ones = builder.op("Expand", builder.ints(1), sizes_at_run_time(builder, [size]))
    return builder.op("CumSum", ones, builder.constant(0, np.int64), exclusive=1)


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """What a value was before any Cast."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Cast" and not node.domain:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return value


def _constant_of_shape(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    sizes = integers(node.inputs[0])
    if sizes is None:
        raise UnsupportedError("its shape is not constant")
    fill = fill_value(node)
    if not any(isinstance(size, str) for size in sizes):
        return [builder.constant(np.full([int(s) for s in sizes], fill[0]), fill.dtype)]
    start = builder.constant(np.full([1] * len(sizes), fill[0]), fill.dtype)
    return [_expand_to(builder, start, sizes)]


def _tile(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    x, repeats, sizes = first_input(node), integers(node.inputs[1]), shape_of(node.inputs[0])
    if repeats is None:
        raise UnsupportedError("its repeats are not constant")
    per_row = sizes[0] == 1 and is_batch(builder, repeats[0])
    if per_row:
        repeats = [1, *repeats[1:]]
    if any(isinstance(times, str) for times in repeats) or (
        isinstance(sizes[0], str) and repeats[0] != 1
    ):
        raise UnsupportedError("it repeats rows of the request")
    for axis, times in enumerate(repeats):
        if times != 1:
            x = builder.op("Concat", *[x] * int(times), axis=axis)
    return [builder.op("ExpandRows", x, request_rows(builder)) if per_row else x]


def _split(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """One slice for every output; without sizes they are the same, the last one the rest."""
    x, rank = first_input(node), rank_of(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % rank
    size = shape_of(x)[axis]
    if isinstance(size, str):
        raise UnsupportedError("it splits the rows of the request")
    count = len(node.outputs)
    part = -(-size // count)
    parts = [part] * (count - 1) + [size - part * (count - 1)]
    if (part_sizes := optional_input(node, 1)) is not None:
        parts = required_integers(part_sizes)
    outputs, start = [], 0
    for part in parts:
        outputs.append(builder.slice(x, axis, start, start + part))
        start += part
    return outputs


def _transpose(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Two transposes in a row are one, or none."""
    earlier = transposed_source(node)
    if earlier is None:
        return None
    x, first = earlier
    perm = [first[i] for i in node.attributes.get_ints("perm", range(len(first))[::-1])]
    return [x if perm == list(range(len(perm))) else builder.op("Transpose", x, perm=perm)]


def _cast(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A cast to the type that there is already goes.

    Raises:
        UnsupportedError: an operator reads integers of 8 or 16 bits.
    """
    if folded := fold_integers(builder, node):
        return folded
    x, kind = first_input(node), node.outputs[0].dtype
    if kind in _NARROW:
        raise UnsupportedError("integers of 8 or 16 bits that an operator computes with")
    return [builder.op("Identity", x)] if x.dtype == kind == ir.DataType.INT64 else None


RULES: dict[str, Rule] = {
    "Add": fold_integers,
    "Cast": _cast,
    "Concat": fold_integers,
    "ConstantOfShape": _constant_of_shape,
    "Div": fold_integers,
    "Expand": _expand,
    "Mul": fold_integers,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": fold_integers,
    "Split": _split,
    "Squeeze": fold_integers,
    "Sub": fold_integers,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": fold_integers,
}
