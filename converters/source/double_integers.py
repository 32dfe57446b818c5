"""Which integer inputs a graph computes with in float64, where float32 would give other results.

Every target computes in float32, which holds integers up to 2**24. The difference of two times, or
the hour of one, needs more digits: a file would be right for most requests, and wrong for a few.
"""

from __future__ import annotations

import onnx_ir as ir

EXACT = 2**24  # float32 holds every integer up to here, and the quotients of these round down right
_KEY = "ondevice.exact_inputs"  # of a model: places of inputs, in ascending order

_DOUBLE = ir.DataType.DOUBLE
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
# Operators whose result is as large as what they read, and as exact.
_KEEPING = (
    "Abs", "Add", "Cast", "Clip", "Concat", "Expand", "Gather", "Identity", "Max", "Min", "Mul",
    "Neg", "ReduceMax", "ReduceMin", "Reshape", "Slice", "Squeeze", "Sub", "Transpose",
    "Unsqueeze", "Where",
)  # fmt: skip
# Operators that turn a small difference into a large one; Sub does so with two numbers.
_STEPS = (
    "Ceil", "Cos", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod",
    "Round", "Sin",
)  # fmt: skip

Places = frozenset[int]
_NONE: Places = frozenset()


def mark_exact_inputs(model: ir.Model) -> None:
    """Note in a model, before its float64 becomes float32, which inputs need float64."""
    if found := _exact_inputs(model.graph):
        model.metadata_props[_KEY] = " ".join(map(str, sorted(found)))


def exact_inputs(model: ir.Model) -> tuple[str, ...]:
    """Names of the inputs that `mark_exact_inputs` noted: legal below EXACT, of both signs."""
    places = map(int, model.metadata_props.get(_KEY, "").split())
    return tuple(str(model.graph.inputs[place].name) for place in places)


def _exact_inputs(graph: ir.Graph) -> Places:
    """Places of the integer inputs whose differences, quotients or steps are taken in float64."""
    sources: dict[ir.Value | None, Places] = {
        value: frozenset({place})
        for place, value in enumerate(graph.inputs)
        if value.dtype in _INTEGERS
    }
    found = _NONE
    for node in graph:
        read = [sources.get(value, _NONE) for value in node.inputs]
        together = frozenset().union(*read)
        if node.domain or not together:
            continue
        if _needs_float64(node, read):
            found |= together
        kept = node.op_type in _KEEPING or (node.op_type == "Div" and _is_double(node.inputs[0]))
        if kept and node.outputs[0].dtype in (*_INTEGERS, _DOUBLE):
            sources[node.outputs[0]] = together
    return found


def _needs_float64(node: ir.Node, read: list[Places]) -> bool:
    """Whether a node reads numbers in float64 that float32 does not tell apart."""
    doubles = sum(
        bool(places) and _is_double(value) for value, places in zip(node.inputs, read, strict=True)
    )
    if node.op_type == "Cast":
        return bool(doubles) and node.outputs[0].dtype in _INTEGERS
    return doubles == 2 if node.op_type == "Sub" else bool(doubles) and node.op_type in _STEPS


def _is_double(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is _DOUBLE
