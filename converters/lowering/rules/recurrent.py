"""Lowering rules of recurrent layers, unrolled: GRU, LSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.free_sizes import request_rows
from ondevice.converters.lowering.operands import (
    constant_array,
    first_input,
    optional_input,
    shape_of,
)
from ondevice.converters.lowering.transposes import swap_leading_axes
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]

_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
# Operators whose result is zero when their input is.
_KEEPING_ZERO = {
    "Expand", "ExpandRows", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class _Direction:
    """One direction of a recurrent layer with `gates` gates of `hidden` units.

    Attributes:
        number: among the directions of the node.
        weights: [gates * hidden, features]. recurrence: [gates * hidden, hidden].
        input_bias, state_bias: [gates * hidden].
        hidden: number of units.
        reset_last: whether a GRU's reset gate multiplies the product with the state
            (linear_before_reset), not the state.
    """

    number: int
    weights: Array
    recurrence: Array
    input_bias: Array
    state_bias: Array
    hidden: int
    reset_last: bool


def _gru(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    if optional_input(node, 4) is not None:
        raise UnsupportedError("it has sequence_lens, a length for every row")
    return _recurrent(builder, node)


def _lstm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    if optional_input(node, 4) is not None or optional_input(node, 7) is not None:
        raise UnsupportedError("it has peepholes, or sequence_lens, a length for every row")
    return _recurrent(builder, node)


def _recurrent(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """ONNX's recurrent layer over [steps, batch, features], unrolled, direction by direction.

    Returns:
        All states [steps, directions, batch, hidden], the last ones [directions, batch, hidden],
        and the last cells of an LSTM.
    """
    directions, steps = _directions(node)
    x = swap_leading_axes(builder, node.inputs[0])
    direction_states, last_states, last_cells = [], [], []
    for direction in directions:
        order = list(range(steps))
        if node.attributes.get_string("direction", "forward") == "reverse" or direction.number == 1:
            order.reverse()
        states, cell = _unrolled(builder, node, x, direction, order)
        stacked = [builder.op("Unsqueeze", states[i], builder.ints(1)) for i in range(steps)]
        joined = builder.op("Concat", *stacked, axis=1)
        direction_states.append(builder.op("Unsqueeze", joined, builder.ints(2)))
        last_states.append(builder.op("Unsqueeze", states[order[-1]], builder.ints(1)))
        if cell is not None:
            last_cells.append(builder.op("Unsqueeze", cell, builder.ints(1)))
    # rows stay the first axis until the end: ONNX has the steps, or the directions, there
    all_states = _joined(builder, direction_states, 2)
    results = [builder.op("Transpose", all_states, perm=[1, 2, 0, 3])]
    for parts in (last_states, last_cells) if last_cells else (last_states,):
        results.append(builder.op("Transpose", _joined(builder, parts, 1), perm=[1, 0, 2]))
    return results[: len(node.outputs)]


def _directions(node: ir.Node) -> tuple[list[_Direction], int]:
    """The directions of a layer, and its number of steps.

    Raises:
        UnsupportedError: a free number of steps, weights that are not constant, or a form of the
            layer that torch does not export.
    """
    attributes = node.attributes
    weights, recurrence, biases = (constant_array(optional_input(node, i)) for i in (1, 2, 3))
    steps, hidden = shape_of(first_input(node))[0], attributes.get_int("hidden_size", 0)
    if isinstance(steps, str):
        raise UnsupportedError(f"its number of steps is free ({steps})")
    if weights is None or recurrence is None:
        raise UnsupportedError("its weights are not constant")
    count = weights.shape[0]
    activations = attributes.get_strings("activations", []) if "activations" in attributes else []
    is_default = list(activations) in ([], _ACTIVATIONS[node.op_type] * count)
    if "clip" in attributes or attributes.get_int("layout", 0) != 0 or not is_default:
        raise UnsupportedError("it has a clip, a layout or activations other than the default")
    if biases is None:
        biases = np.zeros((count, 2 * weights.shape[1]), np.float32)
    biases = biases.reshape(count, 2, -1)  # of the products with the input, and with the state
    reset_last = attributes.get_int("linear_before_reset", 0) != 0
    directions = [
        _Direction(d, weights[d], recurrence[d], biases[d, 0], biases[d, 1], hidden, reset_last)
        for d in range(count)
    ]
    return directions, steps


def _unrolled(
    builder: NodeBuilder, node: ir.Node, x: ir.Value, direction: _Direction, order: list[int]
) -> tuple[dict[int, ir.Value], ir.Value | None]:
    """The states [batch, hidden] of one direction by their step, and the last cell of an LSTM."""
    state = _initial_state(builder, optional_input(node, 5), direction)
    cell = None
    if node.op_type == "LSTM":
        cell = _initial_state(builder, optional_input(node, 6), direction)
    weights = builder.constant(direction.weights.T)
    states: dict[int, ir.Value] = {}
    for step in order:
        features = builder.op("Squeeze", builder.slice(x, 1, step, step + 1), builder.ints(1))
        product = builder.op("MatMul", features, weights)
        inputs = builder.op("Add", product, builder.constant(direction.input_bias))
        if cell is None:
            state = _gru_step(builder, inputs, state, direction)
        else:
            state, cell = _lstm_step(builder, inputs, state, cell, direction)
        states[step] = state
    return states, cell


def _joined(builder: NodeBuilder, parts: list[ir.Value], axis: int) -> ir.Value:
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=axis)


def _initial_state(
    builder: NodeBuilder, states: ir.Value | None, direction: _Direction
) -> ir.Value:
    """The state [batch, hidden] before the first step; zeros where none is given."""
    if states is None or _is_zero(states):
        zeros = builder.constant(np.zeros((1, direction.hidden)))
        return builder.op("ExpandRows", zeros, request_rows(builder))
    rows_first = swap_leading_axes(builder, states)
    number = direction.number
    return builder.op("Squeeze", builder.slice(rows_first, 1, number, number + 1), builder.ints(1))


def _is_zero(value: ir.Value | None) -> bool:
    """Whether a value is an expanded zero, or a part of one: torch's initial states."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _KEEPING_ZERO:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    array = constant_array(value)
    return array is not None and not array.any()


def _gru_step(
    builder: NodeBuilder, inputs: ir.Value, state: ir.Value, direction: _Direction
) -> ir.Value:
    """The next state [batch, hidden], from the input's share of the gates [batch, 3 * hidden]."""
    n = direction.hidden

    def from_state(value: ir.Value, part: slice) -> ir.Value:
        product = builder.op("MatMul", value, builder.constant(direction.recurrence[part].T))
        return builder.op("Add", product, builder.constant(direction.state_bias[part]))

    # one product for all gates where the reset gate waits: its weights are read once
    shares = from_state(state, slice(0, (3 if direction.reset_last else 2) * n))
    first = builder.slice(shares, 1, 0, 2 * n) if direction.reset_last else shares
    gates = builder.op("Sigmoid", builder.op("Add", builder.slice(inputs, 1, 0, 2 * n), first))
    update, reset = builder.slice(gates, 1, 0, n), builder.slice(gates, 1, n, 2 * n)
    if direction.reset_last:
        memory = builder.op("Mul", reset, builder.slice(shares, 1, 2 * n, 3 * n))
    else:
        memory = from_state(builder.op("Mul", reset, state), slice(2 * n, 3 * n))
    candidate = builder.op(
        "Tanh", builder.op("Add", builder.slice(inputs, 1, 2 * n, 3 * n), memory)
    )
    change = builder.op("Mul", update, builder.op("Sub", state, candidate))
    return builder.op("Add", candidate, change)


def _lstm_step(
    builder: NodeBuilder,
    inputs: ir.Value,
    state: ir.Value,
    cell: ir.Value,
    direction: _Direction,
) -> tuple[ir.Value, ir.Value]:
    """The next state and cell [batch, hidden]; the gates are input, output, forget, cell."""
    n = direction.hidden
    product = builder.op("MatMul", state, builder.constant(direction.recurrence.T))
    product = builder.op("Add", product, builder.constant(direction.state_bias))
    total = builder.op("Add", inputs, product)
    gates = [builder.slice(total, 1, i * n, (i + 1) * n) for i in range(4)]
    input_gate, output_gate, forget_gate = (builder.op("Sigmoid", gates[i]) for i in (0, 1, 2))
    remembered = builder.op("Mul", forget_gate, cell)
    added = builder.op("Mul", input_gate, builder.op("Tanh", gates[3]))
    cell = builder.op("Add", remembered, added)
    return builder.op("Mul", output_gate, builder.op("Tanh", cell)), cell


RULES: dict[str, Rule] = {
    "GRU": _gru,
    "LSTM": _lstm,
}
