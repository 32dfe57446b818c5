"""Shapes with free sizes: what broadcasting makes of them, and operators that follow shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ondevice.converters.targets.tflite.writer import FREE, Shape, Tensor, TfliteWriter
from ondevice.errors import UnsupportedError


def flat_size(shape: Shape) -> int:
    """Number of elements, FREE if any size is."""
    return FREE if FREE in shape else math.prod(shape)


def broadcast(*shapes: Shape) -> Shape:
    """Result shape of an elementwise operator.

    Raises:
        UnsupportedError: the shapes do not fit one another.
    """
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        fixed = {size for size in sizes if size not in (1, FREE)}
        if len(fixed) > 1:
            listed = ", ".join(str(list(shape)) for shape in shapes)
            raise UnsupportedError(f"shapes {listed} do not broadcast")
        result.append(fixed.pop() if fixed else FREE if FREE in sizes else 1)
    return tuple(result)


def elementwise(
    writer: TfliteWriter, opcode: str, *tensors: Tensor, dtype: npt.DTypeLike | None = None
) -> Tensor:
    """An operator whose result has the shape that its operands broadcast to.

    Args:
        writer: the graph.
        opcode: TFLite's name of the operator.
        tensors: the operands.
        dtype: of the result, by default that of the first operand.

    Raises:
        UnsupportedError: the shapes do not fit one another.
    """
    shape = broadcast(*(tensor.shape for tensor in tensors))
    return writer.op(opcode, list(tensors), shape, dtype or tensors[0].dtype)


def reshape(
    writer: TfliteWriter, tensor: Tensor, shape: Shape, *, like: Tensor | None = None
) -> Tensor:
    """RESHAPE to a shape with FREE sizes.

    Args:
        writer: the graph.
        tensor: what to reshape.
        shape: the new shape.
        like: a tensor with the same leading sizes as `shape`; needed where more than one of them
            is FREE, to read them while the model runs.

    Raises:
        UnsupportedError: more than one size is FREE, and `like` is missing.
    """
    if shape == tensor.shape and shape.count(FREE) <= 1:
        return tensor
    if shape.count(FREE) <= 1:
        target = writer.constant(shape, np.int32)
    elif like is not None:
        target = _runtime_shape(writer, like, shape)
    else:
        raise UnsupportedError(
            f"cannot reshape {list(tensor.shape)} to {list(shape)}: two sizes are free"
        )
    return writer.op("RESHAPE", [tensor, target], shape, tensor.dtype)


def _runtime_shape(writer: TfliteWriter, like: Tensor, shape: Shape) -> Tensor:
    """A shape as an int32 list whose leading sizes are read from a tensor at run time."""
    rank = len(like.shape)
    sizes = writer.op("SHAPE", [like], (rank,), np.int32, out_type=2)
    lead = leading(shape)
    if lead < rank:
        places = [writer.constant([place], np.int32) for place in (0, lead, 1)]
        sizes = writer.op("STRIDED_SLICE", [sizes, *places], (lead,), np.int32)
    if lead == len(shape):
        return sizes
    rest = writer.constant(shape[lead:], np.int32)
    return writer.op("CONCATENATION", [sizes, rest], (len(shape),), np.int32, axis=0)


def leading(shape: Shape) -> int:
    """Number of sizes up to and including the last free one."""
    return max((place + 1 for place, size in enumerate(shape) if size == FREE), default=0)


def transposed(writer: TfliteWriter, tensor: Tensor, order: Sequence[int]) -> Tensor:
    """TRANSPOSE to this order of the axes; the tensor itself where that is its order."""
    if list(order) == list(range(len(tensor.shape))):
        return tensor
    shape = tuple(tensor.shape[i] for i in order)
    permutation = writer.constant(list(order), np.int32)
    return writer.op("TRANSPOSE", [tensor, permutation], shape, tensor.dtype)
