"""Tree ensembles in ONNX: as TreeEnsembleRegressor of ai.onnx.ml, which ONNX Runtime runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, TREE_ENSEMBLE
from ondevice.converters.lowering.operands import constant_array
from ondevice.trees import (
    BRANCH,
    EQUAL,
    GREATER,
    LESS,
    UNORDERED,
    VECTOR,
    index_of,
    kind_of,
    outcomes_of,
    place_of,
)

Array = npt.NDArray[Any]

ML_DOMAIN = "ai.onnx.ml"
ML_OPSET = 3
_MODES = {
    LESS | EQUAL: "BRANCH_LEQ",
    LESS: "BRANCH_LT",
    GREATER | EQUAL: "BRANCH_GTE",
    GREATER: "BRANCH_GT",
    EQUAL: "BRANCH_EQ",
    LESS | GREATER: "BRANCH_NEQ",
}
_ALWAYS = LESS | EQUAL | GREATER


def standard_trees(graph: ir.Graph) -> bool:
    """Replace every `ondevice::TreeEnsemble` of a graph; whether there was one."""
    found = [node for node in graph if node.domain == DOMAIN and node.op_type == TREE_ENSEMBLE]
    for node in found:
        constants = [constant_array(value) for value in node.inputs[1:]]
        held = [array for array in constants if array is not None]
        targets = node.attributes.get_int("targets", 1)
        attributes = _attributes(held, targets)
        attributes["aggregate_function"] = node.attributes.get_string("aggregate", "SUM")
        made = ir.node(
            "TreeEnsembleRegressor",
            [node.inputs[0]],
            attributes,
            domain=ML_DOMAIN,
            name=node.name,
        )
        made.outputs[0].dtype, made.outputs[0].shape = ir.DataType.FLOAT, node.outputs[0].shape
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [made], node.outputs, made.outputs
        )
    _drop_unread(graph, found)
    return bool(found)


def _drop_unread(graph: ir.Graph, replaced: list[ir.Node]) -> None:
    """Remove the arrays of the replaced nodes, which no other node reads."""
    for name in [str(value.name) for node in replaced for value in node.inputs[1:] if value]:
        value = graph.initializers.get(name)
        if value is not None and not value.uses():
            del graph.initializers[name]


def _attributes(held: list[Array], targets: int) -> dict[str, Any]:
    """The attributes of the standard operator but for how scores are joined.

    Args:
        held: thresholds, links, roots and vectors, as `ondevice.trees` says.
        targets: of the scores.
    """
    thresholds, links, roots, vectors = held
    count = len(links)
    tree = np.searchsorted(roots, np.arange(count), side="right") - 1
    number = np.arange(count) - roots[tree]
    branch = kind_of(links) == BRANCH
    child = np.where(branch, place_of(links) - roots[tree], 0)
    modes, values, missing = _tests(thresholds, links)
    leaf, target, weight = _scores(thresholds, links, vectors, targets)
    return {
        "n_targets": targets,
        "nodes_treeids": tree.tolist(),
        "nodes_nodeids": number.tolist(),
        "nodes_featureids": np.where(branch, index_of(links), 0).tolist(),
        "nodes_modes": modes,
        "nodes_values": values.tolist(),
        "nodes_truenodeids": child.tolist(),
        "nodes_falsenodeids": np.where(branch, child + 1, 0).tolist(),
        "nodes_missing_value_tracks_true": missing.tolist(),
        "target_treeids": tree[leaf].tolist(),
        "target_nodeids": number[leaf].tolist(),
        "target_ids": target.tolist(),
        "target_weights": weight.tolist(),
    }


def _tests(thresholds: Array, links: Array) -> tuple[list[str], Array, Array]:
    """Mode, value and side of missing features of every node.

    A test that holds for no number, or for all, has no mode: it compares with -infinity.
    """
    branch, outcomes = kind_of(links) == BRANCH, outcomes_of(links)
    ordered = outcomes & _ALWAYS
    constant = branch & np.isin(ordered, (0, _ALWAYS))
    modes = [_MODES.get(int(item), "BRANCH_GTE" if item else "BRANCH_LT") for item in ordered]
    modes = [mode if test else "LEAF" for mode, test in zip(modes, branch, strict=True)]
    values = np.where(branch, thresholds, 0)
    values[constant] = -np.inf
    return modes, values, np.where(branch, outcomes & UNORDERED != 0, 0).astype(np.int64)


def _scores(
    thresholds: Array, links: Array, vectors: Array, targets: int
) -> tuple[Array, Array, Array]:
    """Node, target and weight of every score, in the order of nodes."""
    kind = kind_of(links)
    single = np.flatnonzero((kind != BRANCH) & (kind != VECTOR))
    several = np.flatnonzero(kind == VECTOR)
    leaf = np.concatenate([single, np.repeat(several, targets)])
    target = np.concatenate([index_of(links[single]), np.tile(np.arange(targets), len(several))])
    rows = vectors[place_of(links[several])].reshape(-1)
    weight = np.concatenate([thresholds[single], rows])
    order = np.argsort(leaf, kind="stable")
    return leaf[order], target[order], weight[order]
