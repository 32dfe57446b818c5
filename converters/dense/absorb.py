"""Absorb small matrices behind lookups into the dense layer that reads them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, LOOKUP, CapturedModel
from ondevice.converters.lowering.operands import constant_array

Array = npt.NDArray[Any]


def absorb_rotations(captured: CapturedModel) -> CapturedModel:
    """Where lookups times constant matrices meet in a Concat that one dense layer reads, multiply
    the matrices into its weights: concat(a @ R, b) @ W = concat(a, b) @ concat(R @ W_a, W_b).

    The given model is not changed; what has another reader stays as it is.
    """
    captured = captured.cloned()
    graph = captured.model.graph
    for concat in list(graph):
        if concat.op_type != "Concat" or concat.domain:
            continue
        rotated = {
            place: product
            for place, value in enumerate(concat.inputs)
            if (product := _rotated_lookup(value)) is not None
        }
        dense = _only_dense_reader(concat)
        widths = [_width(value) for value in concat.inputs]
        if rotated and dense is not None and all(widths) and _is_last_axis(concat):
            _absorb(graph, concat, rotated, dense, widths)
    return captured


def _rotated_lookup(value: ir.Value | None) -> ir.Node | None:
    """The product that makes a value from a lookup alone, for one reader."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "MatMul" or node.domain:
        return None
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    matrix = constant_array(node.inputs[1])
    if source is None or (source.domain, source.op_type) != (DOMAIN, LOOKUP):
        return None
    if matrix is None or matrix.ndim != 2 or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return node


def _only_dense_reader(concat: ir.Node) -> ir.Node | None:
    value = concat.outputs[0]
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1 or uses[0].idx != 0:
        return None
    node = uses[0].node
    if node.domain or node.op_type not in ("Gemm", "MatMul"):
        return None
    weight = constant_array(node.inputs[1])
    if weight is None or weight.ndim != 2 or node.attributes.get_int("transA", 0) != 0:
        return None
    return node


def _is_last_axis(concat: ir.Node) -> bool:
    axis, shape = concat.attributes.get_int("axis"), concat.outputs[0].shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _width(value: ir.Value | None) -> int:
    """Size of the last axis; 0 where it is not known."""
    if value is None or not value.shape or not isinstance(value.shape[-1], int):
        return 0
    return value.shape[-1]


def _absorb(
    graph: ir.Graph, concat: ir.Node, rotated: dict[int, ir.Node], dense: ir.Node, widths: list[int]
) -> None:
    stored = dense.inputs[1]
    weight = constant_array(stored)
    turned = dense.attributes.get_int("transB", 0) != 0
    if stored is None or weight is None:
        return
    weight = weight.T if turned else weight
    if weight.shape[0] != sum(widths):
        return
    blocks = np.split(weight, np.cumsum(widths)[:-1])
    for place, product in rotated.items():
        matrix = constant_array(product.inputs[1])
        if matrix is not None:
            exact = matrix.astype(np.float64) @ blocks[place].astype(np.float64)
            blocks[place] = exact.astype(np.float32)
            concat.replace_input_with(place, product.inputs[0])
    joined = np.concatenate(blocks)
    dense.replace_input_with(1, _initializer(graph, f"{stored.name}.absorbed", joined, turned))
    output = concat.outputs[0]
    if output.shape is not None:
        rest = [size if isinstance(size, int) else str(size) for size in output.shape[:-1]]
        output.shape = ir.Shape([*rest, len(joined)])
    for product in rotated.values():
        graph.remove(product, safe=True)


def _initializer(graph: ir.Graph, name: str, values: Array, turned: bool) -> ir.Value:
    array = np.ascontiguousarray(values.T if turned else values)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value
