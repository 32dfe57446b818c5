"""The registry of ONNX operators in TFLite; matrices, reductions and changes of shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import tflite

from ondevice.converters.targets.tflite.elementwise import ELEMENTWISE
from ondevice.converters.targets.tflite.graph import GraphBuilder, Translate
from ondevice.converters.targets.tflite.select import SELECTIONS, as_numbers
from ondevice.converters.targets.tflite.shapes import (
    broadcast,
    flat_size,
    leading,
    reshape,
    transposed,
)
from ondevice.converters.targets.tflite.trees import write_trees
from ondevice.converters.targets.tflite.writer import FREE, TYPES, Shape, Tensor
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]
_RELU = tflite.ActivationFunctionType.RELU
_END = 2**31 - 1


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise UnsupportedError(f"expected an axis in {-rank}..{rank - 1}, got {axis}")
    return axis % rank


def _identity(graph: GraphBuilder, node: ir.Node) -> Tensor:
    return graph.tensor(node.inputs[0])


def _cast(graph: GraphBuilder, node: ir.Node) -> Tensor:
    target = ir.DataType(node.attributes.get_int("to", 0)).numpy()
    if target.name not in TYPES:
        raise UnsupportedError(f"expected a cast to one of {', '.join(TYPES)}; got {target.name}")
    return graph.writer.cast(graph.tensor(node.inputs[0]), target)


def _softmax(graph: GraphBuilder, node: ir.Node) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    rank = len(tensor.shape)
    axis = _axis(node.attributes.get_int("axis", -1), rank)
    order = [i for i in range(rank) if i != axis] + [axis]
    moved = transposed(graph.writer, tensor, order)
    result = graph.writer.op("SOFTMAX", [moved], moved.shape, moved.dtype, beta=1.0)
    return transposed(graph.writer, result, [order.index(i) for i in range(rank)])


def _concat(graph: GraphBuilder, node: ir.Node) -> Tensor:
    parts = [graph.tensor(value) for value in node.inputs]
    if len(parts) == 1:
        return parts[0]
    axis = _axis(node.attributes.get_int("axis", 0), len(parts[0].shape))
    sizes = [part.shape[axis] for part in parts]
    shape = list(broadcast(*(part.shape[:axis] for part in parts)) if axis else ())
    shape.append(FREE if FREE in sizes else sum(sizes))
    shape += broadcast(*(part.shape[axis + 1 :] for part in parts))
    return graph.writer.op("CONCATENATION", parts, tuple(shape), parts[0].dtype, axis=axis)


def _reshape(graph: GraphBuilder, node: ir.Node) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    if graph.array(node.inputs[1]) is None:  # several sizes are free
        sizes = graph.writer.cast(graph.tensor(node.inputs[1]), np.int32)
        shape = graph.sizes(node.inputs[1])
        return graph.writer.op("RESHAPE", [tensor, sizes], shape, tensor.dtype)
    target = graph.integers(node.inputs[1], "the target shape")
    if node.attributes.get_int("allowzero", 0) and 0 in target:
        raise UnsupportedError(f"expected a target shape without zeros (allowzero=1), got {target}")
    shape = _reshaped(tensor.shape, target)
    # the leading sizes may be free together if they stay as they are: they are read at run time
    lead = leading(shape)
    same = shape[:lead] == tensor.shape[:lead]
    return reshape(graph.writer, tensor, shape, like=tensor if same else None)


def _reshaped(shape: Shape, target: Sequence[int]) -> Shape:
    """Resolve ONNX's 0 (the size at the same place) and -1 (what remains)."""
    result = [shape[i] if size == 0 else size for i, size in enumerate(target)]
    carried = {i for i, size in enumerate(target) if size == 0}
    if -1 in target and all(size != FREE or i in carried for i, size in enumerate(shape)):
        have = math.prod(size for size in shape if size != FREE)
        rest = math.prod(size for size in result if size != FREE)
        result[list(target).index(-1)] = have // max(rest, 1)
    return tuple(result)


def _flatten(graph: GraphBuilder, node: ir.Node) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    axis = node.attributes.get_int("axis", 1)
    axis += len(tensor.shape) if axis < 0 else 0
    shape = (flat_size(tensor.shape[:axis]), flat_size(tensor.shape[axis:]))
    return reshape(graph.writer, tensor, shape)


def _squeeze(graph: GraphBuilder, node: ir.Node) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    rank = len(tensor.shape)
    if len(node.inputs) > 1:
        axes = {_axis(i, rank) for i in graph.integers(node.inputs[1], "the axes")}
    else:
        axes = {i for i, size in enumerate(tensor.shape) if size == 1}
    shape = tuple(size for i, size in enumerate(tensor.shape) if i not in axes)
    dims = tuple(sorted(axes))
    return graph.writer.op("SQUEEZE", [tensor], shape, tensor.dtype, squeeze_dims=dims)


def _unsqueeze(graph: GraphBuilder, node: ir.Node) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    axes = graph.integers(node.inputs[1], "the axes")
    rank = len(tensor.shape) + len(axes)
    for axis in sorted(_axis(i, rank) for i in axes):
        shape = (*tensor.shape[:axis], 1, *tensor.shape[axis:])
        place = graph.writer.constant(axis, np.int32)
        tensor = graph.writer.op("EXPAND_DIMS", [tensor, place], shape, tensor.dtype)
    return tensor


def _transpose(graph: GraphBuilder, node: ir.Node) -> Tensor:
    tensor = graph.tensor(node.inputs[0])
    backwards = list(range(len(tensor.shape)))[::-1]
    return transposed(graph.writer, tensor, list(node.attributes.get_ints("perm", backwards)))


def _reduce(opcode: str) -> Translate:
    """Reduce the axes of an attribute or an input; all axes where neither names any."""

    def translate(graph: GraphBuilder, node: ir.Node) -> Tensor:
        tensor = graph.tensor(node.inputs[0])
        rank = len(tensor.shape)
        axes = list(node.attributes.get_ints("axes", []))
        if len(node.inputs) > 1 and node.inputs[1] is not None:
            axes = graph.integers(node.inputs[1], "the axes")
        unchanged = node.attributes.get_int("noop_with_empty_axes", 0)
        if not axes and unchanged:
            return tensor
        chosen = sorted({_axis(axis, rank) for axis in axes}) or list(range(rank))
        keep = node.attributes.get_int("keepdims", 1) != 0
        shape = tuple(
            1 if i in chosen else size
            for i, size in enumerate(tensor.shape)
            if keep or i not in chosen
        )
        places = graph.writer.constant(chosen, np.int32)
        return graph.writer.op(opcode, [tensor, places], shape, tensor.dtype, keep_dims=keep)

    return translate


def _slice(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """Cut axes at constant starts and ends; an end beyond int32 stands for the axis's end.

    Raises:
        UnsupportedError: a step below 1, or starts, ends, axes or steps that are computed.
    """
    tensor = graph.tensor(node.inputs[0])
    rank = len(tensor.shape)
    starts = graph.integers(node.inputs[1], "the starts")
    ends = graph.integers(node.inputs[2], "the ends")
    given = [*node.inputs[3:], None, None]
    axes = graph.integers(given[0], "the axes") if given[0] else list(range(len(starts)))
    steps = graph.integers(given[1], "the steps") if given[1] else [1] * len(starts)
    if min(steps) < 1:
        raise UnsupportedError(f"expected steps of at least 1, got {steps}")
    begin, end, stride, end_mask = [0] * rank, [0] * rank, [1] * rank, 2**rank - 1
    shape = list(tensor.shape)
    for raw, first, last, step in zip(axes, starts, ends, steps, strict=True):
        axis = _axis(raw, rank)
        begin[axis] = int(np.clip(first, -_END, _END))
        stride[axis] = step
        if last < _END:
            end[axis] = int(max(last, -_END))
            end_mask &= ~(1 << axis)
        if shape[axis] != FREE:
            shape[axis] = len(range(*slice(first, last, step).indices(shape[axis])))
        elif (first, step) != (0, 1) or last < _END:
            shape[axis] = FREE
    places = [graph.writer.constant(item, np.int32) for item in (begin, end, stride)]
    return graph.writer.op(
        "STRIDED_SLICE", [tensor, *places], tuple(shape), tensor.dtype, end_mask=end_mask
    )


def _gemm(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """A layer with constant weights and bias, into which alpha and beta are multiplied.

    Raises:
        UnsupportedError: computed weights or bias, or a bias that differs by row.
    """
    attributes = node.attributes
    left = graph.tensor(node.inputs[0])
    if attributes.get_int("transA", 0):
        left = transposed(graph.writer, left, [1, 0])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    alpha, beta = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    by_unit = attributes.get_int("transB", 0) != 0
    weights = graph.array(node.inputs[1])
    offset = graph.array(bias)
    if weights is None or (bias is not None and offset is None):
        computed = "weights" if weights is None else "a bias"
        raise UnsupportedError(f"expected constants, got {computed} computed at run time")
    weights = weights if by_unit else weights.T
    if offset is not None:
        offset = np.asarray(offset * np.float32(beta), dtype=np.float32)
        if offset.size not in (1, weights.shape[0]) or offset.shape[:-1].count(1) < offset.ndim - 1:
            raise UnsupportedError(
                f"expected one bias for each of {weights.shape[0]} units, or for all; got shape "
                f"{list(offset.shape)}"
            )
        offset = np.broadcast_to(offset.reshape(-1), (weights.shape[0],))
    return _fully_connected(graph, node, left, weights * np.float32(alpha), offset)


def _matmul(graph: GraphBuilder, node: ir.Node) -> Tensor:
    left, weights = graph.tensor(node.inputs[0]), graph.array(node.inputs[1])
    if weights is not None and weights.ndim == 2 and len(left.shape) > 1:
        return _fully_connected(graph, node, left, weights.T, None)
    right = graph.tensor(node.inputs[1])
    if min(len(left.shape), len(right.shape)) < 2:
        raise UnsupportedError(
            f"expected factors of rank 2 and more, got shapes {list(left.shape)} and "
            f"{list(right.shape)}"
        )
    batch = broadcast(left.shape[:-2] or (1,), right.shape[:-2] or (1,))
    batch = batch if max(len(left.shape), len(right.shape)) > 2 else ()
    shape = (*batch, left.shape[-2], right.shape[-1])
    return graph.writer.op("BATCH_MATMUL", [left, right], shape, np.float32)


def _fully_connected(
    graph: GraphBuilder, node: ir.Node, left: Tensor, weights: Array, bias: Array | None
) -> Tensor:
    """Multiply [..., k] by weights [m, k] transposed, fusing a Relu that is the only reader."""
    name = str(node.inputs[1].name) if node.inputs[1] is not None else "weights"
    inputs = [left, graph.writer.constant(weights, np.float32, name)]
    if bias is not None:
        inputs.append(graph.writer.constant(bias, np.float32))
    options: dict[str, Any] = {"keep_num_dims": len(left.shape) > 2}
    relu = _only_relu(node)
    if relu is not None:
        options["fused_activation_function"] = _RELU
    shape = (*left.shape[:-1], weights.shape[0])
    result = graph.writer.op("FULLY_CONNECTED", inputs, shape, np.float32, **options)
    if relu is not None:
        graph.fused.add(relu)
        graph.values[relu.outputs[0]] = result
    return result


def _only_relu(node: ir.Node) -> ir.Node | None:
    """The Relu that is the only reader of a node's output; None for other readers."""
    output = node.outputs[0]
    consumers = output.consumers()
    if output.is_graph_output() or len(consumers) != 1:
        return None
    consumer = next(iter(consumers))
    return consumer if consumer.op_type == "Relu" and not consumer.domain else None


# Operators that a TFLite file can express. To add one, write its function and name it here.
OPERATORS: dict[str, Translate] = {
    **ELEMENTWISE,
    **SELECTIONS,
    "Cast": _cast,
    "Concat": _concat,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": _identity,
    "MatMul": _matmul,
    "ReduceMax": as_numbers(_reduce("REDUCE_MAX")),
    "ReduceMean": _reduce("MEAN"),
    "ReduceMin": as_numbers(_reduce("REDUCE_MIN")),
    "ReduceProd": _reduce("REDUCE_PROD"),
    "ReduceSum": _reduce("SUM"),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "TreeEnsemble": write_trees,
    "Unsqueeze": _unsqueeze,
}
