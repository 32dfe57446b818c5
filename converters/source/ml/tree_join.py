"""Joins tree ensembles over the same features whose scores stand side by side into a single one.

The number of the leaf that a row reaches in each tree, which logistic regression behind trees
reads, is exported as an operator for every tree and a Concat. A single ensemble steps through all
trees at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, TREE_ENSEMBLE
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.operands import constant_array
from ondevice.converters.source.ml.operands import sizes_of
from ondevice.converters.source.ml.tree_node import add_ensemble
from ondevice.errors import UnsupportedError
from ondevice.limits import MAX_TREE_NODES
from ondevice.trees import BRANCH, index_of, kind_of, links, outcomes_of, place_of

Array = npt.NDArray[Any]


def join_trees(graph: ir.Graph) -> None:
    """Replace every Concat of ensembles by a single ensemble; casts of all of them follow it."""
    for number, node in enumerate(list(graph)):
        axis = node.attributes.get_int("axis", 0)
        if node.op_type != "Concat" or node.domain or axis not in (1, -1):
            continue
        sources = [_source(value) for value in node.inputs]
        ensembles = [ensemble for ensemble, _ in sources if ensemble is not None]
        casts = {cast for _, cast in sources}
        if len(sources) < 2 or len(ensembles) < len(sources) or len(casts) > 1:
            continue
        arrays = [_arrays(ensemble) for ensemble in ensembles]
        if not _fit(ensembles, arrays):
            continue
        builder = NodeBuilder(graph, node, f"joined.{number}")
        scores = _joined(builder, ensembles, arrays)
        (to,) = casts
        if to is not None:
            kind = ir.DataType(to)
            scores = builder.typed_op("Cast", [scores], sizes_of(scores), kind, to=to)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], builder.nodes, node.outputs, [scores]
        )


def _source(value: ir.Value | None) -> tuple[ir.Node | None, int | None]:
    """The ensemble that computes a value, and the type to which it is cast, if it is."""
    node = None if value is None else value.producer()
    to = None
    if node is not None and node.op_type == "Cast" and not node.domain:
        to = node.attributes.get_int("to")
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.domain != DOMAIN or node.op_type != TREE_ENSEMBLE:
        return None, None
    return node, to


def _arrays(ensemble: ir.Node) -> list[Array]:
    """Thresholds, links, roots and vectors."""
    arrays = [constant_array(value) for value in ensemble.inputs[1:]]
    return [array for array in arrays if array is not None]


def _fit(ensembles: list[ir.Node], arrays: list[list[Array]]) -> bool:
    """Whether ensembles read the same features, are sums, and have a score a leaf."""
    return (
        len({ensemble.inputs[0] for ensemble in ensembles}) == 1
        and all(item.attributes.get_string("aggregate", "") == "SUM" for item in ensembles)
        and all(len(held) == 4 and not len(held[3]) for held in arrays)
        and sum(len(held[0]) for held in arrays) <= MAX_TREE_NODES
    )


def _joined(builder: NodeBuilder, ensembles: list[ir.Node], arrays: list[list[Array]]) -> ir.Value:
    """An ensemble whose targets are those of the given ones, one after the other."""
    nodes, targets, moved, roots = 0, 0, [], []
    for ensemble, (_, held, starts, _) in zip(ensembles, arrays, strict=True):
        branch = kind_of(held) == BRANCH
        moved.append(
            links(
                kind_of(held),
                place_of(held) + np.where(branch, nodes, 0),
                index_of(held) + np.where(branch, 0, targets),
                outcomes_of(held),
            )
        )
        roots.append(starts + nodes)
        nodes += len(held)
        targets += ensemble.attributes.get_int("targets", 1)
    joined = (
        np.concatenate([item[0] for item in arrays]),
        np.concatenate(moved),
        np.concatenate(roots),
        np.zeros((0, targets), np.float32),
    )
    features = ensembles[0].inputs[0]
    if features is None:
        raise UnsupportedError("TreeEnsemble: it has no features")
    return add_ensemble(builder, features, joined, targets, "SUM")
