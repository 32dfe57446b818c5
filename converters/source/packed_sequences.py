"""Packed sequences that stay padded while a module is traced: each row ends at its length.

`pack_padded_sequence` orders rows by length and lays their steps out one behind the other: sizes
that depend on values, which no graph can have. Recurrent layers over the padded steps compute the
same outputs up to the length of each row, and so do loops over `batch_sizes` that compute all rows
at every step. A row alone in its batch stays in its place: no rows are ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, partialmethod
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ondevice.converters.source.fixed_rows import users_place
from ondevice.converters.source.packed_layers import padded_or
from ondevice.converters.source.step_functions import StepFunctions
from ondevice.converters.source.step_rows import Rows, StepRows, steps_of, tensor_of
from ondevice.converters.source.step_sizes import (
    PackedLengths,
    StepSizes,
    batch_sizes_of,
    is_count,
    refused,
    step_sizes,
)
from ondevice.errors import UnsupportedError


@contextmanager
def packed_sequences(module: nn.Module) -> Iterator[None]:
    """Let packed sequences hold padded steps [batch, steps, ...] inside the block."""
    packing = _Packing()
    recurrent: tuple[Any, ...] = (nn.GRU, nn.LSTM, nn.RNN)
    forwards = [part.forward for part in recurrent]
    for part, forward in zip(recurrent, forwards, strict=True):
        part.forward = padded_or(forward, packing.functions)
    traced: tuple[Any, ...] = (FakeTensor, FunctionalTensor)
    lists = [kind.tolist for kind in traced]  # which no mode sees
    for kind, listed in zip(traced, lists, strict=True):
        kind.tolist = partialmethod(_listed_or, packing, listed)
    begun = module.register_forward_pre_hook(packing.begin)
    ended = module.register_forward_hook(packing.end)
    try:
        with packing:
            yield
    finally:
        for kind, listed in zip(traced, lists, strict=True):
            kind.tolist = listed
        begun.remove()
        ended.remove()
        for part, forward in zip(recurrent, forwards, strict=True):
            part.forward = forward


def _listed_or(tensor: torch.Tensor, packing: _Packing, listed: Callable[..., Any]) -> Any:
    """The values of a tensor in Python, as `listed` has them where they are no lengths."""
    found = packing.listed(tensor)
    return listed(tensor) if found is NotImplemented else found


class _LengthList:
    """What `lengths.tolist()` and `lengths.numpy()` return: to be packed with, not to be read."""

    def __init__(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths

    def _unread(self, *_: Any) -> Any:
        place = users_place()
        raise UnsupportedError(
            f"integers of all rows are read in Python{f' (at {place})' if place else ''}, which a "
            "graph cannot do; compute with the tensor, and give pack_padded_sequence the tensor "
            "of lengths"
        )

    __iter__ = __getitem__ = __len__ = __array__ = __bool__ = __contains__ = _unread
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __add__ = __sub__ = __mul__ = _unread
    __hash__ = None  # type: ignore[assignment]


class _Packing(TorchFunctionMode):
    """Packs without ordering: takes an order of the batch by length as none."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = StepFunctions()
        self._orders: list[torch.Tensor] = []
        self._numbered: list[torch.Tensor] = []  # 0, 1, 2, ... of the rows
        self._running = False
        self._special: dict[Any, Callable[..., Any]] = {
            torch._pack_padded_sequence: self._pack,
            torch._pad_packed_sequence: self._pad,
            **dict.fromkeys((torch.sort, torch.Tensor.sort), self._sort),
            **dict.fromkeys((torch.argsort, torch.Tensor.argsort), self._argsort),
            **dict.fromkeys((torch.index_select, torch.Tensor.index_select), self._select),
            torch.Tensor.__getitem__: self._chosen,
            torch.Tensor.__setitem__: self._set,
            torch.Tensor.scatter_: self._scatter,
            torch.arange: self._numbers,
            **{copy: partial(self._copied, copy) for copy in _COPIES},
            torch.Tensor.numpy: lambda tensor, **_: self.listed(tensor),
            **dict.fromkeys((torch.tensor, torch.as_tensor), self._made),
        }

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function; pack and pad sequences as padded steps."""
        kwargs = dict(kwargs or {})
        if not self._running:
            return function(*args, **kwargs)
        special = self._special.get(function)
        if special is not None:
            found = special(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if self.functions.known:
            found = self._of_steps(function, args, kwargs)
            if found is not NotImplemented:
                return found
        return function(*args, **kwargs)

    def _of_steps(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function of rows of steps or of their numbers returns."""
        tensors = [
            leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        ]
        sizes = [leaf for leaf in tensors if isinstance(leaf, StepSizes)]
        several = any(leaf.free or len(leaf.counts) > 1 for leaf in sizes)
        if several or (len(sizes) == len(tensors) > 0 and function not in _MAKERS):
            return self.functions.of_sizes(function, args, kwargs)
        return self.functions.answer(function, args, kwargs)

    def begin(self, *_: Any) -> None:
        """Forget what an earlier call of the module has packed."""
        self.functions.known.clear()
        self._orders.clear()
        self._numbered.clear()
        self._running = True

    def end(self, _: nn.Module, __: Any, returned: Any) -> None:
        """Check what the module returns."""
        self._running = False
        if any(isinstance(leaf, StepRows | StepSizes) for leaf in pytree.tree_leaves(returned)):
            raise refused(
                "the module returns rows of its steps, whose number depends on the lengths; pad "
                "it first (pad_packed_sequence)"
            )

    # Packing and padding

    def _pack(self, input: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> Any:
        padded = input if batch_first else input.transpose(0, 1)
        of = PackedLengths(lengths, padded.shape[1], len(self.functions.known))
        self.functions.known.append(of)
        data = tensor_of(Rows(of, of.every_step, whole=padded))
        return data, batch_sizes_of(of)

    def _pad(
        self, data: torch.Tensor, sizes: Any, batch_first: bool, value: float, steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded steps and lengths, as pad_packed_sequence returns them."""
        of = self.functions.lengths_of(sizes)
        padded = steps_of(data, of)
        filled = torch.where(of.within(padded.dim()), padded, value)
        if steps > of.steps:
            behind = filled.new_full((), value).expand(
                filled.shape[0], steps - of.steps, *filled.shape[2:]
            )
            filled = torch.cat([filled, behind], dim=1)
        return filled if batch_first else filled.transpose(0, 1), of.lengths

    # Orders of the batch

    def _is_order(self, tensor: Any) -> bool:
        return any(tensor is order for order in self._orders)

    def _order(self, rows: Any) -> torch.Tensor:
        self._orders.append(torch.arange(rows))
        return self._orders[-1]

    def _sort(self, input: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Lengths, or an order, sorted over the batch: as they are."""
        if not _is_vector(input):
            return NotImplemented
        return torch.return_types.sort((input.clone(), self._order(input.shape[0])))

    def _argsort(self, input: torch.Tensor, *_: Any, **__: Any) -> Any:
        return self._order(input.shape[0]) if _is_vector(input) else NotImplemented

    def _select(self, input: torch.Tensor, dim: int, index: Any) -> Any:
        return input.clone() if self._is_order(index) else NotImplemented

    def _chosen(self, input: torch.Tensor, place: Any) -> Any:
        """input[order], or input[:, order]."""
        places = place if isinstance(place, tuple) else (place,)
        tensors = [part for part in places if isinstance(part, torch.Tensor)]
        if len(tensors) != 1 or not self._is_order(tensors[0]):
            return NotImplemented  # an order beside other tensors is the numbers of the rows
        others = tuple(slice(None) if self._is_order(part) else part for part in places)
        return input[others].clone()

    def _set(self, target: Any, place: Any, value: Any) -> Any:
        """target[order] = value: rows go back to their places."""
        if not self._is_order(place) or not isinstance(target, torch.Tensor):
            return NotImplemented
        self._note_inverse(target, value)
        target[:] = value
        return None

    def _scatter(self, target: torch.Tensor, dim: int, index: Any, source: Any) -> Any:
        """The inverse of an order, as torch computes it."""
        if not self._is_order(index):
            return NotImplemented
        self._note_inverse(target, source)
        return target.copy_(source)

    def _note_inverse(self, target: torch.Tensor, source: Any) -> None:
        """The numbers of rows at the places of an order are its inverse."""
        if any(source is numbers for numbers in (*self._numbered, *self._orders)):
            self._orders.append(target)

    def _numbers(self, *bounds: Any, **options: Any) -> Any:
        found = torch.arange(*bounds, **options)
        if bounds[:-1] in ((), (0,)) and isinstance(bounds[-1], torch.SymInt):
            self._numbered.append(found)
        return found

    def _copied(self, function: Any, input: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if not self._is_order(input):
            return NotImplemented
        copy = function(input, *rest, **options)
        if copy.dtype == input.dtype:
            self._orders.append(copy)
        return copy

    # Lengths in Python

    def listed(self, tensor: Any) -> Any:
        """An integer for every row in Python; NotImplemented for other tensors."""
        return _LengthList(tensor) if self._running and _is_vector(tensor) else NotImplemented

    def _made(self, data: Any, **options: Any) -> Any:
        """A tensor of a list of lengths, or of numbers of rows."""
        if isinstance(data, _LengthList):
            return data.lengths.to(options.get("dtype") or torch.int64)
        if isinstance(data, list | tuple) and any(is_count(leaf) for leaf in data):
            return step_sizes([int(leaf) for leaf in data])
        return NotImplemented


def _is_vector(tensor: Any) -> bool:
    """Whether it is an integer for every row of the traced batch."""
    return (
        isinstance(tensor, torch.Tensor)
        and not isinstance(tensor, StepRows | StepSizes)
        and tensor.dim() == 1
        and isinstance(tensor.shape[0], torch.SymInt)
        and tensor.dtype in (torch.int64, torch.int32)
    )


_MAKERS = (torch.zeros, torch.ones, torch.empty, torch.full)
_COPIES = (
    torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.long, torch.Tensor.clone,
    torch.Tensor.contiguous, torch.Tensor.detach,
)  # fmt: skip
