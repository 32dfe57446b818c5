"""Tree ensembles in TFLite: rows take a step in all trees at a time, by gathers and comparisons.

A value [rows, trees] holds the slot that each row has reached in each tree. A slot is a node; the
two slots behind a branch lie side by side, that of a test that fails first. A leaf leads to two
slots of its own, which lead to themselves: no step has to know whether a tree has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.targets.tflite.graph import GraphBuilder
from ondevice.converters.targets.tflite.shapes import elementwise
from ondevice.converters.targets.tflite.writer import Tensor, TfliteWriter
from ondevice.errors import UnsupportedError
from ondevice.trees import (
    BRANCH,
    EQUAL,
    GREATER,
    LESS,
    SCORE,
    UNORDERED,
    VECTOR,
    index_of,
    kind_of,
    outcomes_of,
    place_of,
)

Array = npt.NDArray[Any]

_ORDERED = LESS | EQUAL | GREATER
# One comparison for all tests, by their outcomes; and what takes NaN's place where it passes them.
_COMPARISONS = {
    LESS | EQUAL: ("LESS_EQUAL", -np.inf),
    LESS: ("LESS", -np.inf),
    GREATER | EQUAL: ("GREATER_EQUAL", np.inf),
    GREATER: ("GREATER", np.inf),
}
_OUTCOMES = {LESS: "LESS", EQUAL: "EQUAL", GREATER: "GREATER"}
_REDUCTIONS = {"SUM": "SUM", "MIN": "REDUCE_MIN", "MAX": "REDUCE_MAX"}
_ABSENT = {"SUM": 0.0, "MIN": np.inf, "MAX": -np.inf}
_MAX_SCORES = 2**26  # of all leaves together, a score for every target


def write_trees(graph: GraphBuilder, node: ir.Node) -> Tensor:
    """The scores float32 [rows, targets] of an `ondevice::TreeEnsemble`.

    Raises:
        UnsupportedError: more than 2^26 scores in all leaves.
    """
    x = graph.tensor(node.inputs[0])
    thresholds, links, roots, vectors = (_held(graph, value) for value in node.inputs[1:])
    targets = node.attributes.get_int("targets", 1)
    aggregate = str(node.attributes.get_string("aggregate", "SUM"))
    slots = _slots(links, roots)
    tests = _single_test(links, thresholds)
    steps: _Steps
    if tests is None:
        steps = _AnyTest(graph.writer, slots, thresholds, links)
    else:
        steps = _OneTest(graph.writer, slots, thresholds, links, tests)
    leaves = steps.walk(x)
    scores = _Scores(thresholds, links, vectors, targets, aggregate)
    return scores.write(graph.writer, leaves, slots)


def _held(graph: GraphBuilder, value: ir.Value | None) -> Array:
    array = graph.array(value)
    if array is None:
        raise UnsupportedError("expected constant trees, got computed ones")
    return array


@dataclass(frozen=True)
class _Slots:
    """Where rows can be in trees.

    Attributes:
        node: the node of every slot; the roots' are first.
        child: the slot that a failed test leads to; a test that holds leads to the next one.
        trees: how many trees there are.
        steps: after how many steps every row has reached a leaf; at least one.
    """

    node: Array
    child: Array
    trees: int
    steps: int


def _slots(links: Array, roots: Array) -> _Slots:
    """The slots of all trees, level by level."""
    node, child = roots, np.zeros(len(roots), np.int64)
    front, steps = np.arange(len(roots)), 0
    while not steps or (kind_of(links[node[front]]) == BRANCH).any():
        at = node[front]
        branch = kind_of(links[at]) == BRANCH
        start = len(node) + 2 * np.arange(len(front))
        child[front] = start
        holds = np.where(branch, place_of(links[at]), at)
        pairs = np.stack([np.where(branch, holds + 1, at), holds], 1).reshape(-1)
        leads_to_itself = np.repeat(~branch, 2)
        behind = np.where(leads_to_itself, np.repeat(start, 2), 0)
        front = len(node) + np.flatnonzero(~leads_to_itself)
        node, child = np.concatenate([node, pairs]), np.concatenate([child, behind])
        steps += 1
    return _Slots(node, child, len(roots), steps)


def _single_test(links: Array, thresholds: Array) -> int | None:
    """The outcomes that all tests share; None where they differ, or a threshold is infinite."""
    branch = kind_of(links) == BRANCH
    ordered = np.unique(outcomes_of(links[branch]) & _ORDERED)
    if len(ordered) != 1 or int(ordered[0]) not in _COMPARISONS:
        return None
    return int(ordered[0]) if np.isfinite(thresholds[branch]).all() else None


class _Steps:
    """The steps of all trees: the slots where rows arrive."""

    def __init__(
        self, writer: TfliteWriter, slots: _Slots, thresholds: Array, links: Array
    ) -> None:
        self.writer, self.slots = writer, slots
        link = links[slots.node]
        branch = kind_of(link) == BRANCH
        self.outcomes = np.where(branch, outcomes_of(link), 0)
        self.features = np.where(branch, index_of(link), 0)
        self.thresholds = np.where(branch, thresholds[slots.node], 0).astype(np.float32)

    def walk(self, x: Tensor) -> Tensor:
        """The slot of a leaf, int32 [rows, trees], for features float32 [rows, features]."""
        x = self.prepared(x)
        at = self._step(x, None)
        for _ in range(self.slots.steps - 1):
            at = self._step(x, at)
        return at

    def _step(self, x: Tensor, at: Tensor | None) -> Tensor:
        """The slots behind the slots `at`; None: behind the roots."""
        value = self.selected(x, self.table(self.features, np.int32, at), at)
        holds = self.writer.cast(self.holds(value, at), np.dtype(np.int32))
        return elementwise(self.writer, "ADD", holds, self.table(self.slots.child, np.int32, at))

    def prepared(self, x: Tensor) -> Tensor:
        """The features that tests read."""
        return x

    def holds(self, value: Tensor, at: Tensor | None) -> Tensor:
        """Which tests hold, bool [rows, trees], of values float32 [rows, trees]."""
        raise NotImplementedError

    def table(self, array: Array, dtype: npt.DTypeLike, at: Tensor | None) -> Tensor:
        """What an array has for the slots `at`; None: for the roots."""
        if at is None:
            return self.writer.constant(array[: self.slots.trees], dtype)
        table = self.writer.constant(array, dtype)
        return self.writer.op("GATHER", [table, at], at.shape, table.dtype, axis=0)

    def selected(self, x: Tensor, places: Tensor, at: Tensor | None) -> Tensor:
        """The feature of every row that each tree tests, float32 [rows, trees]."""
        shape = (x.shape[0], self.slots.trees)
        batch_dims = 0 if at is None else 1
        return self.writer.op("GATHER", [x, places], shape, x.dtype, axis=1, batch_dims=batch_dims)


class _OneTest(_Steps):
    """Steps where one comparison serves all tests."""

    def __init__(
        self, writer: TfliteWriter, slots: _Slots, thresholds: Array, links: Array, test: int
    ) -> None:
        super().__init__(writer, slots, thresholds, links)
        self._opcode, self._replacement = _COMPARISONS[test]
        self._missing = self.outcomes & UNORDERED != 0

    def prepared(self, x: Tensor) -> Tensor:
        """The features, and behind them those whose NaN passes the test, if a test wants it."""
        if not self._missing.any():
            return x
        features = x.shape[1]
        self.features = self.features + np.where(self._missing, features, 0)
        present = elementwise(self.writer, "EQUAL", x, x, dtype=np.bool_)
        passing = self.writer.constant(self._replacement, np.float32)
        other = self.writer.op("SELECT_V2", [present, x, passing], x.shape, x.dtype)
        shape = (x.shape[0], 2 * features)
        return self.writer.op("CONCATENATION", [x, other], shape, x.dtype, axis=1)

    def holds(self, value: Tensor, at: Tensor | None) -> Tensor:
        """See _Steps."""
        limit = self.table(self.thresholds, np.float32, at)
        return elementwise(self.writer, self._opcode, value, limit, dtype=np.bool_)


class _AnyTest(_Steps):
    """Steps of tests of several kinds: an outcome holds where the node lists it."""

    def holds(self, value: Tensor, at: Tensor | None) -> Tensor:
        """See _Steps."""
        limit = self.table(self.thresholds, np.float32, at)
        results = {
            bit: elementwise(self.writer, opcode, value, limit, dtype=np.bool_)
            for bit, opcode in _OUTCOMES.items()
        }
        results[UNORDERED] = elementwise(self.writer, "NOT_EQUAL", value, value, dtype=np.bool_)
        parts = [
            elementwise(
                self.writer,
                "LOGICAL_AND",
                result,
                self.table(self.outcomes & bit != 0, np.bool_, at),
            )
            for bit, result in results.items()
        ]
        return reduce(partial(elementwise, self.writer, "LOGICAL_OR"), parts)


@dataclass(frozen=True)
class _Scores:
    """The scores of leaves; see `ondevice.trees`."""

    thresholds: Array
    links: Array
    vectors: Array
    targets: int
    aggregate: str

    def write(self, writer: TfliteWriter, leaves: Tensor, slots: _Slots) -> Tensor:
        """Scores float32 [rows, targets] of leaves, slots int32 [rows, trees]."""
        kind = kind_of(self.links[slots.node])
        if self.targets == 1 and not (kind == VECTOR).any():
            values = np.where(kind == SCORE, self.thresholds[slots.node], 0)
            table = writer.constant(values, np.float32)
            picked = writer.op("GATHER", [table, leaves], leaves.shape, table.dtype, axis=0)
            return self._joined(writer, picked, (leaves.shape[0], 1), keep=True)
        rows, dense = self._dense()
        places = writer.constant(rows[slots.node], np.int32)
        place = writer.op("GATHER", [places, leaves], leaves.shape, places.dtype, axis=0)
        table = writer.constant(dense, np.float32)
        shape = (*leaves.shape, self.targets)
        picked = writer.op("GATHER", [table, place], shape, table.dtype, axis=0)
        return self._joined(writer, picked, (leaves.shape[0], self.targets), keep=False)

    def _joined(
        self, writer: TfliteWriter, scores: Tensor, shape: tuple[int, ...], *, keep: bool
    ) -> Tensor:
        """Scores [rows, trees, ...] joined over the trees."""
        axis = writer.constant([1], np.int32)
        opcode = _REDUCTIONS[self.aggregate]
        return writer.op(opcode, [scores, axis], shape, scores.dtype, keep_dims=keep)

    def _dense(self) -> tuple[Array, Array]:
        """The row of every node, and scores float32 [leaves, targets]."""
        kind = kind_of(self.links)
        leaf = np.flatnonzero(kind != BRANCH)
        if len(leaf) * self.targets > _MAX_SCORES:
            raise UnsupportedError(
                f"{len(leaf)} leaves for {self.targets} targets: more than {_MAX_SCORES} scores"
            )
        rows = np.zeros(len(self.links), np.int64)
        rows[leaf] = np.arange(len(leaf))
        dense = np.full((len(leaf), self.targets), _ABSENT[self.aggregate], np.float32)
        single, several = np.flatnonzero(kind == SCORE), np.flatnonzero(kind == VECTOR)
        dense[rows[single], index_of(self.links[single])] = self.thresholds[single]
        dense[rows[several]] = self.vectors[place_of(self.links[several])]
        return rows, dense
