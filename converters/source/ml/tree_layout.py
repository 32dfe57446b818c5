"""Brings the trees of an ensemble into the stored form of `ondevice.trees`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.converters.source.ml.tree_nodes import COMPARISONS, TreeNodes
from ondevice.errors import UnsupportedError
from ondevice.limits import MAX_TREE_DEPTH, MAX_TREE_NODES
from ondevice.trees import BRANCH, EQUAL, GREATER, LESS, SCORE, UNORDERED, VECTOR, links

Array = npt.NDArray[Any]

_ORDERED = LESS | EQUAL | GREATER
# The outcomes for which a test holds, by its place in COMPARISONS.
_OUTCOMES = np.array([LESS | EQUAL, LESS, GREATER | EQUAL, GREATER, EQUAL, LESS | GREATER])
_LEQ, _LT, _GTE, _GT, _EQ, _NEQ = range(len(COMPARISONS))
ABSENT = {"SUM": 0.0, "MIN": np.inf, "MAX": -np.inf}  # what leaves a target's score as it is


@dataclass(frozen=True)
class StoredTrees:
    """An ensemble as the operator `TreeEnsemble` takes it; see `ondevice.trees`.

    Attributes:
        thresholds: float32 [nodes].
        links: int64 [nodes]; each tree's nodes are together, children behind their parent.
        roots: int64 [trees].
        vectors: float32 [vectors, targets].
        depth: most branches between a root and a leaf.
    """

    thresholds: Array
    links: Array
    roots: Array
    vectors: Array
    depth: int


def stored_trees(nodes: TreeNodes, aggregate: str) -> StoredTrees:
    """The stored form of trees, level by level, the children of a branch side by side.

    Args:
        nodes: as read; a node with several parents is copied for each.
        aggregate: "SUM", "MIN" or "MAX".

    Raises:
        UnsupportedError: paths of more than MAX_TREE_DEPTH branches (as a circle has them), more
            than MAX_TREE_NODES nodes with the copies, or a least or greatest score of a target
            that some row would not have.
    """
    levels, first_child = _levels(nodes)
    sequence = np.concatenate(levels)  # nodes as read, by level
    tree = _trees(levels, nodes)
    order = np.argsort(tree, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    node = sequence[order]
    branch = nodes.mode[node] < len(COMPARISONS)
    thresholds, outcomes = _tests(nodes)
    kinds, values, indices, rows, vectors = _leaves(nodes, aggregate)
    child = np.where(branch, place[first_child[order]], 0)
    made = links(
        kind=np.where(branch, BRANCH, kinds[node]),
        place=np.where(branch, child, rows[node]),
        index=np.where(branch, nodes.feature[node], indices[node]),
        outcomes=np.where(branch, outcomes[node], 0),
    )
    return StoredTrees(
        thresholds=np.where(branch, thresholds[node], values[node]).astype(np.float32),
        links=made,
        roots=place[: len(nodes.roots)],
        vectors=vectors,
        depth=len(levels) - 1,
    )


def _levels(nodes: TreeNodes) -> tuple[list[Array], Array]:
    """The nodes of each level, and by place in all levels together where the first child is."""
    levels, places, count = [nodes.roots], [], len(nodes.roots)
    while True:
        level = levels[-1]
        branch = nodes.mode[level] < len(COMPARISONS)
        where = np.zeros(len(level), np.int64)
        where[branch] = count + 2 * np.arange(int(branch.sum()))
        places.append(where)
        if not branch.any():
            return levels, np.concatenate(places)
        if len(levels) > MAX_TREE_DEPTH:
            raise UnsupportedError(
                f"trees: more than {MAX_TREE_DEPTH} branches between a root and a leaf"
            )
        parents = level[branch]
        levels.append(np.stack([nodes.true[parents], nodes.false[parents]], 1).reshape(-1))
        count += len(levels[-1])
        if count > MAX_TREE_NODES:
            raise UnsupportedError(f"trees: more than {MAX_TREE_NODES} nodes")


def _trees(levels: list[Array], nodes: TreeNodes) -> Array:
    """The tree of every place in all levels together."""
    trees = [np.arange(len(nodes.roots))]
    for level in levels[:-1]:
        branch = nodes.mode[level] < len(COMPARISONS)
        trees.append(np.repeat(trees[-1][branch], 2))
    return np.concatenate(trees)


def _tests(nodes: TreeNodes) -> tuple[Array, Array]:
    """Thresholds float32 and outcomes of every node's test.

    A float64 threshold is rounded so that comparing float32 features with it gives the same: down
    where equal features are on the side of smaller ones, else up. None is equal to a float32 that
    it is not. A threshold that is NaN compares as unordered with every feature.
    """
    branch = nodes.mode < len(COMPARISONS)
    mode = np.where(branch, nodes.mode, _LEQ)
    exact = nodes.value.astype(np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    wide = rounded.astype(np.float64)
    down = np.where(wide > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    up = np.where(wide < exact, np.nextafter(rounded, np.float32(np.inf)), rounded)
    thresholds = np.where(np.isin(mode, (_LEQ, _GT)), down, up)
    outcomes = _OUTCOMES[mode] | np.where(nodes.missing | (mode == _NEQ), UNORDERED, 0)
    never_equal = np.isin(mode, (_EQ, _NEQ)) & (wide != exact) & ~np.isnan(exact)
    outcomes = np.where(never_equal & (mode == _EQ), outcomes & UNORDERED, outcomes)
    outcomes = np.where(never_equal & (mode == _NEQ), _ORDERED | UNORDERED, outcomes)
    # no float32 feature equals NaN; whether a missing one takes the true branch stays
    nan = np.isnan(exact)
    outcomes = np.where(nan, np.where(mode == _NEQ, 15, outcomes & UNORDERED), outcomes)
    return np.where(nan, 0, thresholds).astype(np.float32), outcomes


def _leaves(nodes: TreeNodes, aggregate: str) -> tuple[Array, Array, Array, Array, Array]:
    """Of every node as a leaf: kind, score, target and row of vectors; and the vectors."""
    count = len(nodes.mode)
    scores = np.bincount(nodes.leaf, minlength=count)
    leaf = nodes.mode == len(COMPARISONS)
    if aggregate != "SUM":
        _check_scored(nodes, leaf, scores)
    kinds = np.where(scores > 1, VECTOR, SCORE)
    values, indices = np.zeros(count, np.float32), np.zeros(count, np.int64)
    single = scores[nodes.leaf] == 1
    values[nodes.leaf[single]] = nodes.weight[single]
    indices[nodes.leaf[single]] = nodes.target[single]
    several = np.flatnonzero(leaf & (scores > 1))
    rows = np.zeros(count, np.int64)
    rows[several] = np.arange(len(several))
    if len(several) * nodes.targets > 64 * MAX_TREE_NODES:
        raise UnsupportedError(f"trees: {len(several)} leaves with {nodes.targets} scores each")
    vectors = np.full((len(several), nodes.targets), ABSENT[aggregate], np.float32)
    join = {"SUM": np.add, "MIN": np.minimum, "MAX": np.maximum}[aggregate]
    places = (rows[nodes.leaf[~single]], nodes.target[~single])
    join.at(vectors, places, nodes.weight[~single])
    return kinds, values, indices, rows, vectors


def _check_scored(nodes: TreeNodes, leaf: Array, scores: Array) -> None:
    """Raise UnsupportedError unless every leaf has a score for every target.

    With a least or greatest score, a target that no leaf of a row scores is zero in ONNX.
    """
    if (scores[leaf] < nodes.targets).any():
        raise UnsupportedError(
            "trees: MIN and MAX are joined where every leaf has a score for each target; some of "
            "these leaves do not"
        )
