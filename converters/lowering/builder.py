"""The nodes that replace one node of a graph, as they are built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class NodeBuilder:
    """Nodes that replace one node, as they are built."""

    def __init__(self, graph: ir.Graph, source: ir.Node, prefix: str) -> None:
        """Start with no nodes; `prefix` makes names unique."""
        self.graph = graph
        self.source = source
        self.nodes: list[ir.Node] = []
        self._prefix = prefix

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        name = f"{self._prefix}.{len(self.nodes)}"
        node = ir.node(kind, list(inputs), attributes=attributes, name=name)
        node.metadata_props.update(self.source.metadata_props)
        node.outputs[0].name = f"{name}.value"
        self.nodes.append(node)
        return node.outputs[0]

    def typed_op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        sizes: Sequence[int | str],
        dtype: ir.DataType | None,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node with one output of known sizes and dtype."""
        output = self.op(kind, *inputs, **attributes)
        output.shape = ir.Shape(list(sizes))
        output.type = None if dtype is None else ir.TensorType(dtype)
        return output

    def constant(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> ir.Value:
        """A constant, as a node."""
        array = np.asarray(values, dtype=dtype)
        output = self.op("Constant", value=ir.tensor(array))
        output.const_value = ir.tensor(array)
        output.dtype, output.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        return output

    def ints(self, *values: int) -> ir.Value:
        """A constant list of int64."""
        return self.constant(values, np.int64)

    def slice(self, x: ir.Value, axis: int, start: int, stop: int, step: int = 1) -> ir.Value:
        """Elements start, start + step, ... below stop along one axis."""
        bounds = (self.ints(start), self.ints(stop), self.ints(axis), self.ints(step))
        return self.op("Slice", x, *bounds)


# What replaces the outputs of a node, None where an output has no reader; None: it stays.
Outputs = Sequence[ir.Value | None]
Rule = Callable[[NodeBuilder, ir.Node], Outputs | None]
