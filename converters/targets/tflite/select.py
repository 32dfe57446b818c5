"""Operators in TFLite that expand, pad and measure tensors, or select elements of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import tflite

from ondevice.converters.targets.tflite.elementwise import choose, number
from ondevice.converters.targets.tflite.graph import GraphBuilder, Translate
from ondevice.converters.targets.tflite.shapes import broadcast, elementwise, reshape, transposed
from ondevice.converters.targets.tflite.writer import FREE, Shape, Tensor
from ondevice.errors import UnsupportedError

_BOOL = np.dtype(np.bool_)


def as_numbers(translate: Translate) -> Translate:
    """Truth values as int32 for a kernel that takes numbers only, and back."""

    def translated(graph: GraphBuilder, node: ir.Node) -> Tensor:
        value, x = node.inputs[0], graph.tensor(node.inputs[0])
        if value is None or x.dtype != _BOOL:
            return translate(graph, node)
        graph.values[value] = graph.writer.cast(x, np.int32)
        try:
            return graph.writer.cast(translate(graph, node), _BOOL)
        finally:
            graph.values[value] = x

    return translated


def _add_zeros(graph: GraphBuilder, x: Tensor, zeros: Tensor, shape: Shape) -> Tensor:
    """Broadcasting as a sum: BROADCAST_TO has no version that both runtimes know."""
    opcode = "LOGICAL_OR" if x.dtype == _BOOL else "ADD"
    return graph.writer.op(opcode, [x, zeros], shape, x.dtype)


def _expand(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    if graph.array(node.inputs[1]) is None:
        target = graph.sizes(node.inputs[1])
        sizes = graph.writer.cast(graph.tensor(node.inputs[1]), np.int32)
        filled = [sizes, graph.writer.constant(0, x.dtype)]
        zeros = graph.writer.op("FILL", filled, target, x.dtype)
        return _add_zeros(graph, x, zeros, broadcast(x.shape, target))
    target = tuple(graph.integers(node.inputs[1], "the shape"))
    zeros = graph.writer.constant(np.zeros(target), x.dtype)
    return _add_zeros(graph, x, zeros, broadcast(x.shape, target))


def _shape(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, writer = graph.tensor(node.inputs[0]), graph.writer
    rank = len(x.shape)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)
    sizes = writer.op("SHAPE", [x], (rank,), np.int32, out_type=2)
    places = [writer.constant([place], np.int32) for place in (start, end, 1)]
    part = writer.op("STRIDED_SLICE", [sizes, *places], (end - start,), np.int32)
    return writer.cast(part, np.int64)


def _expand_rows(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, like = (graph.tensor(value) for value in node.inputs)
    writer = graph.writer
    sizes = writer.op("SHAPE", [like], (len(like.shape),), np.int32, out_type=2)
    places = [writer.constant(item, np.int32) for item in ([0], [1], [1])]
    rows = writer.op("STRIDED_SLICE", [sizes, *places], (1,), np.int32)
    if len(x.shape) > 1:
        ones = writer.constant([1] * (len(x.shape) - 1), np.int32)
        rows = writer.op("CONCATENATION", [rows, ones], (len(x.shape),), np.int32, axis=0)
    zero = writer.constant(0, x.dtype)
    thin = (FREE, *[1] * (len(x.shape) - 1))
    zeros = writer.op("FILL", [rows, zero], thin, x.dtype)
    return _add_zeros(graph, x, zeros, (FREE, *x.shape[1:]))


def _pad(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """Pad fixed axes with a constant value.

    Raises:
        UnsupportedError: another mode, negative pads, a computed value, or a padded free axis.
    """
    x = graph.tensor(node.inputs[0])
    rank, pads = len(x.shape), graph.integers(node.inputs[1], "the padding")
    mode = node.attributes.get_string("mode", "constant")
    if len(pads) != 2 * rank or min(pads) < 0 or mode != "constant":
        raise UnsupportedError(
            f"expected mode 'constant' and {2 * rank} pads of at least 0, got mode {mode!r} and "
            f"pads {pads}"
        )
    fill = graph.array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if fill is None:
        raise UnsupportedError("expected a constant padding value, got a computed one")
    padded_free = [i for i in range(rank) if x.shape[i] == FREE and pads[i] + pads[i + rank]]
    if padded_free:
        raise UnsupportedError(f"expected padding of fixed axes, got free axes {padded_free}")
    pairs = np.array([pads[:rank], pads[rank:]]).T
    shape = tuple(
        size if size == FREE else size + int(pair.sum())
        for size, pair in zip(x.shape, pairs, strict=True)
    )
    places = graph.writer.constant(pairs, np.int32)
    value = graph.writer.constant(fill.reshape(-1)[0], x.dtype)
    return graph.writer.op("PADV2", [x, places, value], shape, x.dtype)


def _non_negative(graph: GraphBuilder, places: Tensor, size: int) -> Tensor:
    """Computed indices with `size` added to negative ones, which GATHER refuses."""
    if size == FREE:
        return places
    moved = elementwise(graph.writer, "ADD", places, number(graph, size, places))
    return choose(graph, "LESS", places, moved, places)


def _indices(graph: GraphBuilder, value: ir.Value | None, size: int) -> Tensor:
    array = graph.array(value)
    if array is None:
        return _non_negative(graph, graph.tensor(value), size)
    if size == FREE and (array < 0).any():
        raise UnsupportedError(
            f"expected indices of at least 0 along a free axis, got {int(array.min())}"
        )
    return graph.writer.constant(np.where(array < 0, array + size, array), np.int32)


def _gather(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    places = _indices(graph, node.inputs[1], x.shape[axis])
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return graph.writer.op("GATHER", [x, places], shape, x.dtype, axis=axis)


def _swap_with_last(graph: GraphBuilder, x: Tensor, axis: int) -> Tensor:
    """Swap an axis of x with the last axis."""
    order = list(range(len(x.shape)))
    order[axis], order[-1] = order[-1], order[axis]
    return transposed(graph.writer, x, order)


def _gather_elements(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    last, axis = len(x.shape) - 1, node.attributes.get_int("axis", 0) % len(x.shape)
    places = _swap_with_last(graph, _indices(graph, node.inputs[1], x.shape[axis]), axis)
    x = _swap_with_last(graph, x, axis)
    if places.shape[:-1] != x.shape[:-1]:
        raise UnsupportedError(
            f"expected indices with the data's sizes on all other axes, {list(x.shape[:-1])}; got "
            f"{list(places.shape[:-1])}"
        )
    shape = (*x.shape[:-1], places.shape[-1])
    elements = graph.writer.op("GATHER", [x, places], shape, x.dtype, axis=last, batch_dims=last)
    return _swap_with_last(graph, elements, axis)


def _gather_nd(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """Elements x[indices[..., :]], or x[row, indices[row, ...]] with batch_dims 1.

    Raises:
        UnsupportedError: more batch axes than the rows, or several indices beside them.
    """
    x, places = (graph.tensor(value) for value in node.inputs)
    computed = graph.array(node.inputs[1]) is None
    batch_dims = node.attributes.get_int("batch_dims", 0)
    if batch_dims:
        if batch_dims != 1 or places.shape[-1] != 1:
            raise UnsupportedError(
                f"expected batch_dims 0, or 1 with a single index; got batch_dims {batch_dims} "
                f"with {places.shape[-1]} indices"
            )
        places = reshape(graph.writer, places, places.shape[:-1])
        if computed:
            places = _non_negative(graph, places, x.shape[1])
        shape = (*places.shape, *x.shape[2:])
        return graph.writer.op("GATHER", [x, places], shape, x.dtype, axis=1, batch_dims=1)
    depth = places.shape[-1]
    sizes = x.shape[:depth]
    if computed and FREE not in sizes:
        moved = elementwise(graph.writer, "ADD", places, graph.writer.constant(sizes, places.dtype))
        places = choose(graph, "LESS", places, moved, places)
    shape = (*places.shape[:-1], *x.shape[depth:])
    return graph.writer.op("GATHER_ND", [x, places], shape, x.dtype)


def _is_extreme(graph: GraphBuilder, opcode: str, x: Tensor, axis: Tensor, kept: Shape) -> Tensor:
    """1 where an int64 is the greatest, or the least, along an axis, else 0: int32."""
    extreme = graph.writer.op(opcode, [x, axis], kept, x.dtype, keep_dims=True)
    return graph.writer.cast(graph.writer.op("EQUAL", [x, extreme], x.shape, _BOOL), np.int32)


def _arg(opcode: str, reduction: str) -> Translate:
    """The first place of an extreme. The kernels take no int64: then of what is equal to it."""

    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        x = graph.tensor(node.inputs[0])
        axis = node.attributes.get_int("axis", 0) % len(x.shape)
        if node.attributes.get_int("select_last_index", 0):
            raise UnsupportedError("expected select_last_index=0, got 1")
        place = graph.writer.constant(axis, np.int32)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        kept = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        kernel = opcode
        if x.dtype == np.int64:
            x, kernel = _is_extreme(graph, reduction, x, place, kept), "ARG_MAX"
        index = graph.writer.op(
            kernel, [x, place], shape, np.int64, output_type=tflite.TensorType.INT64
        )
        if not node.attributes.get_int("keepdims", 1):
            return index
        return graph.writer.op("EXPAND_DIMS", [index, place], kept, np.int64)

    return translate


def _cum_sum(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    (axis,) = graph.integers(node.inputs[1], "the axis")
    options: dict[str, Any] = {
        key: bool(node.attributes.get_int(key, 0)) for key in ("exclusive", "reverse")
    }
    place = graph.writer.constant(axis % len(x.shape), np.int32)
    return graph.writer.op("CUMSUM", [x, place], x.shape, x.dtype, **options)


def _descending(graph: GraphBuilder, x: Tensor) -> Tensor:
    """Numbers in the opposite order; -1 - x of integers, the least of which has no -x."""
    if x.dtype == np.float32:
        return elementwise(graph.writer, "NEG", x)
    return elementwise(graph.writer, "SUB", number(graph, -1, x), x)


def _top_k_indices(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, attributes = graph.tensor(node.inputs[0]), node.attributes
    axis = attributes.get_int("axis", -1) % len(x.shape)
    if not attributes.get_int("largest", 1):
        x = _descending(graph, x)
    x = _swap_with_last(graph, x, axis)
    shape = (*x.shape[:-1], attributes.get_int("k", 1))
    k = graph.writer.constant(shape[-1], np.int32)
    indices = graph.writer.op("TOPK_V2", [x, k], shape, np.int32, first=x.dtype)
    return _swap_with_last(graph, graph.writer.cast(indices, np.int64), axis)


# One entry for each ONNX operator. To add one, write its function and name it here.
SELECTIONS: dict[str, Translate] = {
    "ArgMax": _arg("ARG_MAX", "REDUCE_MAX"),
    "ArgMin": _arg("ARG_MIN", "REDUCE_MIN"),
    "CumSum": _cum_sum,
    "Expand": _expand,
    "ExpandRows": _expand_rows,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": as_numbers(_gather_nd),
    "Pad": as_numbers(_pad),
    "Shape": _shape,
    "TopKIndices": _top_k_indices,
}
