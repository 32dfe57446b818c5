"""Rules that replace the tree ensembles of ai.onnx.ml by the operator `ondevice::TreeEnsemble`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.source.ml.operands import float_matrix, int_labels, sizes_of
from ondevice.converters.source.ml.scores import (
    best_class,
    both_classes,
    class_labels,
    exceeds,
    same,
    shifted,
    transform_of,
    transformed,
)
from ondevice.converters.source.ml.tree_layout import stored_trees
from ondevice.converters.source.ml.tree_node import add_ensemble
from ondevice.converters.source.ml.tree_nodes import (
    COMPARISONS,
    TreeNodes,
    read_nodes,
    read_tree_ensemble,
)
from ondevice.errors import UnsupportedError

FloatArray = npt.NDArray[np.float32]

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")  # by their number in TreeEnsemble


def _regressor(builder: NodeBuilder, node: ir.Node) -> Outputs:
    nodes = read_nodes(node, node.attributes.get_int("n_targets", 1))
    aggregate = str(node.attributes.get_string("aggregate_function", "SUM"))
    scores = _scores(builder, node, nodes, aggregate)
    base = _base_values(node)
    if base.size not in (0, nodes.targets):
        raise UnsupportedError(
            f"{node.op_type}: {base.size} base values for {nodes.targets} targets"
        )
    scores = shifted(builder, scores, base)
    transform = transform_of(node)  # ONNX Runtime leaves it out for a single target
    return [transformed(builder, scores, transform if nodes.targets > 1 else "NONE")]


def _tree_ensemble(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """TreeEnsemble of version 5, which has numbers for what the older operators have names for."""
    nodes = read_tree_ensemble(node)
    number = node.attributes.get_int("aggregate_function", 1)
    if not 0 <= number < len(_AGGREGATES):
        raise UnsupportedError(f"{node.op_type}: aggregate_function {number}")
    if transform := node.attributes.get_int("post_transform", 0):
        raise UnsupportedError(
            f"{node.op_type}: post_transform {transform}; ONNX and ONNX Runtime number it "
            "differently: export the scores, and a Sigmoid or Softmax behind them"
        )
    return [_scores(builder, node, nodes, _AGGREGATES[number])]


def _classifier(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """Label and scores; see `both_classes` for two classes of which one has scores."""
    labels, classes = int_labels(node)
    transform, base = transform_of(node), _base_values(node)
    nodes = read_nodes(node, classes)
    scored = np.unique(nodes.target)
    if classes == 2 and base.size and (scored.size > 1 or scored.max(initial=0) == 1):
        raise UnsupportedError(
            f"{node.op_type}: {classes} classes, {scored.size} with scores, and {base.size} base "
            "values; what ONNX Runtime computes then is not defined by ONNX"
        )
    if classes == 1:
        return [None, shifted(builder, _scores(builder, node, nodes, "SUM"), base)]
    if classes == 2 and scored.max(initial=0) == 0:
        return _binary(builder, node, nodes, labels, transform)
    if base.size not in (0, classes):
        raise UnsupportedError(f"{node.op_type}: {base.size} base values for {classes} classes")
    scores = shifted(builder, _scores(builder, node, nodes, "SUM"), base)
    label = None
    if labels is not None and classes > 2:
        label = class_labels(builder, best_class(builder, scores), labels)
    return [label, transformed(builder, scores, transform)]


def _binary(
    builder: NodeBuilder,
    node: ir.Node,
    nodes: TreeNodes,
    labels: list[int] | None,
    transform: str,
) -> Outputs:
    """Two classes of which the trees score only the first; ONNX Runtime means the second."""
    base = _base_values(node)
    if base.size > 1:
        raise UnsupportedError(f"{node.op_type}: {base.size} base values for one score")
    single = replace(nodes, target=np.zeros_like(nodes.target), targets=1)
    score = shifted(builder, _scores(builder, node, single, "SUM"), base)
    probability = not bool((nodes.weight < 0).any())
    scores = both_classes(builder, score, transform, probability=probability)
    label = None
    if labels is not None:
        place = exceeds(builder, score, 0.5 if probability else 0.0)
        label = class_labels(builder, place, labels)
    return [label, scores]


def _scores(builder: NodeBuilder, node: ir.Node, nodes: TreeNodes, aggregate: str) -> ir.Value:
    """The joined scores float32 [rows, targets] of an ensemble, by a `TreeEnsemble` node."""
    if aggregate not in _AGGREGATES:
        raise UnsupportedError(
            f"{node.op_type}: expected aggregate_function {', '.join(_AGGREGATES)}; got {aggregate}"
        )
    join = "SUM" if aggregate == "AVERAGE" else aggregate
    trees = stored_trees(nodes, join)
    x = float_matrix(builder, node.inputs[0], node)
    features = sizes_of(x)[1]
    branch = nodes.mode < len(COMPARISONS)
    if branch.any() and isinstance(features, int) and nodes.feature[branch].max() >= features:
        raise UnsupportedError(
            f"{node.op_type}: it tests feature {int(nodes.feature[branch].max())} of {features}"
        )
    arrays = (trees.thresholds, trees.links, trees.roots, trees.vectors)
    scores = add_ensemble(builder, x, arrays, nodes.targets, join)
    if aggregate != "AVERAGE":
        return scores
    return same(builder, "Div", scores, builder.constant([float(len(trees.roots))]))


def _base_values(node: ir.Node) -> FloatArray:
    tensor = node.attributes.get_tensor("base_values_as_tensor")
    if tensor is not None:
        return np.asarray(tensor.numpy(), np.float32).reshape(-1)
    attribute = node.attributes.get("base_values")
    return np.array([] if attribute is None else attribute.value, np.float32)


RULES: dict[str, Rule] = {
    "TreeEnsemble": _tree_ensemble,
    "TreeEnsembleClassifier": _classifier,
    "TreeEnsembleRegressor": _regressor,
}
