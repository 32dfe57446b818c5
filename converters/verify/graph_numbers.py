"""Numbers at which a graph's behaviour may change, and divisions that may end a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import PackedLookup

_COMPARING = {
    "Add", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Sub", "Where",
}  # fmt: skip
_DECIDING = {
    "Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
}  # fmt: skip
_MOST = 16  # numbers of a constant; of a longer one the least and the greatest
_TOGETHER = 256


def changing_numbers(graph: ir.Graph, lookups: Sequence[PackedLookup]) -> tuple[int, ...]:
    """Integers that IDs are compared with or divided by, and the rows of tables, ascending."""
    integers = {lookup.spec.rows for lookup in lookups}
    integers |= {lookup.spec.head for lookup in lookups}
    for node in graph:
        if node.op_type == "Gather" and not node.domain:
            integers |= _axis_size(node)
        if node.op_type not in _COMPARING or node.domain:
            continue
        for value in node.inputs:
            array = _constant(value)
            if array is None or not array.size or array.dtype.kind not in "iuf":
                continue
            whole = array[np.isfinite(array)] if array.dtype.kind == "f" else array
            whole = whole.reshape(-1) if whole.size <= _MOST else _ends(whole)
            integers |= {int(number) for number in whole}
    numbers = sorted(integers)
    return tuple(numbers[:: -(-len(numbers) // _TOGETHER) or 1])


def thresholds(graph: ir.Graph) -> tuple[float, ...]:
    """Numbers of float32 at which a graph may decide otherwise, ascending."""
    found: set[float] = set()
    for node in graph:
        if node.op_type not in _DECIDING or node.domain:
            continue
        for value in node.inputs:
            array = _constant(value)
            if array is None or not array.size or array.dtype.kind != "f":
                continue
            numbers = array[np.isfinite(array)].reshape(-1)
            found |= {float(number) for number in numbers[:: -(-len(numbers) // _TOGETHER) or 1]}
    ascending = sorted(found)
    return tuple(ascending[:: -(-len(ascending) // _TOGETHER) or 1])


def may_divide_by_minus_one(graph: ir.Graph) -> bool:
    """Whether the least integer could be divided by -1, which ends a process of torch or ORT."""
    for node in graph:
        if node.domain or node.op_type not in ("Div", "Neg"):
            continue
        if node.inputs[0] is None or node.inputs[0].dtype not in (ir.DataType.INT64, None):
            continue
        divisors = _constant(node.inputs[1]) if node.op_type == "Div" else None
        if divisors is None or (divisors == -1).any():
            return True
    return False


def _axis_size(node: ir.Node) -> set[int]:
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    axis = node.attributes.get_int("axis", 0)
    size = None if shape is None or axis >= len(shape) else shape[axis]
    return {size, -size} if isinstance(size, int) else set()


def _ends(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.array([array.min(), array.max()])


def _constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = value.producer()
    tensor = node.attributes.get_tensor("value") if node and node.op_type == "Constant" else None
    return None if tensor is None else np.asarray(tensor.numpy())
