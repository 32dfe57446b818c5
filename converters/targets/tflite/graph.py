"""The ONNX values of a graph as TFLite tensors, while its nodes are being translated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.operands import constant_array
from ondevice.converters.targets.tflite.writer import FREE, TYPES, Shape, Tensor, TfliteWriter
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]


class GraphBuilder:
    """The ONNX values of a graph as TFLite tensors, while its nodes are being translated."""

    def __init__(self, writer: TfliteWriter) -> None:
        """Start with no values."""
        self.writer = writer
        self.values: dict[ir.Value, Tensor] = {}
        self.fused: set[ir.Node] = set()

    def tensor(self, value: ir.Value | None) -> Tensor:
        """The tensor of a value; a constant becomes a tensor when it is first used."""
        if value is None:
            raise UnsupportedError("a required input is left out")
        if value not in self.values:
            array = self.array(value)
            if array is None:
                raise UnsupportedError(f"{value.name!r} is computed by an unsupported operator")
            self.values[value] = self.constant(array, str(value.name))
        return self.values[value]

    def constant(self, array: Array, name: str) -> Tensor:
        """A constant tensor; equal constants share the name of the first."""
        if array.dtype.name not in TYPES:
            raise UnsupportedError(f"{name} has dtype {array.dtype}")
        return self.writer.constant(array, array.dtype, name)

    def array(self, value: ir.Value | None) -> Array | None:
        """The constant that a value holds, None where it is computed.

        Raises:
            UnsupportedError: it is text, or in another form that TFLite does not have.
        """
        array = constant_array(value)
        node = None if value is None else value.producer()
        if array is None and node is not None and node.op_type == "Constant":
            raise UnsupportedError("expected a constant of numbers, got one of another kind")
        return array

    def sizes(self, value: ir.Value | None) -> Shape:
        """The sizes in an int64 list; FREE where they are not constant.

        Raises:
            UnsupportedError: the list is neither constant nor a Concat of lists.
        """
        array = self.array(value)
        if array is not None:
            return tuple(int(item) for item in np.atleast_1d(array))
        node = None if value is None else value.producer()
        if node is not None and node.op_type == "Concat":
            return tuple(size for part in node.inputs for size in self.sizes(part))
        if node is not None and node.op_type in ("Mul", "Shape"):
            return (FREE,)
        raise UnsupportedError("its sizes are not constant")

    def integers(self, value: ir.Value | None, what: str) -> list[int]:
        """A constant list of integers, such as axes.

        Raises:
            UnsupportedError: it is computed while the model runs.
        """
        array = self.array(value)
        if array is None:
            raise UnsupportedError(f"{what} is not constant")
        return [int(item) for item in np.atleast_1d(array)]


Translate = Callable[[GraphBuilder, ir.Node], Tensor]
