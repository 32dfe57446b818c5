"""Finds masks that choose one step of each row, such as the last, while a module is traced.

`states[torch.arange(steps) == (lengths - 1).unsqueeze(1)]` has one row for each of the batch; of a
mask whose values decide how many it has, a graph could not know that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

_KEPT = (  # functions that leave the numbers along the last axis different from one another
    "repeat", "expand", "expand_as", "unsqueeze", "view", "reshape", "to", "type", "long", "int",
    "float", "clone", "contiguous", "cpu", "add", "sub", "__add__", "__sub__", "__radd__",
    "__getitem__", "tile", "broadcast_to", "unsqueeze_", "type_as",
)  # fmt: skip
_EQUAL = ("eq", "__eq__")


class OneStepMasks:
    """Remembers of tensors how they were made."""

    def __init__(self) -> None:
        self._places: dict[int, torch.Tensor] = {}  # 0, 1, 2, ... along the last axis, or shifted
        self._one_hot: dict[int, torch.Tensor] = {}  # integers, 1 at one place of each row
        self._masks: dict[int, torch.Tensor] = {}

    def chooses_one(self, mask: Any) -> bool:
        """Whether a mask is known to choose one step of each row."""
        return id(mask) in self._masks

    def note(self, function: Any, args: tuple[Any, ...], result: Any) -> None:
        """Remember a result if it is one of these, or on the way to one."""
        if not isinstance(result, torch.Tensor):
            return
        name = getattr(function, "__name__", "")
        first = args[0] if args else None
        if result is first:  # it was written to
            for known in (self._places, self._one_hot, self._masks):
                known.pop(id(first), None)
            return
        if function is torch.arange or (name in _KEPT and self._keeps(first, args[1:], result)):
            self._places[id(result)] = result
        elif function is functional.one_hot and result.dim() == 2:
            self._one_hot[id(result)] = result
        elif id(first) in self._one_hot and args[1:] == (_LIMITS.get(name),):
            self._masks[id(result)] = result
        elif name in _EQUAL and result.dim() == 2 and len(args) == 2:
            self._compared(first, args[1], result)

    def _keeps(self, source: Any, others: tuple[Any, ...], result: torch.Tensor) -> bool:
        if id(source) not in self._places or result.dim() == 0 or result.dtype == torch.bool:
            return False
        if any(isinstance(part, torch.Tensor) and part.dim() for part in others):
            return False
        size: Any = result.shape[-1]
        return isinstance(size, int) and bool(size == source.shape[-1])

    def _compared(self, one: Any, other: Any, result: torch.Tensor) -> None:
        """Places that are compared with one number for each row."""
        for places, numbers in ((one, other), (other, one)):
            one_a_row = isinstance(numbers, torch.Tensor) and numbers.dim() == 2
            if id(places) in self._places and one_a_row and numbers.shape[-1] == 1:
                self._masks[id(result)] = result


_LIMITS = {"eq": 1, "__eq__": 1, "gt": 0, "__gt__": 0, "ne": 0, "__ne__": 0}
