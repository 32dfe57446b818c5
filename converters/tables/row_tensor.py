"""A torch tensor without storage that reads the rows of a table when an operator needs them."""

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

    Lookups (embedding, embedding_bag, index_select, indexing by one integer tensor) read only the
    rows in question. For any other operator the whole table is read.
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
        tensor: RowTensor = make(cls, (rows, dim), dtype=dtype)
        tensor.read = read
        return tensor

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
            indices = args[place]
            if func is aten.index.Tensor:
                indices = indices[0] if len(indices) == 1 else None
            if func is aten.index_select.default and args[1] != 0:
                indices = None
            if isinstance(indices, torch.Tensor) and indices.dtype in (torch.int64, torch.int32):
                return args[0]._look_up(func, place, indices, args, kwargs)
        # a composite operator: its parts have been dispatched to this method
        if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
            return result
        whole = pytree.tree_map_only(RowTensor, RowTensor._whole, (args, kwargs))
        return func(*whole[0], **whole[1])

    def _look_up(
        self, func: Any, place: int, indices: torch.Tensor, args: tuple[Any, ...], kwargs: Any
    ) -> torch.Tensor:
        """Run a lookup on a small table of only the rows that it reads.

        Args:
            func: the operator.
            place: which of its arguments holds the row numbers.
            indices: the row numbers, int64 or int32.
            args: its positional arguments.
            kwargs: its named arguments.

        Raises:
            IndexError: a row number is out of range.
        """
        numbers = indices.to(torch.int64)
        if func is aten.index.Tensor:
            numbers = torch.where(numbers < 0, numbers + self.shape[0], numbers)
        rows, places = torch.unique(numbers, return_inverse=True)
        if rows.numel() and (int(rows[0]) < 0 or int(rows[-1]) >= self.shape[0]):
            raise IndexError(
                f"row numbers from {int(rows[0])} to {int(rows[-1])}, the table has rows 0 to "
                f"{self.shape[0] - 1}"
            )
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
            renamed[2:] = []  # padding and sparseness matter only to gradients
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
