"""Replaces operators of the domain ai.onnx.ml, which no target but ONNX has, by others."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import DOMAIN
from ondevice.converters.lowering.builder import NodeBuilder, Rule
from ondevice.converters.lowering.rule_tables import joined
from ondevice.converters.source.export import OPSET
from ondevice.converters.source.ml import feature_rules, linear_rules, tree_rules
from ondevice.converters.source.ml.operands import ML, sizes_of
from ondevice.converters.source.ml.tree_join import join_trees
from ondevice.errors import UnsupportedError

RULES: dict[str, Rule] = joined(feature_rules.RULES, linear_rules.RULES, tree_rules.RULES)


def replace_ml(model: ir.Model) -> ir.Model:
    """A model without operators of ai.onnx.ml; the given one is not changed.

    Raises:
        UnsupportedError: operators that no rule replaces, all listed; or one in a form that its
            rule does not know.
        FileFormatError: an operator whose attributes contradict each other.
    """
    if not any(node.domain == ML for node in model.graph):
        return model
    model = model.clone()
    passes.RemoveUnusedNodesPass()(model)
    graph = model.graph
    unknown = sorted({node.op_type for node in graph if node.domain == ML} - set(RULES))
    if unknown:
        raise UnsupportedError(
            f"operators of {ML}: {', '.join(unknown)}; those that convert: {', '.join(RULES)}"
        )
    model.opset_imports[DOMAIN] = 1  # of the nodes that stand for tree ensembles
    model.opset_imports.setdefault("", OPSET)  # of the others; a file of ai.onnx.ml may lack it
    for number, node in enumerate(list(graph)):
        if node.domain != ML:
            continue
        if not all(value is None or _is_known(value) for value in node.inputs):
            _infer_again(model)  # what stands between two of these operators
        builder = NodeBuilder(graph, node, f"ml.{number}")
        _replace(graph, node, builder)
    join_trees(graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.ShapeInferencePass()(model)
    model.opset_imports.pop(ML, None)
    return model


def _is_known(value: ir.Value) -> bool:
    """Whether all sizes are known but for the first, that of the rows."""
    return value.shape is not None and all(isinstance(size, int) for size in value.shape[1:])


def _infer_again(model: ir.Model) -> None:
    """Infer the shapes of standard operators anew; those of free sizes would stay as they are."""
    for node in model.graph:
        for value in () if node.domain == DOMAIN else node.outputs:
            value.shape = None
    passes.ShapeInferencePass()(model)


def _replace(graph: ir.Graph, node: ir.Node, builder: NodeBuilder) -> None:
    outputs = RULES[node.op_type](builder, node)
    old_values, new_values = [], []
    for old, new in zip(node.outputs, outputs or (), strict=False):
        if new is None:
            if old.uses() or old.is_graph_output():
                raise UnsupportedError(
                    f"{node.op_type}: the model uses its labels, which are texts, or not those of "
                    "the greater score"
                )
            continue
        if new.producer() not in builder.nodes:
            new = builder.typed_op("Identity", [new], sizes_of(new), new.dtype)
        old_values.append(old)
        new_values.append(new)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], builder.nodes, old_values, new_values
    )
