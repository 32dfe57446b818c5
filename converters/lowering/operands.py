"""What is known at conversion of a node's operands: shapes, and constants among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.symbolic_shapes import Size, integers, numbers
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]
# An end of a slice that no axis reaches, not even the rows of a request: x[:, 1:10**9].
TO_THE_END = 10**8
_NUMBER_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def shape_of(value: ir.Value | None) -> list[Size]:
    """Sizes of a value, a free one by its name.

    Raises:
        UnsupportedError: they are not known.
    """
    if value is None or value.shape is None:
        raise UnsupportedError("a shape is not known")
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def constant_array(value: ir.Value | None) -> Array | None:
    """A constant as an array: an initializer, or the output of a Constant node of numbers.

    None where the value is left out, is computed, or holds text.
    """
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain:
        return None
    for name, dtype in _NUMBER_ATTRIBUTES.items():
        if name in node.attributes:
            return np.asarray(node.attributes[name].value, dtype=dtype)
    tensor = node.attributes.get_tensor("value")
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_integers(value: ir.Value | None) -> Array | None:
    """Constant integers, also where shape arithmetic makes them."""
    values = numbers(value)
    if values is None or any(isinstance(item, str) for item in values.reshape(-1)):
        return None
    return values.astype(np.int64)


def required_integers(value: ir.Value | None) -> list[int]:
    """Constant integers, such as axes.

    Raises:
        UnsupportedError: one is free, or depends on the request.
    """
    sizes = integers(value)
    if sizes is None or any(isinstance(size, str) for size in sizes):
        raise UnsupportedError("a size is not constant")
    return [int(size) for size in sizes]


def optional_input(node: ir.Node, place: int) -> ir.Value | None:
    """An input of a node, None where it is left out."""
    return node.inputs[place] if place < len(node.inputs) else None


def first_input(node: ir.Node) -> ir.Value:
    """The first input of a node.

    Raises:
        UnsupportedError: it is left out.
    """
    value = node.inputs[0]
    if value is None:
        raise UnsupportedError("an input is left out")
    return value


def rank_of(value: ir.Value | None) -> int:
    """Number of axes of a value."""
    return len(shape_of(value))


def attribute_values(node: ir.Node) -> dict[str, Any]:
    """The attributes of a node by name, to build another node with them."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def fill_value(node: ir.Node) -> Array:
    """The value of a ConstantOfShape, [1]: by default a float32 zero."""
    tensor = node.attributes.get_tensor("value")
    return np.zeros(1, np.float32) if tensor is None else np.asarray(tensor.numpy())


def batch_norm_factors(node: ir.Node) -> tuple[Array, Array] | None:
    """Scale and shift of a BatchNormalization, float32 [channels] each: y = x * scale + shift.

    They are rounded as torch rounds them, since a file is compared with torch: a scale that is
    computed in float64 differs from torch's for every row alike, and layers behind it, such as a
    sparsemax, multiply the difference.

    None where one of its parameters is not constant, or the request's own statistics are used.
    """
    if node.attributes.get_int("training_mode", 0):
        return None
    parameters = [constant_array(value) for value in node.inputs[1:5]]
    if any(array is None for array in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(array, np.float32) for array in parameters)
    epsilon = np.float32(node.attributes.get_float("epsilon", 1e-5))
    scale = np.float32(1) / np.sqrt(variance + epsilon) * gamma
    shift = beta.astype(np.float64) - mean.astype(np.float64) * scale  # torch rounds it once
    return scale, shift.astype(np.float32)


def triangle_mask(node: ir.Node) -> Array:
    """Which elements of its matrices a Trilu keeps, bool [rows, columns].

    Raises:
        UnsupportedError: a size of the matrices is free, or the diagonal is not constant.
    """
    rows, columns = shape_of(first_input(node))[-2:]
    diagonal = optional_input(node, 1)
    shift = 0 if diagonal is None else required_integers(diagonal)[0]
    if isinstance(rows, str) or isinstance(columns, str):
        raise UnsupportedError("a size of its matrices is free")
    ones = np.ones((rows, columns), bool)
    return np.triu(ones, shift) if node.attributes.get_int("upper", 1) else np.tril(ones, shift)
