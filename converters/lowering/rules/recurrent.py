"""Lowering rules of recurrent layers, unrolled: GRU, LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.free_sizes import (
    request_rows,
)
from ondevice.converters.lowering.operands import (
    constant_array,
    first_input,
    optional_input,
    shape_of,
)
from ondevice.converters.lowering.transposes import (
    swap_leading_axes,
)
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]


def _gru(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """ONNX's GRU [steps, batch, features], one direction after the other, unrolled."""
    if optional_input(node, 4) is not None:
        raise UnsupportedError("a length for every row")
    return _recurrent(builder, node, 3)


def _lstm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    if optional_input(node, 4) is not None or optional_input(node, 7) is not None:
        raise UnsupportedError("peepholes, or a length for every row")
    return _recurrent(builder, node, 4)


def _recurrent(builder: NodeBuilder, node: ir.Node, gates: int) -> Outputs | None:
    attributes, x = node.attributes, first_input(node)
    weights, recurrence, biases = (constant_array(optional_input(node, i)) for i in (1, 2, 3))
    steps, hidden = shape_of(x)[0], attributes.get_int("hidden_size", 0)
    allowed = [["Sigmoid", "Tanh"], ["Sigmoid", "Tanh", "Tanh"]][gates == 4]
    listed = attributes.get_strings("activations", []) if "activations" in attributes else []
    if weights is None or recurrence is None or isinstance(steps, str):
        raise UnsupportedError(
            "a fixed number of steps and constant weights are needed"
        )
    directions = weights.shape[0]
    x = swap_leading_axes(builder, node.inputs[0])
    if (
        "clip" in attributes
        or attributes.get_int("layout", 0) != 0
        or list(listed)
        not in (
            [],
            allowed * directions,
        )
    ):
        raise UnsupportedError("clip, layout or other activations")
    if biases is None:
        biases = np.zeros((directions, 2 * gates * hidden), np.float32)
    linear = attributes.get_int("linear_before_reset", 0)
    _reversed_slice = attributes.get_string("direction", "forward")
    outputs, lasts, cells = [], [], []
    for d in range(directions):
        order = list(range(steps))
        if _reversed_slice == "reverse" or d == 1:
            order.reverse()
        bias = biases[d].reshape(2, gates * hidden)
        state = _initial(builder, optional_input(node, 5), d, hidden)
        cell = _initial(builder, optional_input(node, 6), d, hidden) if gates == 4 else None
        matrix = builder.constant(weights[d].T)
        found: dict[int, ir.Value] = {}
        for step in order:
            now = builder.op("Squeeze", builder.slice(x, 1, step, step + 1), builder.ints(1))
            inputs = builder.op("Add", builder.op("MatMul", now, matrix), builder.constant(bias[0]))
            if cell is None:
                state = _gru_step(builder, inputs, state, recurrence[d], bias[1], hidden, linear)
            else:
                state, cell = _lstm_step(
                    builder, inputs, state, cell, recurrence[d], bias[1], hidden
                )
            found[step] = state
        stacked = [builder.op("Unsqueeze", found[i], builder.ints(1)) for i in range(steps)]
        outputs.append(
            builder.op("Unsqueeze", builder.op("Concat", *stacked, axis=1), builder.ints(2))
        )
        lasts.append(builder.op("Unsqueeze", state, builder.ints(1)))
        if cell is not None:
            cells.append(builder.op("Unsqueeze", cell, builder.ints(1)))
    # rows stay the first axis until the end: ONNX has the steps, or the directions, there
    results = [builder.op("Transpose", _joined(builder, outputs, 2), perm=[1, 2, 0, 3])]
    for kept in (lasts, cells) if cells else (lasts,):
        results.append(builder.op("Transpose", _joined(builder, kept, 1), perm=[1, 0, 2]))
    return results[: len(node.outputs)]


def _joined(builder: NodeBuilder, parts: list[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=axis)


def _initial(builder: NodeBuilder, given: ir.Value | None, d: int, hidden: int) -> ir.Value:
    if given is None:
        return builder.op(
            "ExpandRows", builder.constant(np.zeros((1, hidden))), request_rows(builder)
        )
    if _is_zero(given):
        return _initial(builder, None, d, hidden)
    return builder.op(
        "Squeeze", builder.slice(swap_leading_axes(builder, given), 1, d, d + 1), builder.ints(1)
    )


# Operators that make zeros of zeros alone.
_KEEPING_ZERO = {
    "Expand", "ExpandRows", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def _is_zero(value: ir.Value | None) -> bool:
    """Whether a value is an expanded zero, or a part of one: torch's initial states."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _KEEPING_ZERO:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    array = constant_array(value)
    return array is not None and not array.any()


def _gru_step(
    builder: NodeBuilder,
    inputs: ir.Value,
    state: ir.Value,
    r: Array,
    bias: Array,
    n: int,
    linear: int,
) -> ir.Value:
    def from_state(value: ir.Value, part: slice) -> ir.Value:
        product = builder.op("MatMul", value, builder.constant(r[part].T))
        return builder.op("Add", product, builder.constant(bias[part]))

    gates = builder.op(
        "Add", builder.slice(inputs, 1, 0, 2 * n), from_state(state, slice(0, 2 * n))
    )
    gates = builder.op("Sigmoid", gates)
    update, reset = builder.slice(gates, 1, 0, n), builder.slice(gates, 1, n, 2 * n)
    rest = slice(2 * n, 3 * n)
    if linear:
        remembered = builder.op("Mul", reset, from_state(state, rest))
    else:
        remembered = from_state(builder.op("Mul", reset, state), rest)
    fresh = builder.op(
        "Tanh", builder.op("Add", builder.slice(inputs, 1, 2 * n, 3 * n), remembered)
    )
    return builder.op("Add", fresh, builder.op("Mul", update, builder.op("Sub", state, fresh)))


def _lstm_step(
    builder: NodeBuilder,
    inputs: ir.Value,
    state: ir.Value,
    cell: ir.Value,
    r: Array,
    bias: Array,
    n: int,
) -> tuple[ir.Value, ir.Value]:
    product = builder.op(
        "Add", builder.op("MatMul", state, builder.constant(r.T)), builder.constant(bias)
    )
    total = builder.op("Add", inputs, product)
    gate = [builder.slice(total, 1, i * n, (i + 1) * n) for i in range(4)]
    opened, emitted, forgotten = (builder.op("Sigmoid", gate[i]) for i in (0, 1, 2))
    kept = builder.op("Mul", forgotten, cell)
    cell = builder.op("Add", kept, builder.op("Mul", opened, builder.op("Tanh", gate[3])))
    return builder.op("Mul", emitted, builder.op("Tanh", cell)), cell


RULES: dict[str, Rule] = {
    "GRU": _gru,
    "LSTM": _lstm,
}
