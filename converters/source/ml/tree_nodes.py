"""Reads the nodes of a tree ensemble from the attributes of an ai.onnx.ml operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.errors import FileFormatError, UnsupportedError
from ondevice.limits import MAX_TREE_NODES
from ondevice.trees import MAX_INDEX

Array = npt.NDArray[Any]

LEAF = "LEAF"
COMPARISONS = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
_MODES = (*COMPARISONS, LEAF)
_MEMBER = 6  # TreeEnsemble: a test of membership in a set, where the others have their number


@dataclass(frozen=True)
class TreeNodes:
    """The nodes of all trees, in any order, and the scores of their leaves.

    Attributes:
        mode: places in COMPARISONS, and len(COMPARISONS) for a leaf, int64 [nodes].
        feature: int64 [nodes]; of leaves without meaning, as the next four.
        value: with what the feature is compared, float32 or float64 [nodes].
        true, false: the nodes behind a branch, int64 [nodes].
        missing: whether NaN takes the true branch, bool [nodes].
        roots: of the trees, int64 [trees].
        leaf: the node of every score, int64 [scores].
        target: the target of every score, int64 [scores].
        weight: the scores, float32 [scores].
        targets: how many targets there are.
    """

    mode: Array
    feature: Array
    value: Array
    true: Array
    false: Array
    missing: Array
    roots: Array
    leaf: Array
    target: Array
    weight: Array
    targets: int


def read_nodes(node: ir.Node, targets: int) -> TreeNodes:
    """The trees of a TreeEnsembleClassifier or TreeEnsembleRegressor.

    Args:
        node: the operator.
        targets: how many targets or classes its scores are for.

    Raises:
        UnsupportedError: more than MAX_TREE_NODES nodes, or an unknown mode.
        FileFormatError: lists of different lengths, nodes that do not exist, or a tree without a
            single root.
    """
    kind = "class" if node.op_type == "TreeEnsembleClassifier" else "target"
    tree, number = _integers(node, "nodes_treeids"), _integers(node, "nodes_nodeids")
    count = len(number)
    _check_count(node, count)
    numbers = _Numbers(node, tree, number)
    mode = _modes(node, count)
    branch = mode < len(COMPARISONS)
    true, false = (_integers(node, f"nodes_{way}nodeids", count) for way in ("true", "false"))
    leaf_tree, leaf = _integers(node, f"{kind}_treeids"), _integers(node, f"{kind}_nodeids")
    missing = _integers(node, "nodes_missing_value_tracks_true", count, fallback=0)
    places = np.zeros((2, count), np.int64)
    for row, children in enumerate((true, false)):
        places[row, branch] = numbers.places(tree[branch], children[branch])
    is_child = np.zeros(count, bool)
    is_child[places[:, branch]] = True
    nodes = TreeNodes(
        mode=mode,
        feature=_integers(node, "nodes_featureids", count),
        value=_reals(node, "nodes_values", count),
        true=places[0],
        false=places[1],
        missing=missing != 0,
        roots=_single_roots(node, tree, np.flatnonzero(~is_child)),
        leaf=numbers.places(leaf_tree, leaf),
        target=_integers(node, f"{kind}_ids", len(leaf)),
        weight=_reals(node, f"{kind}_weights", len(leaf)).astype(np.float32),
        targets=targets,
    )
    return _checked(node, nodes)


def read_tree_ensemble(node: ir.Node) -> TreeNodes:
    """The trees of a TreeEnsemble (version 5), whose leaves are lists of their own.

    Raises:
        UnsupportedError: more than MAX_TREE_NODES nodes, or tests of membership in a set.
        FileFormatError: lists of different lengths, or nodes that do not exist.
    """
    feature = _integers(node, "nodes_featureids")
    branches, target = len(feature), _integers(node, "leaf_targetids")
    count = branches + len(target)
    _check_count(node, count)
    mode = _tensor(node, "nodes_modes", branches).astype(np.int64)
    if (mode == _MEMBER).any():
        raise _unsupported(node, "tests of membership in a set (BRANCH_MEMBER)")
    children = []
    for way in ("true", "false"):
        place = _integers(node, f"nodes_{way}nodeids", branches)
        is_leaf = _integers(node, f"nodes_{way}leafs", branches) != 0
        limit = np.where(is_leaf, len(target), branches)
        if ((place < 0) | (place >= limit)).any():
            raise FileFormatError(f"{_where(node)}: a {way} branch leads to no node")
        children.append(np.concatenate([np.where(is_leaf, place + branches, place), target * 0]))
    missing = _integers(node, "nodes_missing_value_tracks_true", branches, fallback=0)
    leaves = np.zeros(len(target), np.int64)
    nodes = TreeNodes(
        mode=np.concatenate([mode, leaves + len(COMPARISONS)]),
        feature=np.concatenate([feature, leaves]),
        value=np.concatenate([_tensor(node, "nodes_splits", branches), leaves]),
        true=children[0],
        false=children[1],
        missing=np.concatenate([missing, leaves]) != 0,
        roots=_integers(node, "tree_roots"),
        leaf=branches + np.arange(len(target)),
        target=target,
        weight=_tensor(node, "leaf_weights", len(target)).astype(np.float32),
        targets=node.attributes.get_int("n_targets", 1),
    )
    if ((nodes.roots < 0) | (nodes.roots >= count)).any():
        raise FileFormatError(f"{_where(node)}: a root is no node")
    return _checked(node, nodes)


def _where(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or ''}".strip()


def _unsupported(node: ir.Node, what: str) -> UnsupportedError:
    return UnsupportedError(f"{_where(node)}: expected {', '.join(_MODES)} and sums; got {what}")


def _check_count(node: ir.Node, count: int) -> None:
    if count > MAX_TREE_NODES:
        raise UnsupportedError(
            f"{_where(node)}: {count} nodes; an ensemble has at most {MAX_TREE_NODES}"
        )
    if not count:
        raise FileFormatError(f"{_where(node)}: it has no nodes")


def _checked(node: ir.Node, nodes: TreeNodes) -> TreeNodes:
    """The nodes; raises FileFormatError for features, targets or scores that cannot be."""
    branch = nodes.mode < len(COMPARISONS)
    feature, target = nodes.feature[branch], nodes.target
    if branch.any() and (feature.min() < 0 or feature.max() >= MAX_INDEX):
        raise FileFormatError(f"{_where(node)}: a feature outside 0..{MAX_INDEX - 1}")
    if target.size and (target.min() < 0 or target.max() >= nodes.targets):
        raise FileFormatError(f"{_where(node)}: a target outside 0..{nodes.targets - 1}")
    if not np.isfinite(nodes.weight).all():
        raise FileFormatError(f"{_where(node)}: a score is not finite")
    if branch[nodes.leaf].any():
        raise FileFormatError(f"{_where(node)}: a branch has a score")
    return nodes


def _modes(node: ir.Node, count: int) -> Array:
    attribute = node.attributes.get("nodes_modes")
    names = [] if attribute is None else list(attribute.value)
    if len(names) != count:
        raise FileFormatError(f"{_where(node)}: {len(names)} nodes_modes for {count} nodes")
    if unknown := sorted(set(names) - set(_MODES)):
        raise _unsupported(node, ", ".join(unknown))
    number = {name: place for place, name in enumerate(_MODES)}
    return np.array([number[name] for name in names], np.int64)


def _integers(
    node: ir.Node, name: str, count: int | None = None, fallback: int | None = None
) -> Array:
    """An attribute of integers, int64 [count]; `fallback` where it is left out."""
    attribute = node.attributes.get(name)
    if (attribute is None or not len(attribute.value)) and fallback is not None:
        return np.full(count or 0, fallback, np.int64)
    values = np.array([] if attribute is None else attribute.value, np.int64)
    if count is not None and len(values) != count:
        raise FileFormatError(f"{_where(node)}: {len(values)} {name}, expected {count}")
    return values


def _reals(node: ir.Node, name: str, count: int) -> Array:
    """An attribute of numbers, float32 [count], or float64 where it is given as such a tensor."""
    if f"{name}_as_tensor" in node.attributes:
        return _tensor(node, f"{name}_as_tensor", count)
    attribute = node.attributes.get(name)
    values = np.array([] if attribute is None else attribute.value, np.float32)
    if len(values) != count:
        raise FileFormatError(f"{_where(node)}: {len(values)} {name}, expected {count}")
    return values


def _tensor(node: ir.Node, name: str, count: int) -> Array:
    tensor = node.attributes.get_tensor(name)
    values = np.array([] if tensor is None else tensor.numpy()).reshape(-1)
    if len(values) != count:
        raise FileFormatError(f"{_where(node)}: {len(values)} {name}, expected {count}")
    return values


class _Numbers:
    """Finds nodes by the number of their tree and their own."""

    def __init__(self, node: ir.Node, tree: Array, number: Array) -> None:
        """Take the numbers of all nodes; raises FileFormatError where two nodes have the same."""
        if len(tree) != len(number):
            raise FileFormatError(
                f"{_where(node)}: {len(tree)} nodes_treeids, expected {len(number)}"
            )
        self._node = node
        self._trees, self._numbers = np.unique(tree), np.unique(number)
        keys, _ = self._keys(tree, number)
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise FileFormatError(f"{_where(node)}: two nodes of a tree have one number")

    def places(self, tree: Array, number: Array) -> Array:
        """The places of nodes; raises FileFormatError where one does not exist."""
        if len(tree) != len(number):
            raise FileFormatError(f"{_where(self._node)}: {len(tree)} trees, {len(number)} nodes")
        keys, known = self._keys(tree, number)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        if not (known & (self._sorted[at] == keys)).all():
            raise FileFormatError(f"{_where(self._node)}: it refers to a node that does not exist")
        found: Array = self._order[at]
        return found

    def _keys(self, tree: Array, number: Array) -> tuple[Array, Array]:
        """A key for each pair of numbers, and whether both occur."""
        key, known = np.zeros(len(tree), np.int64), np.ones(len(tree), bool)
        for values, given in ((self._trees, tree), (self._numbers, number)):
            at = np.minimum(np.searchsorted(values, given), len(values) - 1)
            known &= values[at] == given
            key = key * len(values) + at
        return key, known


def _single_roots(node: ir.Node, tree: Array, roots: Array) -> Array:
    """The roots in the order of trees; each tree must have one."""
    of_tree = tree[roots]
    if len(np.unique(of_tree)) != len(roots) or len(roots) != len(np.unique(tree)):
        raise FileFormatError(f"{_where(node)}: a tree without a single root")
    result: Array = roots[np.argsort(of_tree)]
    return result
