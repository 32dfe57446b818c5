"""TFLite forms of operators that it lacks or has differently: selections, rows, activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import tflite

from ondevice.converters.targets.tflite.graph import GraphBuilder, Translate
from ondevice.converters.targets.tflite.shapes import broadcast, reshape, transposed
from ondevice.converters.targets.tflite.writer import FREE, Shape, Tensor
from ondevice.errors import UnsupportedError

_BOOL = np.dtype(np.bool_)


def _elementwise(opcode: str, *, dtype: type | None = None) -> Translate:
    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        tensors = [graph.tensor(value) for value in node.inputs]
        shape = broadcast(*(tensor.shape for tensor in tensors))
        return graph.writer.op(opcode, tensors, shape, dtype or tensors[0].dtype)

    return translate


def _op(graph: GraphBuilder, opcode: str, *tensors: Tensor) -> Tensor:
    shape = broadcast(*(tensor.shape for tensor in tensors))
    return graph.writer.op(opcode, list(tensors), shape, tensors[0].dtype)


def _number(graph: GraphBuilder, value: float, like: Tensor) -> Tensor:
    return graph.writer.constant(value, like.dtype)


def _logical(opcode: str) -> Translate:
    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        tensors = [graph.writer.cast(graph.tensor(value), _BOOL) for value in node.inputs]
        return _op(graph, opcode, *tensors)

    return translate


def _where(graph: GraphBuilder, node: ir.Node) -> Tensor:
    test, yes, no = (graph.tensor(value) for value in node.inputs)
    shape = broadcast(test.shape, yes.shape, no.shape)
    return graph.writer.op("SELECT_V2", [test, yes, no], shape, yes.dtype)


def _choose(graph: GraphBuilder, opcode: str, x: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Yes where x is below (or above) zero, no elsewhere."""
    test = graph.writer.op(opcode, [x, _number(graph, 0, x)], x.shape, _BOOL)
    return graph.writer.op("SELECT_V2", [test, yes, no], x.shape, x.dtype)


def _abs(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    if x.dtype == np.float32:
        return _op(graph, "ABS", x)
    return _op(graph, "MAXIMUM", x, _op(graph, "NEG", x))  # ABS takes no int64


def _sign(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    positive = _choose(graph, "GREATER", x, _number(graph, 1, x), x)
    return _choose(graph, "LESS", x, _number(graph, -1, x), positive)


def _reciprocal(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    return _op(graph, "DIV", _number(graph, 1, x), x)


def _softplus(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    small = _op(graph, "EXP", _op(graph, "NEG", _op(graph, "ABS", x)))
    rest = _op(graph, "LOG", _op(graph, "ADD", small, _number(graph, 1, x)))
    return _op(graph, "ADD", _op(graph, "MAXIMUM", x, _number(graph, 0, x)), rest)


def _erf(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """Abramowitz and Stegun, formula 7.1.26: within 1.5e-7 of the error function."""
    x = graph.tensor(node.inputs[0])
    size = _op(graph, "ABS", x)
    scaled = _op(graph, "MUL", size, _number(graph, 0.3275911, x))
    t = _op(graph, "DIV", _number(graph, 1, x), _op(graph, "ADD", scaled, _number(graph, 1, x)))
    total = _number(graph, 1.061405429, x)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = _op(graph, "ADD", _op(graph, "MUL", total, t), _number(graph, factor, x))
    power = _op(graph, "EXP", _op(graph, "NEG", _op(graph, "MUL", x, x)))
    tail = _op(graph, "MUL", _op(graph, "MUL", total, t), power)
    value = _op(graph, "SUB", _number(graph, 1, x), tail)
    return _choose(graph, "LESS", x, _op(graph, "NEG", value), value)


def _leaky_relu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, alpha = graph.tensor(node.inputs[0]), node.attributes.get_float("alpha", 0.01)
    return graph.writer.op("LEAKY_RELU", [x], x.shape, x.dtype, alpha=alpha)


def _prelu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, slope = (graph.tensor(value) for value in node.inputs)
    zero = _number(graph, 0, x)
    below = _op(graph, "MUL", _op(graph, "MINIMUM", x, zero), slope)
    return _op(graph, "ADD", _op(graph, "MAXIMUM", x, zero), below)


def _elu(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, alpha = graph.tensor(node.inputs[0]), node.attributes.get_float("alpha", 1.0)
    powers = _op(graph, "EXP", _op(graph, "MINIMUM", x, _number(graph, 0, x)))
    below = _op(graph, "SUB", powers, _number(graph, 1, x))
    return _choose(graph, "GREATER", x, x, _op(graph, "MUL", below, _number(graph, alpha, x)))


def _mod(graph: GraphBuilder, node: ir.Node) -> Tensor:
    if node.attributes.get_int("fmod", 0):
        raise UnsupportedError("a remainder with the sign of the dividend")
    return _elementwise("FLOOR_MOD")(graph, node)


def _div(graph: GraphBuilder, node: ir.Node) -> Tensor:
    if graph.tensor(node.inputs[0]).dtype != np.float32:
        raise UnsupportedError("a division of integers")
    return _elementwise("DIV")(graph, node)


def _zeros_added(graph: GraphBuilder, x: Tensor, zeros: Tensor, shape: Shape) -> Tensor:
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
        return _zeros_added(graph, x, zeros, broadcast(x.shape, target))
    target = tuple(graph.integers(node.inputs[1], "the shape"))
    zeros = graph.writer.constant(np.zeros(target), x.dtype)
    return _zeros_added(graph, x, zeros, broadcast(x.shape, target))


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
    return _zeros_added(graph, x, zeros, (FREE, *x.shape[1:]))


def _pad(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    rank, pads = len(x.shape), graph.integers(node.inputs[1], "the padding")
    if (
        len(pads) != 2 * rank
        or min(pads) < 0
        or node.attributes.get_string("mode", "constant") != ("constant")
    ):
        raise UnsupportedError("only constant padding of every axis, not cutting")
    fill = graph.array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if fill is None or any(x.shape[i] == FREE and pads[i] + pads[i + rank] for i in range(rank)):
        raise UnsupportedError("a free axis, or a value that is not constant")
    pairs = np.array([pads[:rank], pads[rank:]]).T
    shape = tuple(
        size if size == FREE else size + int(pair.sum())
        for size, pair in zip(x.shape, pairs, strict=True)
    )
    places = graph.writer.constant(pairs, np.int32)
    value = graph.writer.constant(fill.reshape(-1)[0], x.dtype)
    return graph.writer.op("PADV2", [x, places, value], shape, x.dtype)


def _indices(graph: GraphBuilder, value: ir.Value | None, size: int) -> Tensor:
    array = graph.array(value)
    if array is None:
        return graph.tensor(value)
    if size == FREE and (array < 0).any():
        raise UnsupportedError("an index from the end of a free axis")
    return graph.writer.constant(np.where(array < 0, array + size, array), np.int32)


def _gather(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    places = _indices(graph, node.inputs[1], x.shape[axis])
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return graph.writer.op("GATHER", [x, places], shape, x.dtype, axis=axis)


def _swapped(graph: GraphBuilder, x: Tensor, axis: int) -> Tensor:
    """With one axis and the last one in each other's place."""
    order = list(range(len(x.shape)))
    order[axis], order[-1] = order[-1], order[axis]
    return transposed(graph.writer, x, order)


def _gather_elements(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    last, axis = len(x.shape) - 1, node.attributes.get_int("axis", 0) % len(x.shape)
    places = _swapped(graph, _indices(graph, node.inputs[1], x.shape[axis]), axis)
    x = _swapped(graph, x, axis)
    if places.shape[:-1] != x.shape[:-1]:
        raise UnsupportedError("indices for a part of the data")
    shape = (*x.shape[:-1], places.shape[-1])
    found = graph.writer.op("GATHER", [x, places], shape, x.dtype, axis=last, batch_dims=last)
    return _swapped(graph, found, axis)


def _gather_nd(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, places = (graph.tensor(value) for value in node.inputs)
    if node.attributes.get_int("batch_dims", 0):
        if node.attributes.get_int("batch_dims", 0) != 1 or places.shape[-1] != 1:
            raise UnsupportedError("batch_dims beyond the rows, or several indices")
        places = reshape(graph.writer, places, places.shape[:-1])
        shape = (*places.shape, *x.shape[2:])
        return graph.writer.op("GATHER", [x, places], shape, x.dtype, axis=1, batch_dims=1)
    shape = (*places.shape[:-1], *x.shape[places.shape[-1] :])
    return graph.writer.op("GATHER_ND", [x, places], shape, x.dtype)


def _arg(opcode: str) -> Translate:
    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        x = graph.tensor(node.inputs[0])
        axis = node.attributes.get_int("axis", 0) % len(x.shape)
        if node.attributes.get_int("select_last_index", 0):
            raise UnsupportedError("the last of equal elements")
        place = graph.writer.constant(axis, np.int32)
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        found = graph.writer.op(
            opcode, [x, place], shape, np.int64, output_type=tflite.TensorType.INT64
        )
        if not node.attributes.get_int("keepdims", 1):
            return found
        return graph.writer.op(
            "EXPAND_DIMS", [found, place], (*x.shape[:axis], 1, *x.shape[axis + 1 :]), np.int64
        )

    return translate


def _cum_sum(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x = graph.tensor(node.inputs[0])
    (axis,) = graph.integers(node.inputs[1], "the axis")
    options: dict[str, Any] = {
        key: bool(node.attributes.get_int(key, 0)) for key in ("exclusive", "reverse")
    }
    place = graph.writer.constant(axis % len(x.shape), np.int32)
    return graph.writer.op("CUMSUM", [x, place], x.shape, x.dtype, **options)


def _top_k_indices(graph: GraphBuilder, node: ir.Node) -> Tensor:
    x, attributes = graph.tensor(node.inputs[0]), node.attributes
    axis = attributes.get_int("axis", -1) % len(x.shape)
    x = _swapped(graph, x if attributes.get_int("largest", 1) else _op(graph, "NEG", x), axis)
    shape = (*x.shape[:-1], attributes.get_int("k", 1))
    k = graph.writer.constant(shape[-1], np.int32)
    found = graph.writer.op("TOPK_V2", [x, k], shape, np.int32, first=x.dtype)
    return _swapped(graph, graph.writer.cast(found, np.int64), axis)


SELECTIONS: dict[str, Translate] = {
    "Abs": _abs,
    "And": _logical("LOGICAL_AND"),
    "ArgMax": _arg("ARG_MAX"),
    "ArgMin": _arg("ARG_MIN"),
    "Ceil": _elementwise("CEIL"),
    "CumSum": _cum_sum,
    "Div": _div,
    "Elu": _elu,
    "Equal": _elementwise("EQUAL", dtype=np.bool_),
    "Erf": _erf,
    "Exp": _elementwise("EXP"),
    "Expand": _expand,
    "ExpandRows": _expand_rows,
    "Floor": _elementwise("FLOOR"),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Greater": _elementwise("GREATER", dtype=np.bool_),
    "GreaterOrEqual": _elementwise("GREATER_EQUAL", dtype=np.bool_),
    "LeakyRelu": _leaky_relu,
    "Less": _elementwise("LESS", dtype=np.bool_),
    "LessOrEqual": _elementwise("LESS_EQUAL", dtype=np.bool_),
    "Log": _elementwise("LOG"),
    "Max": _elementwise("MAXIMUM"),
    "Min": _elementwise("MINIMUM"),
    "Mod": _mod,
    "Neg": _elementwise("NEG"),
    "Not": _logical("LOGICAL_NOT"),
    "Or": _logical("LOGICAL_OR"),
    "PRelu": _prelu,
    "Pad": _pad,
    "Reciprocal": _reciprocal,
    "Round": _elementwise("ROUND"),
    "Shape": _shape,
    "Sign": _sign,
    "Softplus": _softplus,
    "Sqrt": _elementwise("SQRT"),
    "TopKIndices": _top_k_indices,
    "Where": _where,
    "Xor": _elementwise("NOT_EQUAL", dtype=np.bool_),
}
