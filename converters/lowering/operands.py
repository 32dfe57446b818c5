"""What is known at conversion of a node's operands: shapes, and constants among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.symbolic_shapes import Size, integers, numbers
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]


def shape_of(value: ir.Value | None) -> list[Size]:
    """Sizes of a value, a free one by its name.

    Raises:
        UnsupportedError: they are not known.
    """
    if value is None or value.shape is None:
        raise UnsupportedError("a shape is not known")
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def array_of(value: ir.Value | None) -> Array | None:
    """A constant as an array; None where it is computed."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    return None


def constant_integers(value: ir.Value | None) -> Array | None:
    """Constant integers, also where shape arithmetic makes them."""
    found = numbers(value)
    if found is None or any(isinstance(item, str) for item in found.reshape(-1)):
        return None
    return found.astype(np.int64)


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
