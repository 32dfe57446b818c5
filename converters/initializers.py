"""Initializers of an ONNX graph: add one, and drop those that nothing reads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def add_initializer(graph: ir.Graph, name: str, array: npt.ArrayLike) -> ir.Value:
    """An initializer that holds an array; underscores are appended to a name that is taken."""
    while name in graph.initializers:
        name += "_"
    return add_tensor(graph, ir.tensor(np.asarray(array, order="C"), name=name))


def add_tensor(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """An initializer of the tensor's name, dtype and shape.

    Raises:
        ValueError: the name is taken.
    """
    value = ir.Value(
        name=tensor.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Remove the initializers that no node reads and that are no outputs."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
