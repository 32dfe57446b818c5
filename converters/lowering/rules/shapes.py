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


def fold_integers(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Shape arithmetic whose result is known now."""
    output = node.outputs[0]
    if output.dtype not in (ir.DataType.INT64, ir.DataType.BOOL):
        return None
    found = numbers(output)
    if found is None or any(isinstance(item, str) for item in found.reshape(-1)):
        return None
    return [builder.constant(found.astype(output.dtype.numpy()), output.dtype.numpy())]


def _reshape(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    if folded := fold_integers(builder, node):
        return folded
    sizes = integers(node.inputs[1])
    if sizes is None:  # a product of free sizes
        sizes = shape_of(node.outputs[0])
    own = shape_of(node.inputs[0])
    steps_first = len(own) > 1 and isinstance(own[0], int) and isinstance(own[1], str)
    if steps_first and sizes[:2] == own[:2]:
        # recurrent layers have their steps first: reshape with the rows in front
        rest = [int(size) for size in (own[0], *sizes[2:])]
        x = builder.op(
            "Reshape", swap_leading_axes(builder, node.inputs[0]), builder.ints(-1, *rest)
        )
        return [builder.op("Transpose", x, perm=[1, 0, *range(2, len(sizes))])]
    if all(isinstance(size, int) for size in sizes) and constant_array(node.inputs[1]) is not None:
        return None
    if all(s == -1 or (i < len(own) and own[i] == s) for i, s in _free(sizes)):
        # free sizes that stay where they are
        return [
            builder.op(
                "Reshape", first_input(node), builder.ints(*(_zero_if_free(s) for s in sizes))
            )
        ]
    return [builder.op("Reshape", first_input(node), reshape_target(builder, sizes))]


def _free(sizes: Sequence[Size]) -> list[tuple[int, Size]]:
    return [(i, size) for i, size in enumerate(sizes) if isinstance(size, str) or size == -1]


def _zero_if_free(size: Size) -> int:
    return 0 if isinstance(size, str) else size


def _expand(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    sizes = integers(node.inputs[1])
    if sizes is None:
        raise UnsupportedError("its shape is not constant")
    return [_expand_to(builder, first_input(node), sizes)]


def _expand_to(builder: NodeBuilder, x: ir.Value, sizes: Sequence[Size]) -> ir.Value:
    own = shape_of(x)
    rank = max(len(own), len(sizes))
    one: Size = 1
    own = [one] * (rank - len(own)) + own
    wanted = [one] * (rank - len(sizes)) + list(sizes)
    if any(isinstance(size, str) for size in wanted[1:]) or (
        isinstance(wanted[0], str) and not is_batch(builder, wanted[0])
    ):
        if all(w in (1, o) for w, o in zip(wanted, own, strict=True)):
            return (
                x
                if len(own) == rank_of(x)
                else builder.op("Reshape", x, reshape_target(builder, own))
            )
        return builder.op("Expand", x, sizes_at_run_time(builder, wanted))
    target = [1 if isinstance(size, str) else size for size in wanted]
    fresh_rows = own[0] == 1 and is_batch(builder, wanted[0])
    if not fresh_rows and all(w in (1, o) for w, o in zip(target, own, strict=True)):
        return x if len(own) == rank_of(x) else builder.op("Reshape", x, builder.ints(0))
    if fresh_rows and rank_of(x) == 0:
        x = builder.op("Reshape", x, builder.ints(*[1] * rank))
    elif fresh_rows and rank_of(x) < rank:
        x = builder.op("Unsqueeze", x, builder.ints(*range(rank - rank_of(x))))
    if any(w not in (1, o) for w, o in zip(target, own, strict=True)):
        x = builder.op("Expand", x, builder.ints(*target))
    return builder.op("ExpandRows", x, request_rows(builder)) if fresh_rows else x


def _range(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """0, 1, 2, ... up to a free size, as a running sum of ones."""
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
        raise UnsupportedError("only 0, 1, 2, ... up to a free size")
    if is_batch(builder, stop[0]):
        raise UnsupportedError("the rows' numbers, other than to select from each row")
    ones = builder.op("Expand", builder.ints(1), sizes_at_run_time(builder, stop))
    found = builder.op("CumSum", ones, builder.constant(0, np.int64), exclusive=1)
    dtype = node.outputs[0].dtype
    return [
        found if dtype in (ir.DataType.INT64, None) else builder.op("Cast", found, to=int(dtype))
    ]


def _uncast(value: ir.Value | None) -> ir.Value | None:
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
    once_a_row = sizes[0] == 1 and is_batch(builder, repeats[0])
    if once_a_row:
        repeats = [1, *repeats[1:]]
    if any(isinstance(times, str) for times in repeats) or (
        isinstance(sizes[0], str) and repeats[0] != 1
    ):
        raise UnsupportedError("it repeats rows")
    for axis, times in enumerate(repeats):
        if times != 1:
            x = builder.op("Concat", *[x] * int(times), axis=axis)
    return [builder.op("ExpandRows", x, request_rows(builder)) if once_a_row else x]


def _split(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    axis = node.attributes.get_int("axis", 0)
    sizes = shape_of(node.inputs[0])
    whole = sizes[axis]
    if isinstance(whole, str):
        raise UnsupportedError("it splits rows")
    given = optional_input(node, 1)
    count = len(node.outputs)
    part = -(-whole // count)
    parts = (
        required_integers(given)
        if given is not None
        else [part] * (count - 1) + [whole - part * (count - 1)]
    )
    outputs, start = [], 0
    for size in parts:
        outputs.append(builder.slice(first_input(node), axis % len(sizes), start, start + size))
        start += size
    return outputs


def _transpose(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Two transposes in a row are one, or none."""
    before = transposed_source(node)
    if before is None:
        return None
    x, first = before
    perm = [first[i] for i in node.attributes.get_ints("perm", range(len(first))[::-1])]
    return [x if perm == list(range(len(perm))) else builder.op("Transpose", x, perm=perm)]


RULES: dict[str, Rule] = {
    "Add": fold_integers,
    "Cast": fold_integers,
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
