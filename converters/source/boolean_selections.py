"""Selections between truth values as logic: ONNX Runtime has no kernel of Where for booleans."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder


def boolean_selections(model: ir.Model) -> ir.Model:
    """A model whose selections between truth values are And, Or and Not.

    Public code keeps a mask from hiding everything by torch.where(mask.all(1, True), False, mask).
    The given model is not changed.
    """
    model = model.clone()
    graph = model.graph
    for number, node in enumerate(list(graph)):
        if node.op_type != "Where" or node.domain or not _is_boolean(node):
            continue
        builder = NodeBuilder(graph, node, f"boolean_selection.{number}")
        condition, chosen, other = node.inputs
        first = builder.op("And", condition, chosen)
        second = builder.op("And", builder.op("Not", condition), other)
        result = builder.op("Or", first, second)
        for made in builder.nodes:
            made.outputs[0].dtype = ir.DataType.BOOL
        result.shape = node.outputs[0].shape
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], builder.nodes, [node.outputs[0]], [result]
        )
    return model


def _is_boolean(node: ir.Node) -> bool:
    values = (*node.inputs[1:], *node.outputs)
    return any(value is not None and value.dtype is ir.DataType.BOOL for value in values)
