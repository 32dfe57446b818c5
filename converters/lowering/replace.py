"""Replaces operators by the few that the native and TFLite targets run: docs/operators.md."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import PackedModel
from ondevice.converters.lowering.builder import NodeBuilder, Outputs
from ondevice.converters.lowering.operands import attribute_values, constant_array
from ondevice.converters.lowering.rules.table import RULES
from ondevice.converters.lowering.unsupported import REASON
from ondevice.errors import UnsupportedError
from ondevice.ops import OPERATORS, apply

_MAX_FOLDED = 2**16  # elements of a constant that is larger than what it is computed of


def replace_operators(packed: PackedModel) -> PackedModel:
    """A model of the operators in docs/operators.md; the given one is not changed.

    Shape arithmetic is computed at conversion, with the batch as a symbol, and leaves the graph. An
    operator that no rule can replace stays, with the reason in its metadata (`REASON`).
    """
    packed = packed.cloned()
    model, graph = packed.model, packed.model.graph
    for number, node in enumerate(list(graph)):
        rule = None if node.domain else RULES.get(node.op_type)
        if rule is None or not any(
            value.uses() or value.is_graph_output() for value in node.outputs
        ):
            continue
        builder = NodeBuilder(graph, node, f"lowered.{number}")
        try:
            outputs = rule(builder, node)
        except UnsupportedError as error:
            node.metadata_props[REASON] = str(error)
            continue  # the node stays, and the target names it
        if outputs is not None:
            replace_node(graph, node, builder, outputs)
    _fold_constants(graph)
    passes.RemoveUnusedNodesPass()(model)
    return packed


def _fold_constants(graph: ir.Graph) -> None:
    """Compute what no request changes, such as a norm of position vectors, for every target."""
    for number, node in enumerate(list(graph)):
        given = [value for value in node.inputs if value is not None]
        arrays = [array for value in given if (array := constant_array(value)) is not None]
        if not given or len(arrays) < len(given) or len(given) < len(node.inputs):
            continue
        if node.domain or node.op_type not in OPERATORS:
            continue
        result = np.asarray(apply(node.op_type, arrays, attribute_values(node)))
        if result.size > max(_MAX_FOLDED, sum(array.size for array in arrays)):
            continue
        builder = NodeBuilder(graph, node, f"folded.{number}")
        replace_node(graph, node, builder, [builder.constant(result, result.dtype)])


def replace_node(graph: ir.Graph, node: ir.Node, builder: NodeBuilder, outputs: Outputs) -> None:
    """Put the built nodes in the place of one node; its readers read `outputs`."""
    old_values, new_values = [], []
    for old, new in zip(node.outputs, outputs, strict=True):
        if new is None:
            continue
        if new.producer() not in builder.nodes:
            # the name of the replaced value must not move to an existing one
            new = builder.op("Identity", new)
        new.shape, new.type = old.shape, old.type
        old_values.append(old)
        new_values.append(new)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], builder.nodes, old_values, new_values
    )
