"""Lower a captured graph to the few operators that the native and TFLite targets run."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import PackedModel
from ondevice.converters.lowering.batch_first.rewrite import batch_first
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.rules.table import RULES
from ondevice.converters.lowering.unsupported import REASON
from ondevice.errors import UnsupportedError


def lowered(packed: PackedModel) -> PackedModel:
    """A model of the operators in docs/operators.md; the given one is not changed.

    Shape arithmetic is computed here, with the batch as a symbol, and leaves the graph.
    """
    model = packed.model.clone()
    nodes = {node.name: node for node in model.graph}
    lookups = tuple(replace(item, node=nodes[item.node.name]) for item in packed.lookups)
    graph = model.graph
    lookups = batch_first(graph, lookups)
    passes.RemoveUnusedNodesPass()(model)
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
        if outputs is None:
            continue
        outputs = [
            # a value of its own: the replaced one's name must not move to an existing value
            value
            if value is None or value.producer() in builder.nodes
            else builder.op("Identity", value)
            for value in outputs
        ]
        pairs = [
            (old, new) for old, new in zip(node.outputs, outputs, strict=True) if new is not None
        ]
        for old, new in pairs:
            new.shape, new.type = old.shape, old.type
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], builder.nodes, [a for a, _ in pairs], [b for _, b in pairs]
        )
    passes.RemoveUnusedNodesPass()(model)
    return PackedModel(model, lookups, packed.tables)
