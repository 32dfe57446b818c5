"""Tree ensembles: how their nodes are stored, and the operator `TreeEnsemble` in numpy.

A node is a link (int64) and a threshold (float32). The bits of a link:

    0-31   branch: the place of the child that is taken when its test holds; the other child is
           the next node. Vector: its row among the vectors.
    32-55  branch: the feature that is tested. Score: the target it is added to.
    56-59  branch: for which outcomes of comparing the feature with the threshold the test holds;
           bit 0: less, bit 1: equal, bit 2: greater, bit 3: one of the two is NaN
    60-61  what the node is: BRANCH, SCORE (a leaf whose threshold is its score), or VECTOR (a leaf
           with a score for every target)

A child lies behind its parent, so that a row reaches a leaf whatever a file contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.limits import MAX_ROW_ELEMENTS, MAX_TREE_DEPTH, MAX_TREE_NODES

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

BRANCH, SCORE, VECTOR = range(3)
LESS, EQUAL, GREATER, UNORDERED = 1, 2, 4, 8
INDEX_BIT, OUTCOME_BIT, KIND_BIT = 32, 56, 60
MAX_INDEX = 2**24

_PLACES = 2**20  # at once: one for every tree of each row


def links(kind: Array, place: Array, index: Array, outcomes: Array) -> IntArray:
    """The links of nodes, int64 [nodes], from their parts."""
    parts = [np.asarray(part, np.int64) for part in (kind, place, index, outcomes)]
    kinds, places, indices, tests = parts
    return kinds << KIND_BIT | tests << OUTCOME_BIT | indices << INDEX_BIT | places


def kind_of(link: IntArray) -> IntArray:
    """BRANCH, SCORE or VECTOR, for every link."""
    return link >> KIND_BIT


def index_of(link: IntArray) -> IntArray:
    """The feature of a branch or the target of a score."""
    return link >> INDEX_BIT & (MAX_INDEX - 1)


def outcomes_of(link: IntArray) -> IntArray:
    """The outcomes of the comparison for which a branch's test holds."""
    return link >> OUTCOME_BIT & 15


def place_of(link: IntArray) -> IntArray:
    """The first child of a branch or the row of a vector."""
    return link & (2**32 - 1)


def tree_ensemble(inputs: list[Array], attributes: dict[str, Any]) -> Array:
    """The operator `TreeEnsemble`: scores of an ensemble's leaves, joined over its trees.

    Args:
        inputs: x float32 [rows, features]; thresholds float32 [nodes]; links int64 [nodes]; roots
            int64 [trees]; vectors float32 [vectors, targets].
        attributes: `targets`, and `aggregate`: "SUM" (by default), "MIN" or "MAX".

    Returns float32 [rows, targets].

    Raises:
        IndexError: a node, a feature, a target or a vector that does not exist.
        ValueError: a child before its parent, a path of more than MAX_TREE_DEPTH branches, or
            another aggregate.
    """
    x, thresholds, nodes, roots, vectors = inputs
    targets, aggregate = int(attributes["targets"]), attributes.get("aggregate", "SUM")
    if aggregate not in _JOINS or x.ndim != 2 or not 1 <= targets <= MAX_ROW_ELEMENTS:
        raise ValueError(f"aggregate {aggregate!r} over {x.ndim} axes for {targets} targets")
    parts, rows = [], max(_PLACES // max(len(roots), 1), 1)
    for start in range(0, max(len(x), 1), rows):
        part = x[start : start + rows]
        leaves = _leaves(part, thresholds, nodes, roots)
        parts.append(_joined(leaves, thresholds, nodes, vectors, targets, aggregate))
    return np.concatenate(parts)


def check_ensemble(arrays: list[Array], features: int, attributes: Mapping[str, Any]) -> None:
    """Check the arrays of a node beside its features.

    Args:
        arrays: thresholds, links, roots and vectors.
        features: of a row.
        attributes: of the node.

    Raises:
        ValueError: they do not fit each other, or lead to something that does not exist.
    """
    thresholds, nodes, roots, vectors = arrays
    targets = attributes["targets"]
    dtypes = [array.dtype.name for array in arrays]
    if dtypes != ["float32", "int64", "int64", "float32"] or [a.ndim for a in arrays] != [
        1,
        1,
        1,
        2,
    ]:
        raise ValueError(f"thresholds, links, roots and vectors are {dtypes}")
    if not 1 <= targets <= MAX_ROW_ELEMENTS or attributes.get("aggregate", "SUM") not in _JOINS:
        raise ValueError(f"{targets} targets, or an unknown aggregate")
    if len(thresholds) != len(nodes) or not 1 <= len(roots) <= MAX_TREE_NODES:
        raise ValueError(f"{len(thresholds)} thresholds, {len(nodes)} links, {len(roots)} roots")
    if len(nodes) > MAX_TREE_NODES or (len(vectors) and vectors.shape[1] != targets):
        raise ValueError(f"{len(nodes)} links, vectors {list(vectors.shape)}")
    kind, place, index = kind_of(nodes), place_of(nodes), index_of(nodes)
    places = np.arange(len(nodes))
    branch = (place > places) & (place < len(nodes) - 1) & (index < features)
    fits = np.select(
        [kind == BRANCH, kind == SCORE, kind == VECTOR],
        [branch, index < targets, place < len(vectors)],
        False,
    )
    if not fits.all():
        raise ValueError(f"link {int(np.argmin(fits))} leads nowhere")
    _inside(roots, len(nodes))


def _leaves(x: FloatArray, thresholds: FloatArray, nodes: IntArray, roots: IntArray) -> IntArray:
    """The leaf that every row reaches in every tree, int64 [rows, trees]."""
    at = np.repeat(_inside(roots, len(nodes))[None], len(x), 0)
    lines = np.arange(len(x))[:, None]
    for _ in range(MAX_TREE_DEPTH + 1):
        link = nodes[at]
        branch = kind_of(link) == BRANCH
        if not branch.any():
            return at
        value = x[lines, np.where(branch, index_of(link), 0)]
        holds = outcomes_of(link) >> _outcome(value, thresholds[at]) & 1
        child = _inside(np.where(branch, place_of(link) + (1 - holds), at), len(nodes))
        if (child[branch] <= at[branch]).any():
            raise ValueError("a child before its parent")
        at = child
    raise ValueError(f"a path of more than {MAX_TREE_DEPTH} branches")


def _inside(places: IntArray, count: int) -> IntArray:
    if places.size and (places.min() < 0 or places.max() >= count):
        raise IndexError(f"a node outside 0..{count - 1}")
    return places


def _outcome(value: FloatArray, threshold: FloatArray) -> IntArray:
    """0: less, 1: equal, 2: greater, 3: one of the two is NaN."""
    below, equal, above = value < threshold, value == threshold, value > threshold
    return np.select([below, equal, above], [0, 1, 2], 3).astype(np.int64)


_JOINS: dict[str, tuple[np.ufunc, float]] = {
    "SUM": (np.add, 0.0),
    "MIN": (np.minimum, np.inf),
    "MAX": (np.maximum, -np.inf),
}


def _joined(
    leaves: IntArray,
    thresholds: FloatArray,
    nodes: IntArray,
    vectors: FloatArray,
    targets: int,
    aggregate: str,
) -> FloatArray:
    """Scores float32 [rows, targets] of leaves [rows, trees], joined tree after tree."""
    join, start = _JOINS[aggregate]
    out = np.full((len(leaves), targets), start, np.float32)
    link = nodes[leaves]
    kind, target = kind_of(link), index_of(link)
    single = kind == SCORE
    if (~single & (kind != VECTOR)).any() or (target[single] >= targets).any():
        raise IndexError(f"a leaf of another kind, or a target beyond {targets - 1}")
    lines = np.arange(len(leaves))
    if single.all():
        join.at(out, (lines[:, None], target), thresholds[leaves])
        return out
    for tree in range(leaves.shape[1]):
        scored = lines[single[:, tree]]
        at = (scored, target[scored, tree])
        out[at] = join(out[at], thresholds[leaves[scored, tree]])
        rest = lines[~single[:, tree]]
        out[rest] = join(out[rest], vectors[place_of(link[rest, tree])].reshape(-1, targets))
    return out
