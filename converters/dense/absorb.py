"""Absorb small matrices behind lookups into the dense layer that reads them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.dense.concat_layer import ConcatLayer, layer_of_concat
from ondevice.converters.graph import DOMAIN, LOOKUP, CapturedModel
from ondevice.converters.lowering.operands import constant_array

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Rotation:
    """A MatMul of a lookup's vectors by a constant matrix [dim, columns]."""

    product: ir.Node
    matrix: Array


def absorb_rotations(captured: CapturedModel) -> CapturedModel:
    """Multiply constant matrices behind lookups into the weights of the next dense layer.

    That is possible where the products meet in a Concat that only this layer reads:
    concat(a @ R, b) @ W = concat(a, b) @ concat(R @ W_a, W_b). Products with other readers are
    left as they are. `captured` is not changed.
    """
    captured = captured.cloned()
    graph = captured.model.graph
    for concat in list(graph):
        if concat.op_type != "Concat" or concat.domain:
            continue
        rotations = {
            place: rotation
            for place, value in enumerate(concat.inputs)
            if (rotation := _rotation(value)) is not None
        }
        layer = layer_of_concat(concat)
        if rotations and layer is not None:
            _absorb(graph, concat, rotations, layer)
    return captured


def _rotation(value: ir.Value | None) -> _Rotation | None:
    """The product of a lookup and a constant matrix that computes a value with a single reader."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "MatMul" or node.domain:
        return None
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    matrix = constant_array(node.inputs[1])
    if source is None or (source.domain, source.op_type) != (DOMAIN, LOOKUP):
        return None
    if matrix is None or matrix.ndim != 2 or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return _Rotation(node, matrix)


def _absorb(
    graph: ir.Graph, concat: ir.Node, rotations: dict[int, _Rotation], layer: ConcatLayer
) -> None:
    """Let the Concat read the lookups, and the layer the products of matrices and weights.

    Args:
        graph: where all of them are.
        concat: what joins the rotated vectors.
        rotations: by the place of the Concat's input.
        layer: the reader of the Concat.
    """
    blocks = np.split(layer.weight, np.cumsum(layer.widths)[:-1])
    for place, rotation in rotations.items():
        exact = rotation.matrix.astype(np.float64) @ blocks[place].astype(np.float64)
        blocks[place] = exact.astype(np.float32)
        concat.replace_input_with(place, rotation.product.inputs[0])
    weight = np.concatenate(blocks)
    layer.with_weight(graph, weight, "absorbed")
    output = concat.outputs[0]
    if output.shape is not None:
        leading = [size if isinstance(size, int) else str(size) for size in output.shape[:-1]]
        output.shape = ir.Shape([*leading, len(weight)])
    for rotation in rotations.values():
        graph.remove(rotation.product, safe=True)
