"""Rules that replace what ai.onnx.ml does to features before and between models."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import constant_array
from ondevice.converters.source.ml.operands import float_matrix, sizes_of
from ondevice.converters.source.ml.scores import same
from ondevice.errors import UnsupportedError

_FLOAT, _INT, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


def _scaler(builder: NodeBuilder, node: ir.Node) -> Outputs:
    x = float_matrix(builder, node.inputs[0], node)
    offset, scale = (_reals(node, name) for name in ("offset", "scale"))
    if offset.any():
        x = same(builder, "Sub", x, builder.constant(offset))
    return [same(builder, "Mul", x, builder.constant(scale))]


def _normalizer(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """Rows divided by their norm; a row of zeros stays."""
    x = float_matrix(builder, node.inputs[0], node)
    norm = str(node.attributes.get_string("norm", "MAX"))
    rows, axis = sizes_of(x)[0], builder.ints(1)
    if norm == "MAX":
        size = builder.typed_op("ReduceMax", [x, axis], [rows, 1], _FLOAT, keepdims=1)
    elif norm == "L1":
        size = same(builder, "Abs", x)
        size = builder.typed_op("ReduceSum", [size, axis], [rows, 1], _FLOAT, keepdims=1)
    elif norm == "L2":
        size = same(builder, "Mul", x, x)
        size = builder.typed_op("ReduceSum", [size, axis], [rows, 1], _FLOAT, keepdims=1)
        size = same(builder, "Sqrt", size)
    else:
        raise UnsupportedError(f"{node.op_type}: expected norm MAX, L1 or L2; got {norm}")
    zero = builder.typed_op("Equal", [size, builder.constant([0.0])], [rows, 1], _BOOL)
    divisor = builder.typed_op("Where", [zero, builder.constant([1.0]), size], [rows, 1], _FLOAT)
    return [same(builder, "Div", x, divisor)]


def _binarizer(builder: NodeBuilder, node: ir.Node) -> Outputs:
    x = float_matrix(builder, node.inputs[0], node)
    limit = builder.constant([node.attributes.get_float("threshold", 0.0)])
    above = builder.typed_op("Greater", [x, limit], sizes_of(x), _BOOL)
    return [builder.typed_op("Cast", [above], sizes_of(x), _FLOAT, to=int(_FLOAT))]


def _imputer(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """Another number in the place of one that stands for a missing value, such as NaN."""
    x = float_matrix(builder, node.inputs[0], node)
    given = builder.constant(_reals(node, "imputed_value_floats"))
    missing = np.float32(node.attributes.get_float("replaced_value_float", 0.0))
    sizes = sizes_of(x)
    if np.isnan(missing):
        is_missing = builder.typed_op("IsNaN", [x], sizes, _BOOL)
    else:
        is_missing = builder.typed_op("Equal", [x, builder.constant([missing])], sizes, _BOOL)
    return [builder.typed_op("Where", [is_missing, given, x], sizes, _FLOAT)]


def _extractor(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """Columns of a matrix at constant places."""
    places = constant_array(node.inputs[1])
    x = node.inputs[0]
    sizes = sizes_of(x)
    if places is None or x is None or len(sizes) < 2:
        raise UnsupportedError(
            f"{node.op_type}: expected columns of a matrix at constant places; got shape {sizes}"
        )
    indices = builder.constant(places.reshape(-1), np.int64)
    shape = [*sizes[:-1], places.size]
    return [builder.typed_op("Gather", [x, indices], shape, x.dtype, axis=len(sizes) - 1)]


def _vectorizer(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """Several matrices side by side, as float32."""
    parts = [float_matrix(builder, value, node) for value in node.inputs]
    rows = sizes_of(parts[0])[0]
    widths = [sizes_of(part)[1] for part in parts]
    if any(isinstance(width, str) for width in widths):
        raise UnsupportedError(f"{node.op_type}: a number of features is not known")
    total = sum(int(width) for width in widths)
    return [builder.typed_op("Concat", parts, [rows, total], _FLOAT, axis=1)]


def _one_hot(builder: NodeBuilder, node: ir.Node) -> Outputs:
    """A last axis [categories] that is 1 at the integer's category; zeros for any other integer."""
    attribute = node.attributes.get("cats_int64s")
    if attribute is None or not len(attribute.value):
        raise UnsupportedError(f"{node.op_type}: expected integer categories, got texts")
    if not node.attributes.get_int("zeros", 1):
        raise UnsupportedError(
            f"{node.op_type}: expected zeros=1, got an error for unknown integers"
        )
    x, sizes = node.inputs[0], sizes_of(node.inputs[0])
    if x is None or x.dtype not in (_INT, _FLOAT):
        raise UnsupportedError(f"{node.op_type}: expected int64 or float32")
    if x.dtype is _FLOAT:
        x = builder.typed_op("Cast", [x], sizes, _INT, to=int(_INT))
    categories = builder.constant(list(attribute.value), np.int64)
    column = builder.typed_op("Unsqueeze", [x, builder.ints(len(sizes))], [*sizes, 1], _INT)
    shape = [*sizes, len(attribute.value)]
    equal = builder.typed_op("Equal", [column, categories], shape, _BOOL)
    return [builder.typed_op("Cast", [equal], shape, _FLOAT, to=int(_FLOAT))]


def _reals(node: ir.Node, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    attribute = node.attributes.get(name)
    if attribute is None or not len(attribute.value):
        raise UnsupportedError(f"{node.op_type}: expected {name}")
    return np.array(attribute.value, np.float32)


RULES: dict[str, Rule] = {
    "ArrayFeatureExtractor": _extractor,
    "Binarizer": _binarizer,
    "FeatureVectorizer": _vectorizer,
    "Imputer": _imputer,
    "Normalizer": _normalizer,
    "OneHotEncoder": _one_hot,
    "Scaler": _scaler,
}
