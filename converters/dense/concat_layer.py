"""A dense layer that is the only reader of a Concat: its weights change when the Concat does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.initializers import add_initializer
from ondevice.converters.lowering.operands import constant_array

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ConcatLayer:
    """A Gemm or MatMul with constant weights that reads a Concat along the last axis.

    Attributes:
        node: the Gemm or MatMul.
        constant: the constant that holds the weights, transposed where `transposed` says so.
        weight: [features, units], a row for each column of the Concat.
        widths: how many columns each input of the Concat has.
        transposed: whether the node reads its weights as [units, features].
    """

    node: ir.Node
    constant: ir.Value
    weight: Array
    widths: tuple[int, ...]
    transposed: bool

    def with_weight(self, graph: ir.Graph, weight: Array, suffix: str) -> ConcatLayer:
        """The layer with other weights [features, units], stored under its name and a suffix."""
        stored = weight.T if self.transposed else weight
        constant = add_initializer(graph, f"{self.constant.name}.{suffix}", stored)
        self.node.replace_input_with(1, constant)
        unused = not self.constant.uses() and not self.constant.is_graph_output()
        if unused and self.constant.name:
            graph.initializers.pop(self.constant.name, None)
        return replace(self, constant=constant, weight=weight)


def layer_of_concat(concat: ir.Node) -> ConcatLayer | None:
    """The dense layer that is the only reader of a Concat; None where there is none.

    None also where an input of the Concat has no known width.
    """
    output = concat.outputs[0]
    uses = output.uses()
    if len(uses) != 1 or output.is_graph_output() or not concatenates_columns(concat):
        return None
    ((node, place),) = uses
    if place != 0 or node.domain or node.op_type not in ("Gemm", "MatMul"):
        return None
    constant, weight = node.inputs[1], constant_array(node.inputs[1])
    if constant is None or weight is None or weight.ndim != 2:
        return None
    if node.attributes.get_int("transA", 0):
        return None
    transposed = bool(node.attributes.get_int("transB", 0))
    weight = weight.T if transposed else weight
    widths = tuple(_width(value) for value in concat.inputs)
    if not all(widths) or sum(widths) != len(weight):
        return None
    return ConcatLayer(node, constant, weight, widths, transposed)


def concatenates_columns(node: ir.Node) -> bool:
    """Whether a node is a Concat along the last axis."""
    if node.op_type != "Concat" or node.domain:
        return False
    axis, shape = node.attributes.get_int("axis"), node.outputs[0].shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _width(value: ir.Value | None) -> int:
    """Size of the last axis; 0 where it is not known."""
    if value is None or not value.shape or not isinstance(value.shape[-1], int):
        return 0
    return value.shape[-1]
