"""Integers of 8 and 16 bits that a graph computes with become int64, and wrap around as they did.

No target computes with them: the native format has int64 only, and ONNX Runtime and TFLite lack
most kernels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.source.fold import constant

_BITS = {ir.DataType.UINT8: 8, ir.DataType.INT8: 8, ir.DataType.UINT16: 16, ir.DataType.INT16: 16}
_SIGNED = (ir.DataType.INT8, ir.DataType.INT16)
_WRAPPING = {"Abs", "Add", "CumSum", "Div", "Mul", "Neg", "Pow", "ReduceProd", "ReduceSum", "Sub"}
_COMPARING = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
_MOVING = {
    "Concat", "Expand", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_CHOOSING = {"Clip", "Max", "Min", "Mod", "ReduceMax", "ReduceMin", "Relu", "Sign", "Where"}
_WIDENED = _WRAPPING | _COMPARING | _MOVING | _CHOOSING | {"Cast"}


def widen_integers(model: ir.Model) -> ir.Model:
    """A model that computes in int64 where the given one computes in 8 or 16 bits; that one stays.

    Inputs keep their types, so that the conversion knows which IDs they can hold; a result beyond
    its type is brought back into it by a remainder. Operators that are not known here keep their
    types, read what they read before, and the target that lacks them says so.
    """
    model = model.clone()
    nodes = list(model.graph)
    types = {value: value.dtype for node in nodes for value in node.outputs}
    wide = {
        value: _Widening(model.graph, value, None).cast_to_int64(value)
        for value in model.graph.inputs
        if value.dtype in _BITS and any(_computes(user) for user, _ in value.uses())
    }
    for node in nodes:
        if _widens(node) and node.inputs[0] is not None and node.inputs[0].is_graph_input():
            continue
        reads_narrow = any(value in wide for value in node.inputs if value is not None)
        if _computes(node) and (reads_narrow or node.op_type not in _MOVING):
            reads_narrow = _widen_what_is_read(model.graph, node, wide) or reads_narrow
        makes_narrow = node.op_type == "Cast" and node.outputs[0].dtype in _BITS
        if node.domain or node.op_type not in _WIDENED or not (reads_narrow or makes_narrow):
            continue
        source, (out,) = node.inputs[0], node.outputs
        if makes_narrow and not reads_narrow and source is not None:
            if source.const_value is None:
                widening = _Widening(model.graph, out, node)
                wide[out] = widening.wrapped(widening.cast_to_int64(source), out.dtype)
        else:
            _widen(model.graph, node, wide)
    for value, numbers in wide.items():
        if value.dtype != types.get(value, value.dtype):
            _keep_type_elsewhere(model.graph, value, numbers, types[value])
    passes.RemoveUnusedNodesPass()(model)
    return model


def _computes(node: ir.Node) -> bool:
    """Whether a node does more than to widen what it reads."""
    return not node.domain and node.op_type in _WIDENED and not _widens(node)


def _widens(node: ir.Node) -> bool:
    return node.op_type == "Cast" and not node.domain and node.outputs[0].dtype not in _BITS


def _widen_what_is_read(graph: ir.Graph, node: ir.Node, wide: dict[ir.Value, ir.Value]) -> bool:
    """Let a node find int64 where a node that keeps its types made narrow integers, such as rows
    of a narrow table; whether there were any.
    """
    found = False
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if value is None or producer is None or value in wide or value.dtype not in _BITS:
            continue
        wide[value] = _Widening(graph, value, producer).cast_to_int64(value)
        found = True
    return found


def _keep_type_elsewhere(
    graph: ir.Graph, value: ir.Value, numbers: ir.Value, narrow: ir.DataType | None
) -> None:
    """Give the narrow type to nodes that keep their types, and the numbers to the outputs."""
    keeping = [
        (node, place) for node, place in value.uses() if node.domain or node.op_type not in _WIDENED
    ]
    producer = numbers.producer()
    if keeping and narrow is not None and producer is not None:
        name = f"{value.name}.narrow"
        back = ir.node("Cast", [numbers], attributes={"to": int(narrow)}, name=name)
        back.outputs[0].name = back.name
        back.outputs[0].shape, back.outputs[0].dtype = value.shape, narrow
        back.metadata_props.update(producer.metadata_props)
        graph.insert_after(producer, back)
        for node, place in keeping:
            node.replace_input_with(place, back.outputs[0])
    if numbers is not value and value.is_graph_output():
        numbers.name, value.name = value.name, f"{value.name}.whole"
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = numbers


def _widen(graph: ir.Graph, node: ir.Node, wide: dict[ir.Value, ir.Value]) -> None:
    """Let a node read int64 where it read narrow integers, and wrap what it gives."""
    widening = _Widening(graph, node.outputs[0], node)
    for place, value in enumerate(node.inputs):
        if value is not None and value in wide:
            node.replace_input_with(place, wide[value])
        elif value is not None and value.dtype in _BITS and value.const_value is not None:
            array = value.const_value.numpy().astype(np.int64)
            node.replace_input_with(place, constant(graph, f"{value.name}.int64", array))
    source, (out,) = node.inputs[0], node.outputs
    whole = node.op_type == "Cast" and out.dtype == ir.DataType.INT64
    if whole and source is not None and not out.is_graph_output():
        ir.convenience.replace_all_uses_with(out, source)
        return
    narrow = out.dtype
    if narrow not in _BITS:
        return
    out.dtype = ir.DataType.INT64
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.INT64))
    wraps = node.op_type in _WRAPPING or node.op_type == "Cast"
    wide[out] = widening.wrapped(out, narrow) if wraps else out


class _Widening:
    """Adds nodes that widen one value behind its node, or in front of all for an input."""

    def __init__(self, graph: ir.Graph, value: ir.Value, node: ir.Node | None) -> None:
        self._graph, self._name_of, self._last, self._count = graph, str(value.name), node, 0

    def cast_to_int64(self, value: ir.Value) -> ir.Value:
        """The numbers of a value as int64."""
        if value.dtype == ir.DataType.INT64:
            return value
        return self._op("Cast", value, to=int(ir.DataType.INT64))

    def wrapped(self, value: ir.Value, narrow: ir.DataType | None) -> ir.Value:
        """An int64 value with the numbers that its low bits are in a narrow type."""
        if narrow is None:
            return value
        count = 2 ** _BITS[narrow]
        if narrow not in _SIGNED:
            return self._op("Mod", value, self._number(count))
        moved = self._op("Add", value, self._number(count // 2))
        return self._op(
            "Sub", self._op("Mod", moved, self._number(count)), self._number(count // 2)
        )

    def _number(self, number: int) -> ir.Value:
        return constant(self._graph, f"{self._name()}.number", np.array(number, np.int64))

    def _name(self) -> str:
        self._count += 1
        return f"{self._name_of}.wide.{self._count}"

    def _op(self, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes=attributes, name=self._name())
        node.outputs[0].name = node.name
        node.outputs[0].shape, node.outputs[0].dtype = inputs[0].shape, ir.DataType.INT64
        if self._last is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            node.metadata_props.update(self._last.metadata_props)
            self._graph.insert_after(self._last, node)
        self._last = node
        return node.outputs[0]
