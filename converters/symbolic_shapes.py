"""Shape arithmetic at conversion: lists of integers in which the batch is a symbol."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

Size = int | str

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
}
_SAME = ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape")
_MOST = 64  # more numbers are data, not a shape


def integers(value: ir.Value | None) -> list[Size] | None:
    """The numbers of an int64 scalar or list; None where it depends on the request's IDs.

    A free size is its symbol, such as "batch".
    """
    if value is None or (value.dtype is not None and value.dtype.is_floating_point()):
        return None
    if value.const_value is not None:
        array = np.asarray(value.const_value.numpy())
        small = array.ndim <= 1 and array.size <= _MOST and array.dtype.kind == "i"
        return [int(item) for item in array.reshape(-1)] if small else None
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Shape":
        return _of_shape(node)
    if node.op_type == "Concat":
        parts = [integers(item) for item in node.inputs]
        return None if None in parts else [size for part in parts if part for size in part]
    if value.shape is not None and len(value.shape) > 1:
        return None
    numbers = integers(node.inputs[0]) if node.inputs else None
    if numbers is None:
        return None
    if node.op_type in _SAME:
        return numbers
    return _computed(node, numbers)


def _of_shape(node: ir.Node) -> list[Size] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    sizes = [size if isinstance(size, int) else str(size) for size in source.shape]
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return sizes[start:end]


def _computed(node: ir.Node, numbers: list[Size]) -> list[Size] | None:
    others = [integers(item) for item in node.inputs[1:]]
    if any(item is None or any(isinstance(n, str) for n in item) for item in others):
        return None
    known = [[int(n) for n in item] for item in others if item is not None]
    if node.op_type == "Gather" and known:
        inside = all(-len(numbers) <= i < len(numbers) for i in known[0])
        return [numbers[i] for i in known[0]] if inside else None
    if node.op_type == "Slice" and len(known) >= 2 and len(known[0]) == 1:
        step = known[3][0] if len(known) > 3 else 1
        return numbers[known[0][0] : known[1][0] : step] if step > 0 else None
    if node.op_type in _ARITHMETIC and len(known) == 1 and len(known[0]) == len(numbers):
        if any(isinstance(n, str) for n in numbers):
            return None
        combine = _ARITHMETIC[node.op_type]
        return [combine(int(a), b) for a, b in zip(numbers, known[0], strict=True)]
    return None
