"""Packed sequences that stay padded while a module is traced: recurrent layers end at each length.

`pack_padded_sequence` orders rows by length and lays their steps out one behind the other: sizes
that depend on values, which no graph can have. A recurrent layer over the padded steps computes the
same outputs up to the length of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import rnn
from torch.overrides import TorchFunctionMode

from ondevice.errors import UnsupportedError

_CELLS: dict[str, Callable[..., Any]] = {
    "GRU": torch.gru,
    "LSTM": torch.lstm,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


@contextmanager
def packed_sequences() -> Iterator[None]:
    """Let packed sequences hold padded steps [batch, steps, ...] inside the block."""
    recurrent: tuple[Any, ...] = (nn.GRU, nn.LSTM, nn.RNN)
    forwards = [part.forward for part in recurrent]
    functions: Any = rnn
    initial = functions._packed_sequence_init
    functions._packed_sequence_init = _unordered
    for part, forward in zip(recurrent, forwards, strict=True):
        part.forward = _padded_or(forward)
    try:
        with _Packing():
            yield
    finally:
        functions._packed_sequence_init = initial
        for part, forward in zip(recurrent, forwards, strict=True):
            part.forward = forward


class _Lengths:
    """What a packed sequence of padded steps has for `batch_sizes`.

    Attributes:
        lengths: int64 [batch].
        steps: number of padded steps.
    """

    device = torch.device("cpu")

    def __init__(self, lengths: torch.Tensor, steps: int) -> None:
        self.lengths, self.steps = lengths, steps

    def size(self, axis: int) -> int:
        """The number of steps, for axis 0."""
        return self.steps

    def within(self, rank: int) -> torch.Tensor:
        """Which steps are no padding: bool [batch, steps, 1, ...] of a rank."""
        found = torch.arange(self.steps) < self.lengths.unsqueeze(1)
        return found.reshape(-1, self.steps, *[1] * (rank - 2))

    @classmethod
    def __torch_function__(cls, *_: Any) -> Any:
        """Lets torch's functions take it as a tensor; `_Packing` answers them."""
        return NotImplemented


def _unordered(data: Any, batch_sizes: Any, *_: Any) -> rnn.PackedSequence:
    return rnn.PackedSequence(data, batch_sizes)


class _Packing(TorchFunctionMode):
    """Packs without ordering: remembers of what pack_padded_sequence has ordered rows."""

    def __init__(self) -> None:
        super().__init__()
        self._ordered: list[tuple[torch.Tensor, torch.Tensor]] = []  # result, what it was
        self._orders: list[torch.Tensor] = []

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function; pack and pad sequences as padded steps."""
        if function is torch._pack_padded_sequence:
            return self._pack(*args)
        if function is torch._pad_packed_sequence and isinstance(args[1], _Lengths):
            return _pad(*args)
        if function is torch.Tensor.to and self._is_order(args[0]):
            return args[0]
        result = function(*args, **(kwargs or {}))
        if function is torch.sort and args[0].dim() == 1:
            self._ordered.append((result.values, args[0]))
            self._orders.append(result.indices)
        if function is torch.Tensor.index_select and self._is_order(args[-1]):
            self._ordered.append((result, args[0]))
        return result

    def _is_order(self, tensor: Any) -> bool:
        return any(tensor is order for order in self._orders)

    def _original(self, tensor: torch.Tensor) -> torch.Tensor:
        return next((was for result, was in self._ordered if result is tensor), tensor)

    def _pack(self, input: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> Any:
        padded = self._original(input)
        padded = padded if batch_first else padded.transpose(0, 1)
        return padded, _Lengths(self._original(lengths), padded.shape[1])


def _pad(
    padded: torch.Tensor, sizes: _Lengths, batch_first: bool, value: float, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded steps and lengths, as pad_packed_sequence returns them."""
    filled = torch.where(sizes.within(padded.dim()), padded, value)
    if steps > sizes.steps:
        behind = filled.new_full((), value).expand(
            filled.shape[0], steps - sizes.steps, *filled.shape[2:]
        )
        filled = torch.cat([filled, behind], dim=1)
    return filled if batch_first else filled.transpose(0, 1), sizes.lengths


def _padded_or(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer's forward that takes packed sequences of padded steps too."""

    def either(part: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        if isinstance(input, rnn.PackedSequence) and isinstance(input.batch_sizes, _Lengths):
            return _run(part, input, hx)
        return forward(part, input, hx)

    return either


def _run(part: nn.RNNBase, packed: rnn.PackedSequence, given: Any) -> Any:
    """A recurrent layer over padded steps; its last states are those at the lengths.

    Raises:
        UnsupportedError: an LSTM with projections.
    """
    if part.proj_size:
        raise UnsupportedError("LSTM with proj_size over a packed sequence; leave proj_size out")
    sizes: Any = packed.batch_sizes
    steps, lasts = packed.data, []
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
    returned = rnn.PackedSequence(steps, sizes)
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


def _reversed(sizes: _Lengths) -> torch.Tensor:
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
    sizes: _Lengths,
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
