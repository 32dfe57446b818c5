"""What ai.onnx.ml operators do to scores: base values, the second class, the transformation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.errors import UnsupportedError

_FLOAT = ir.DataType.FLOAT
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX")


def transform_of(node: ir.Node) -> str:
    """The transformation that a node applies to its scores.

    Raises:
        UnsupportedError: another one than TRANSFORMS.
    """
    name = str(node.attributes.get_string("post_transform", "NONE"))
    if name not in TRANSFORMS:
        raise UnsupportedError(
            f"{node.op_type}: expected post_transform {', '.join(TRANSFORMS)}; got {name}"
        )
    return name


def transformed(builder: NodeBuilder, scores: ir.Value, transform: str) -> ir.Value:
    """Scores [rows, n] after one of TRANSFORMS."""
    if transform == "NONE":
        return scores
    kind, axis = ("Sigmoid", {}) if transform == "LOGISTIC" else ("Softmax", {"axis": -1})
    return same(builder, kind, scores, **axis)


def same(builder: NodeBuilder, kind: str, x: ir.Value, *others: ir.Value, **axis: int) -> ir.Value:
    """An operator whose result has the shape of its first operand."""
    sizes = [size if isinstance(size, int) else str(size) for size in x.shape or ()]
    return builder.typed_op(kind, [x, *others], sizes, _FLOAT, **axis)


def shifted(builder: NodeBuilder, scores: ir.Value, base: npt.NDArray[np.float32]) -> ir.Value:
    """Scores [rows, n] with a constant for each column added; the scores where it is zero."""
    if not base.any():
        return scores
    return same(builder, "Add", scores, builder.constant(base))


def both_classes(
    builder: NodeBuilder, score: ir.Value, transform: str, *, probability: bool
) -> ir.Value:
    """The scores [rows, 2] of two classes of which only the second has one.

    ONNX Runtime leaves SOFTMAX out. Without a logistic function it takes the score as a
    probability where no weight is negative; else the first class has the opposite score.

    Args:
        builder: for the nodes.
        score: [rows, 1].
        transform: one of TRANSFORMS.
        probability: whether the score is taken as the second class's probability.
    """
    if probability and transform != "LOGISTIC":
        one = builder.constant([1.0])
        first = builder.typed_op("Sub", [one, score], _sizes(score), _FLOAT)
        return pair(builder, first, score)
    scores = pair(builder, same(builder, "Neg", score), score)
    return transformed(builder, scores, transform if transform == "LOGISTIC" else "NONE")


def pair(builder: NodeBuilder, first: ir.Value, second: ir.Value) -> ir.Value:
    """Two columns [rows, 1] as [rows, 2]."""
    return builder.typed_op("Concat", [first, second], [_sizes(first)[0], 2], _FLOAT, axis=1)


def class_labels(builder: NodeBuilder, places: ir.Value, labels: list[int]) -> ir.Value:
    """The labels int64 [rows] of classes that are given by their places int64 [rows]."""
    rows = _sizes(places)[0]
    table = builder.constant(labels, np.int64)
    return builder.typed_op("Gather", [table, places], [rows], ir.DataType.INT64, axis=0)


def best_class(builder: NodeBuilder, scores: ir.Value) -> ir.Value:
    """The place int64 [rows] of the greatest score, the first of equal ones."""
    rows = _sizes(scores)[0]
    return builder.typed_op("ArgMax", [scores], [rows], ir.DataType.INT64, axis=1, keepdims=0)


def exceeds(builder: NodeBuilder, score: ir.Value, limit: float) -> ir.Value:
    """1 where a score [rows, 1] is greater than a limit, else 0: int64 [rows]."""
    rows = _sizes(score)[0]
    flag = builder.typed_op(
        "Greater", [score, builder.constant([limit])], [rows, 1], ir.DataType.BOOL
    )
    number = builder.typed_op("Cast", [flag], [rows, 1], ir.DataType.INT64, to=7)
    return builder.typed_op("Reshape", [number, builder.ints(-1)], [rows], ir.DataType.INT64)


def _sizes(value: ir.Value) -> list[int | str]:
    return [size if isinstance(size, int) else str(size) for size in value.shape or ()]
