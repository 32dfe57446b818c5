"""Which values of a graph are one-hot vectors, and of which IDs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ondevice.converters.source.selections import is_column, without_last_axis


@dataclass(frozen=True)
class OneHot:
    """A value [*ids.shape, count] that is 1 at each ID's place and 0 elsewhere.

    Attributes:
        ids: the IDs.
        count: how many places there are.
        zero_beyond: whether an ID out of range yields zeros; else the source refuses it.
        column: whether the IDs have a last axis of size 1, whose place the vectors take.
    """

    ids: ir.Value
    count: int
    zero_beyond: bool
    column: bool = False


def one_hot_ids(value: ir.Value | None) -> OneHot | None:
    """The IDs whose one-hot vectors a value holds; None where it holds something else.

    `torch.nn.functional.one_hot` exports to a comparison that is cast to int64; it refuses IDs out
    of range, which its graph no longer does.
    """
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Identity":
        return one_hot_ids(node.inputs[0])
    if node.op_type == "Cast":
        vectors = one_hot_ids(node.inputs[0])
        refused = node.attributes.get_int("to", 0) == int(ir.DataType.INT64)
        return replace(vectors, zero_beyond=False) if vectors is not None and refused else vectors
    if node.op_type == "Where" and _is_filled(node.inputs[1], 1) and _is_filled(node.inputs[2], 0):
        return one_hot_ids(node.inputs[0])
    if node.op_type == "Equal":
        return _compared(*node.inputs) or _compared(*reversed(node.inputs))
    return _operator(node) if node.op_type == "OneHot" else None


def _compared(ids: ir.Value | None, places: ir.Value | None) -> OneHot | None:
    """A comparison of IDs [..., 1] with 0, 1, 2, ..."""
    source = without_last_axis(ids)
    column = source is None and is_column(ids)
    source = ids if column else source
    if source is None or places is None or places.const_value is None:
        return None
    numbers = places.const_value.numpy()
    count = numbers.size
    if numbers.ndim < 1 or numbers.shape[-1] != count or source.shape is None:
        return None
    rank = len(source.shape) + (not column)
    if numbers.ndim > rank or not np.array_equal(numbers.ravel(), np.arange(count)):
        return None
    return OneHot(source, count, zero_beyond=True, column=column)


def _operator(node: ir.Node) -> OneHot | None:
    """ONNX's operator along the last axis; a negative ID counts from the end: it is refused."""
    ids, depth, values = node.inputs
    if ids is None or ids.shape is None or depth is None or values is None:
        return None
    if depth.const_value is None or values.const_value is None:
        return None
    if node.attributes.get_int("axis", -1) not in (-1, len(ids.shape)):
        return None
    if values.const_value.numpy().tolist() != [0, 1]:
        return None
    return OneHot(ids, int(depth.const_value.numpy().reshape(-1)[0]), zero_beyond=False)


def _is_filled(value: ir.Value | None, number: int) -> bool:
    held = None if value is None else value.const_value
    return held is not None and bool((held.numpy() == number).all())
