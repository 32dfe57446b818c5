"""Rules that replace the linear models of ai.onnx.ml by dense layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.source.ml.operands import float_matrix, int_labels, sizes_of
from ondevice.converters.source.ml.scores import (
    best_class,
    both_classes,
    class_labels,
    exceeds,
    transform_of,
    transformed,
)
from ondevice.errors import FileFormatError, UnsupportedError


def _regressor(builder: NodeBuilder, node: ir.Node) -> Outputs:
    targets = node.attributes.get_int("targets", 1)
    transform = transform_of(node)  # ONNX Runtime leaves it out for a single target
    scores = _scores(builder, node, targets)
    return [transformed(builder, scores, transform if targets > 1 else "NONE")]


def _classifier(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """Label and scores. Two classes may share one row of weights, that of the second."""
    labels, classes = int_labels(node)
    transform = transform_of(node)
    features = sizes_of(node.inputs[0])[-1]
    weights = len(node.attributes["coefficients"].value)
    rows = weights // features if isinstance(features, int) else classes
    scores = _scores(builder, node, rows)
    label = None
    if rows == 1 and classes == 2:
        if labels is not None:
            label = class_labels(builder, exceeds(builder, scores, 0.0), labels)
        return [label, both_classes(builder, scores, transform, probability=True)]
    if rows != classes:
        raise UnsupportedError(f"{node.op_type}: {rows} rows of weights for {classes} classes")
    if labels is not None:
        label = class_labels(builder, best_class(builder, scores), labels)
    return [label, transformed(builder, scores, transform)]


def _scores(builder: NodeBuilder, node: ir.Node, units: int) -> ir.Value:
    """Weights times features and intercepts, float32 [rows, units]."""
    x = float_matrix(builder, node.inputs[0], node)
    rows, features = sizes_of(x)
    weights = np.array(node.attributes["coefficients"].value, np.float32)
    if weights.size != units * int(features):
        raise FileFormatError(
            f"{node.op_type} {node.name}: {weights.size} coefficients for {features} features and "
            f"{units} rows"
        )
    given = node.attributes.get("intercepts")
    bias = np.array([] if given is None else given.value, np.float32)
    if bias.size not in (0, units):
        raise FileFormatError(
            f"{node.op_type} {node.name}: {bias.size} intercepts for {units} rows"
        )
    bias = bias if bias.size else np.zeros(units, np.float32)
    operands = [x, builder.constant(weights.reshape(units, -1)), builder.constant(bias)]
    return builder.typed_op("Gemm", operands, [rows, units], ir.DataType.FLOAT, transB=1)


RULES: dict[str, Rule] = {
    "LinearClassifier": _classifier,
    "LinearRegressor": _regressor,
}
