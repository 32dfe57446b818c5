"""Splits a dense layer over one-hot vectors that are joined with other features: each is a table.

Of `[one_hot(item), price] @ W`, the rows of W behind `one_hot(item)` are an embedding table inside
a matrix; multiplied apart, they are recognised, stored and looked up as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import REPORTED_BYTES
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.replace import replace_node
from ondevice.converters.source.fold import constant
from ondevice.converters.source.one_hot import one_hot_ids


@dataclass(frozen=True)
class _Part:
    """One of the values that are joined.

    Attributes:
        value: the value, not cast yet.
        start, stop: the rows of the matrix that it is multiplied by.
        is_table: whether it holds one-hot vectors of so many places that its rows are a table.
    """

    value: ir.Value
    start: int
    stop: int
    is_table: bool


def split_one_hot_layers(model: ir.Model) -> ir.Model:
    """A model whose large one-hot vectors are multiplied apart; the given one is not changed."""
    model = model.clone()
    graph = model.graph
    for number, node in enumerate(list(graph)):
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if not _is_layer(node) or weight is None or weight.const_value is None:
            continue
        if len(weight.const_value.shape) != 2:
            continue
        by_columns = bool(node.attributes.get_int("transB", 0))
        rows, width = weight.const_value.shape.numpy()[:: -1 if by_columns else 1]
        parts = _parts(node.inputs[0], width)
        if not any(part.is_table for part in parts) or parts[-1].stop != rows:
            continue
        builder = NodeBuilder(graph, node, f"one_hot.{number}")
        replace_node(graph, node, builder, [_sum(builder, parts, by_columns)])
    passes.RemoveUnusedNodesPass()(model)
    return model


def _is_layer(node: ir.Node) -> bool:
    scaled = any(node.attributes.get_float(key, 1.0) != 1.0 for key in ("alpha", "beta"))
    plain = not scaled and not node.attributes.get_int("transA", 0)
    return not node.domain and node.op_type in ("Gemm", "MatMul") and plain


def _parts(value: ir.Value | None, width: int) -> list[_Part]:
    """What a value joins along its last axis; nothing where it is no join, or sizes are free.

    Args:
        value: the value.
        width: columns of the matrix that it is multiplied by.
    """
    found: list[_Part] = []
    start = 0
    for joined in _leaves(value):
        shape = joined.shape
        if shape is None or not isinstance(shape[-1], int):
            return []
        vectors = one_hot_ids(joined)
        large = shape[-1] * width * np.dtype(np.float32).itemsize >= REPORTED_BYTES
        is_table = large and vectors is not None and vectors.count == shape[-1]
        found.append(_Part(joined, start, start + shape[-1], is_table))
        start += shape[-1]
    return found if len(found) > 1 else []


def _leaves(value: ir.Value | None) -> list[ir.Value]:
    """The values that a value joins along the last axis, also those of joins inside and of casts.

    A cast is looked through where it keeps integers as they are.
    """
    if value is None:
        return []
    node = value.producer()
    while node is not None and _keeps_numbers(node):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.domain or node.op_type != "Concat":
        return [value]
    rank = 0 if node.outputs[0].shape is None else len(node.outputs[0].shape)
    if node.attributes.get_int("axis", 0) not in (-1, rank - 1):
        return [value]
    return [leaf for joined in node.inputs for leaf in _leaves(joined)]


def _keeps_numbers(node: ir.Node) -> bool:
    if node.domain or node.op_type not in ("Cast", "Identity"):
        return False
    source = None if node.inputs[0] is None else node.inputs[0].dtype
    wide = node.attributes.get_int("to", 0) in (int(ir.DataType.FLOAT), int(ir.DataType.INT64))
    return node.op_type == "Identity" or (wide and source in (ir.DataType.BOOL, ir.DataType.INT64))


def _sum(builder: NodeBuilder, parts: Sequence[_Part], by_columns: bool) -> ir.Value:
    """The sum of a layer's products with each table, and with all other parts together."""
    node = builder.source
    groups = [[part] for part in parts if part.is_table]
    if rest := [part for part in parts if not part.is_table]:
        groups.insert(0, rest)
    form = node.outputs[0]
    products = []
    for place, group in enumerate(groups):
        rows = _rows(builder.graph, node.inputs[1], group, by_columns)
        bias = () if place else node.inputs[2:]
        inputs = (_joined(builder, group), rows, *bias)
        products.append(builder.op(node.op_type, *inputs, **dict(_options(node))))
        products[-1].type, products[-1].shape = form.type, form.shape
    total = products[0]
    for product in products[1:]:
        total = builder.op("Add", total, product)
        total.type, total.shape = form.type, form.shape
    return total


def _options(node: ir.Node) -> Iterator[tuple[str, int]]:
    if "transB" in node.attributes:
        yield "transB", node.attributes.get_int("transB", 0)


def _joined(builder: NodeBuilder, parts: Sequence[_Part]) -> ir.Value:
    """Parts joined again, as float32."""
    floats = []
    for part in parts:
        value = part.value
        if value.dtype != ir.DataType.FLOAT:
            value = builder.op("Cast", value, to=int(ir.DataType.FLOAT))
            value.dtype, value.shape = ir.DataType.FLOAT, part.value.shape
        floats.append(value)
    if len(floats) == 1:
        return floats[0]
    sizes = list(floats[0].shape or ())[:-1]
    joined = builder.op("Concat", *floats, axis=-1)
    joined.dtype = ir.DataType.FLOAT
    joined.shape = ir.Shape([*sizes, sum(part.stop - part.start for part in parts)])
    return joined


def _rows(
    graph: ir.Graph, weight: ir.Value | None, parts: Sequence[_Part], by_columns: bool
) -> ir.Value:
    """The rows of a matrix behind some parts, or its columns where the matrix is transposed."""
    if weight is None or weight.const_value is None:
        raise ValueError("the matrix is no constant")
    array = weight.const_value.numpy()
    places = [slice(part.start, part.stop) for part in parts]
    cut = [array[:, place] if by_columns else array[place] for place in places]
    joined = cut[0] if len(cut) == 1 else np.concatenate(cut, 1 if by_columns else 0)
    return constant(graph, f"{weight.name}.{parts[0].start}", np.ascontiguousarray(joined))
