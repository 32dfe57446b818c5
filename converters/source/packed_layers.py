"""Recurrent layers over packed sequences while a module is traced: each row ends at its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import rnn

from ondevice.converters.source.step_functions import StepFunctions
from ondevice.converters.source.step_rows import Rows, steps_of, tensor_of
from ondevice.converters.source.step_sizes import PackedLengths, StepSizes
from ondevice.errors import UnsupportedError

_CELLS: dict[str, Callable[..., Any]] = {
    "GRU": torch.gru,
    "LSTM": torch.lstm,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


def padded_or(forward: Callable[..., Any], functions: StepFunctions) -> Callable[..., Any]:
    """A recurrent layer's forward that takes packed sequences of padded steps too."""

    def either(part: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        if isinstance(input, rnn.PackedSequence) and isinstance(input.batch_sizes, StepSizes):
            return _run(part, input, hx, functions.lengths_of(input.batch_sizes))
        return forward(part, input, hx)

    return either


def _run(part: nn.RNNBase, packed: rnn.PackedSequence, given: Any, sizes: PackedLengths) -> Any:
    """A recurrent layer over padded steps; its last states are those at the lengths.

    Raises:
        UnsupportedError: an LSTM with projections.
    """
    if part.proj_size:
        raise UnsupportedError("LSTM with proj_size over a packed sequence; leave proj_size out")
    steps, lasts = steps_of(packed.data, sizes), []
    directions = 2 if part.bidirectional else 1
    for layer in range(part.num_layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            order = _reversed(sizes) if direction else None
            ordered = _taken(steps, order)
            states = _start(part, steps, given, place)
            output = _layer(part, ordered, states, place)
            lasts.append(_last(part, ordered, output, states, place, sizes))
            outputs.append(_taken(output, order))
        steps = torch.cat(outputs, dim=-1)
    last = [torch.stack(kind) for kind in zip(*lasts, strict=True)]
    data = tensor_of(Rows(sizes, sizes.every_step, whole=steps))
    returned = packed._replace(data=data)
    return returned, (tuple(last) if part.mode == "LSTM" else last[0])


def _start(part: nn.RNNBase, steps: torch.Tensor, given: Any, place: int) -> list[torch.Tensor]:
    """The states [batch, hidden] that one layer starts from in one direction."""
    if given is None:
        zeros = steps.new_zeros(steps.shape[0], part.hidden_size)
        return [zeros, zeros] if part.mode == "LSTM" else [zeros]
    return [kind[place] for kind in (given if part.mode == "LSTM" else [given])]


def _layer(
    part: nn.RNNBase, steps: torch.Tensor, states: list[torch.Tensor], place: int
) -> torch.Tensor:
    """The outputs [batch, steps, hidden] of one layer in one direction."""
    start = [state.unsqueeze(0) for state in states]
    hidden: Any = start if part.mode == "LSTM" else start[0]
    weights = part.all_weights[place]
    output: torch.Tensor = _CELLS[part.mode](
        steps, hidden, weights, part.bias, 1, 0.0, False, False, True
    )[0]
    return output


def _reversed(sizes: PackedLengths) -> torch.Tensor:
    """Indices [batch, steps] that turn each sequence round and leave its padding."""
    steps = torch.arange(sizes.steps)
    turned = sizes.lengths.unsqueeze(1) - 1 - steps
    return torch.where(turned >= 0, turned, steps)


def _taken(steps: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    if order is None:
        return steps
    return steps.gather(1, order.unsqueeze(-1).expand(-1, -1, steps.shape[-1]))


def _last(
    part: nn.RNNBase,
    steps: torch.Tensor,
    output: torch.Tensor,
    states: list[torch.Tensor],
    place: int,
    sizes: PackedLengths,
) -> list[torch.Tensor]:
    """The states [batch, hidden] after the last step of each sequence."""
    ends = (sizes.lengths - 1).clamp(min=0).reshape(-1, 1)
    last = _taken(output, ends).squeeze(1)
    if part.mode != "LSTM":
        return [last]
    # torch's layer has the cell's state after the padding only; where a module does not read it,
    # its steps are left out of the graph.
    into, within, *biases = part.all_weights[place]
    hidden, cell = states
    bias = sum(biases) if biases else 0.0
    for step in range(sizes.steps):
        gates = steps[:, step] @ into.T + hidden @ within.T + bias
        enter, forget, new, _ = gates.chunk(4, dim=-1)
        fresh = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden, running = output[:, step], (step < sizes.lengths).unsqueeze(1)
        cell = torch.where(running, fresh, cell)
    return [last, cell]
