"""A torch tensor that stands for a table and fetches the rows that an operator reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ondevice.codecs import FloatArray, IntArray

aten = torch.ops.aten


class RowTensor(torch.Tensor):
    """A float matrix [rows, dim] without storage, for running a module, not for training.

    Lookups (embedding, embedding_bag, index_select, indexing by one integer tensor) read the rows
    they name. Any other operator gets the whole table, made for it.
    """

    read: Callable[[IntArray], FloatArray]

    @staticmethod
    def __new__(
        cls: type[RowTensor],
        read: Callable[[IntArray], FloatArray],
        rows: int,
        dim: int,
        dtype: torch.dtype = torch.float32,
    ) -> RowTensor:
        """A tensor [rows, dim] whose rows int64 [n] -> float32 [n, dim] come from `read`."""
        make = torch.Tensor._make_wrapper_subclass
        made: RowTensor = make(cls, (rows, dim), dtype=dtype)
        made.read = read
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator on the rows that it reads."""
        kwargs = kwargs or {}
        if func in (aten.detach.default, aten.alias.default):
            return args[0]
        place = _INDEX_PLACES.get(func)
        if place is not None and isinstance(args[0], RowTensor):
            found = args[place]
            if func is aten.index.Tensor:
                found = found[0] if len(found) == 1 else None
            if func is aten.index_select.default and args[1] != 0:
                found = None
            if isinstance(found, torch.Tensor) and found.dtype in (torch.int64, torch.int32):
                return args[0]._look_up(func, place, found, args, kwargs)
        if (parts := func.decompose(*args, **kwargs)) is not NotImplemented:
            return parts  # of an operator made of others, which came here in turn
        whole = pytree.tree_map_only(RowTensor, RowTensor._whole, (args, kwargs))
        return func(*whole[0], **whole[1])

    def _look_up(
        self, func: Any, place: int, indices: torch.Tensor, args: tuple[Any, ...], kwargs: Any
    ) -> torch.Tensor:
        """The operator on a table of the rows in question alone, with their numbers in it."""
        numbers = indices.to(torch.int64)
        if func is aten.index.Tensor:
            numbers = torch.where(numbers < 0, numbers + self.shape[0], numbers)
        rows, places = torch.unique(numbers, return_inverse=True)
        if rows.numel() and (int(rows[0]) < 0 or int(rows[-1]) >= self.shape[0]):
            raise IndexError(f"row {int(rows[0])}..{int(rows[-1])} of {self.shape[0]}")
        table = torch.from_numpy(np.ascontiguousarray(self.read(rows.numpy()), np.float32))
        table = table.to(self.dtype)
        renamed = list(args)
        renamed[0] = table
        renamed[place] = [places] if func is aten.index.Tensor else places
        if func in _BAGS and len(args) > 8 and args[8] >= 0:
            padding = torch.searchsorted(rows, args[8])
            known = bool(padding < len(rows)) and int(rows[padding]) == args[8]
            renamed[8] = int(padding) if known else -1
        elif func is aten.embedding.default:
            renamed[2:] = []  # padding and sparseness matter to gradients alone
        result: torch.Tensor = func(*renamed, **kwargs)
        return result

    def _whole(self) -> torch.Tensor:
        return torch.from_numpy(self.read(np.arange(self.shape[0]))).to(self.dtype)


_BAGS = (aten._embedding_bag.default, aten._embedding_bag_forward_only.default)
# lookups, and which of their arguments holds the row numbers
_INDEX_PLACES = {
    aten.embedding.default: 1,
    aten.index.Tensor: 1,
    aten.index_select.default: 2,
    **dict.fromkeys(_BAGS, 1),
}
