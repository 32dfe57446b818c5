"""Shape arithmetic at conversion: arrays of integers in which a free size is a symbol."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.errors import InputError
from ondevice.ops import apply

Size = int | str
Numbers = npt.NDArray[np.object_]

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": lambda a, b: int(a / b) if abs(a) < 2**52 else a // b,  # towards zero
    "Mod": operator.mod,
    "Max": max,
    "Min": min,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
}
_MOVING = {
    "Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Reshape", "Slice",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_MAX_NUMBERS = 4096  # more are data, not a shape
_KEY = "ondevice.numbers"


def integers(value: ir.Value | None) -> list[Size] | None:
    """The numbers of an int64 scalar or list; None where it depends on the request's IDs.

    A free size is its symbol, such as "batch".
    """
    values = numbers(value)
    return None if values is None or values.ndim > 1 else list(values.reshape(-1))


def numbers(value: ir.Value | None) -> Numbers | None:
    """The numbers of an int64 or bool array of any shape, as Python integers and symbols."""
    if value is None or (value.dtype is not None and value.dtype.is_floating_point()):
        return None
    if _KEY not in value.meta:
        value.meta[_KEY] = _numbers(value)
    values: Numbers | None = value.meta[_KEY]
    return values


def forget(value: ir.Value) -> None:
    """Drop what is known of a value's numbers, because shapes that it depends on have changed."""
    value.meta.pop(_KEY, None)


def _numbers(value: ir.Value) -> Numbers | None:
    if value.const_value is not None:
        if value.const_value.size > _MAX_NUMBERS:
            return None
        array = np.asarray(value.const_value.numpy())
        return array.astype(object) if array.dtype.kind in "ib" else None
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type in ("Shape", "Size"):
        return _of_shape(node)
    inputs = [numbers(item) for item in node.inputs if item is not None]
    if not inputs or any(item is None for item in inputs):
        return None
    try:
        values = _computed(node, [item for item in inputs if item is not None])
        return None if values is None else np.asarray(values, dtype=object)
    except (InputError, TypeError, ValueError, ZeroDivisionError, IndexError):
        return None


def _of_shape(node: ir.Node) -> Numbers | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    sizes: list[Size] = [size if isinstance(size, int) else str(size) for size in source.shape]
    if node.op_type == "Size":
        if any(isinstance(size, str) for size in sizes):
            return None
        return np.array(int(np.prod([int(size) for size in sizes])), dtype=object)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return np.array(sizes[start:end], dtype=object)


def _computed(node: ir.Node, inputs: list[Numbers]) -> Numbers | None:
    """The result of a node of known inputs; None where symbols leave it open.

    Raises:
        TypeError: a symbol where only numbers can be computed with.
    """
    kind = node.op_type
    if kind in _MOVING:
        first = 1 if kind != "Concat" else len(inputs)
        attributes = {name: item.value for name, item in node.attributes.items()}
        rest = [_plain(item) for item in inputs[first:]]
        return apply(kind, [*inputs[:first], *rest], attributes)
    if kind == "Cast":
        return inputs[0]
    if kind == "ConstantOfShape":
        return _filled(node, _plain(inputs[0]))
    if kind == "Range":
        return np.arange(*(int(_plain(item)) for item in inputs)).astype(object)
    if kind == "Where":
        test, yes, no = np.broadcast_arrays(*inputs)
        return np.where(_plain(test) != 0, yes, no)
    if kind in _ARITHMETIC and len(inputs) == 2:
        return _pairs(kind, *inputs)
    if kind in ("Neg", "Abs", "Not", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "CumSum"):
        attributes = {name: item.value for name, item in node.attributes.items()}
        return apply(kind, [_plain(item) for item in inputs], attributes).astype(object)
    return None


def _filled(node: ir.Node, shape: npt.NDArray[np.int64]) -> Numbers | None:
    """A ConstantOfShape of integers, which arithmetic on shapes uses; None where it holds data."""
    tensor = node.attributes.get_tensor("value")
    if tensor is None or tensor.dtype != ir.DataType.INT64 or np.prod(shape) > _MAX_NUMBERS:
        return None
    return np.full(shape, tensor.numpy().item(), dtype=object)


def _plain(array: Numbers) -> npt.NDArray[np.int64]:
    """Numbers without symbols. Raises TypeError when there is one."""
    if any(isinstance(item, str) for item in array.reshape(-1)):
        raise TypeError("a size is free")
    return array.astype(np.int64)


def _pairs(kind: str, left: Numbers, right: Numbers) -> Numbers | None:
    a, b = np.broadcast_arrays(left, right)
    out = np.empty(a.shape, dtype=object)
    for place in np.ndindex(a.shape):
        first: Any = a[place]
        second: Any = b[place]
        result = _pair(kind, first, second)
        if result is None:
            return None
        out[place] = result
    return out


def _pair(kind: str, a: Size, b: Size) -> Size | None:
    if not isinstance(a, str) and not isinstance(b, str):
        return int(_ARITHMETIC[kind](a, b))
    if kind == "Equal":  # a free size is at least 1
        other = b if isinstance(a, str) else a
        if a == b:
            return 1
        return 0 if not isinstance(other, str) and other < 1 else None
    if kind in ("Mul", "Div") and (scaled := _scaled(kind, a, b)) is not None:
        return scaled
    neutral = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}.get(kind)
    if b == neutral and neutral is not None:
        return a
    if a == neutral and kind in ("Add", "Mul"):
        return b
    if a == b and kind in ("Max", "Min"):
        return a
    return None


def _scaled(kind: str, a: Size, b: Size) -> Size | None:
    """A free size times a number, such as "2*batch", or a whole part of one."""
    if kind == "Mul" and isinstance(a, str) != isinstance(b, str):
        times, size = (b, a) if isinstance(a, str) else (a, b)
        count, name = factors_of_size(str(size))
        return _product(count * int(times), name)
    if kind == "Div" and isinstance(a, str):
        count, name = factors_of_size(a)
        if isinstance(b, str):
            other, same = factors_of_size(b)
            return count // other if same == name and count % other == 0 else None
        return _product(count // b, name) if b > 0 and count % b == 0 else None
    return None


def quotient_of_sizes(sizes: Sequence[Size], divisors: Sequence[Size]) -> Size | None:
    """A product of sizes divided by others; None where it is no whole number of a free size."""
    result: Size | None = 1
    for kind, factors in (("Mul", sizes), ("Div", divisors)):
        for factor in factors:
            result = None if result is None else _pair(kind, result, factor)
    return result


def factors_of_size(size: str) -> tuple[int, str]:
    """The number and the name of a free size: ("2*batch") is (2, "batch"), and "batch" (1, it)."""
    number, star, name = size.partition("*")
    return (int(number), name) if star and number.isdigit() else (1, size)


def _product(count: int, name: str) -> Size | None:
    if count < 1:
        return None
    return name if count == 1 else f"{count}*{name}"
