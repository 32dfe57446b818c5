"""Operands of ai.onnx.ml operators: matrices of numbers, and labels of classes."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.errors import UnsupportedError

ML = "ai.onnx.ml"
_FLOAT = ir.DataType.FLOAT
Size = int | str


def sizes_of(value: ir.Value | None) -> list[Size]:
    """Sizes of a value, a free one by its name; raises UnsupportedError where they are unknown."""
    if value is None or value.shape is None:
        name = "" if value is None else f" of {value.name!r}"
        raise UnsupportedError(f"the shape{name} is not known")
    return [size if isinstance(size, int) else str(size) for size in value.shape]


def float_matrix(builder: NodeBuilder, value: ir.Value | None, node: ir.Node) -> ir.Value:
    """An operand as float32 [rows, features]: a vector is one column.

    Raises:
        UnsupportedError: it has another number of axes, or holds text.
    """
    sizes = sizes_of(value)
    if value is None or len(sizes) not in (1, 2) or value.dtype is ir.DataType.STRING:
        raise UnsupportedError(
            f"{node.op_type}: expected numbers [rows, features], got shape {sizes}"
        )
    if value.dtype not in (_FLOAT, None):
        value = builder.typed_op("Cast", [value], sizes, _FLOAT, to=int(_FLOAT))
    if len(sizes) == 1:
        shape = builder.ints(-1, 1)
        value = builder.typed_op("Reshape", [value, shape], [sizes[0], 1], _FLOAT)
    return value


def parameter_bytes(graph: ir.Graph) -> int:
    """Bytes of the parameters of ai.onnx.ml operators: the numbers in their attributes."""
    sizes = {ir.AttributeType.FLOATS: 4, ir.AttributeType.INTS: 8}
    total = 0
    for node in graph:
        for attribute in node.attributes.values() if node.domain == ML else ():
            if attribute.type in sizes:
                total += sizes[attribute.type] * len(attribute.value)
            elif attribute.type is ir.AttributeType.TENSOR:
                total += int(attribute.value.nbytes)
    return total


def int_labels(node: ir.Node) -> tuple[list[int] | None, int]:
    """The integer labels of a classifier, None where they are texts; and how many there are.

    Raises:
        UnsupportedError: it has no labels.
    """
    for name in ("classlabels_int64s", "classlabels_ints"):
        if name in node.attributes and len(node.attributes[name].value):
            labels = [int(label) for label in node.attributes[name].value]
            return labels, len(labels)
    texts = node.attributes.get("classlabels_strings")
    if texts is None or not len(texts.value):
        raise UnsupportedError(f"{node.op_type}: it has no class labels")
    return None, len(texts.value)
