"""Rows of whole tables times the masks of their levels, and masks held for several steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ondevice.models.layers.adaptive_mask import AdaptiveMask, LevelMasks


class RowLevels:
    """The level of each row of several joined tables, as a row of all their level masks."""

    def __init__(self, masks: Sequence[AdaptiveMask], levels: Sequence[LevelMasks]) -> None:
        """Join the levels of whole tables.

        Args:
            masks: all being learned, or none of them.
            levels: the level masks of each.
        """
        self._state = self._state_of(masks, levels)
        self.live = masks[0].live
        parts = [mask.level_index.long() for mask in masks]
        starts = np.repeat(joined_starts(levels), [mask.rows for mask in masks])
        self.level = torch.cat(parts).add_(torch.from_numpy(starts).to(parts[0].device))
        self._sums = _row_sums(self.level, len(joined_levels(levels))) if self.live else None

    def fits(self, masks: Sequence[AdaptiveMask], levels: Sequence[LevelMasks]) -> bool:
        """Whether this is of the present levels of these masks."""
        return self._state == self._state_of(masks, levels)

    @staticmethod
    def _state_of(masks: Sequence[AdaptiveMask], levels: Sequence[LevelMasks]) -> object:
        return masks[0].live, [mask.version for mask in masks], joined_starts(levels)

    def row_masks(self, levels: Sequence[LevelMasks]) -> Tensor:
        """The mask of every row, float32 [rows, width], from the level masks of each table."""
        joined = joined_levels(levels)
        if self._sums is None:
            return joined.index_select(0, self.level)
        masks: Tensor = _RowMasks.apply(joined, self.level, self._sums)  # type: ignore[no-untyped-call]
        return masks


class HeldMasks:
    """Masks held for several steps: computed once, and the gradients of all steps collected.

    Attributes:
        live: the level masks of each field, as the twins gave them.
        levels: the same without that history; gradients of these are collected.
    """

    def __init__(self, live: Mapping[str, LevelMasks]) -> None:
        self.live = dict(live)
        tensors = {id(item.masks): item.masks for item in live.values()}
        self._leaves = {
            number: (masks, masks.detach().requires_grad_()) for number, masks in tensors.items()
        }
        self.levels = {
            name: LevelMasks(self._leaves[id(item.masks)][1], item.start)
            for name, item in live.items()
        }
        self._rows: dict[object, tuple[Tensor, Tensor]] = {}

    def row_masks(self, tables: object, make: Callable[[], Tensor]) -> Tensor:
        """The masks of the rows of some tables: made once, the same tensor in every step."""
        if tables not in self._rows:
            masks = make()
            learned = masks.requires_grad
            self._rows[tables] = masks, masks.detach().requires_grad_() if learned else masks
        return self._rows[tables][1]

    def collected(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors of `live`, each with its gradient, summed over the steps since."""
        for masks, held in self._rows.values():
            if held.grad is not None:
                masks.backward(held.grad)  # type: ignore[no-untyped-call]
        self._rows = {}
        return [
            (masks, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            for masks, leaf in self._leaves.values()
        ]


def joined_levels(levels: Sequence[LevelMasks]) -> Tensor:
    """The level masks of several tables one after another, float32 [n, width], each tensor once."""
    tensors = list({id(item.masks): item.masks for item in levels}.values())
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def joined_starts(levels: Sequence[LevelMasks]) -> list[int]:
    """For each table the row of `joined_levels` with which its levels begin."""
    first_row: dict[int, int] = {}
    rows = 0
    for item in levels:
        if id(item.masks) not in first_row:
            first_row[id(item.masks)] = rows
            rows += len(item.masks)
    return [first_row[id(item.masks)] + item.start for item in levels]


def masked_rows(weight: Tensor, masks: Tensor, rows: Tensor) -> Tensor:
    """(weight * masks)[rows], with few passes over the whole tables.

    Args:
        weight: float32 [rows of all tables, width].
        masks: of its rows.
        rows: int64 [n].

    Returns:
        float32 [n, width].
    """
    values: Tensor = _MaskedRows.apply(weight, masks, rows)  # type: ignore[no-untyped-call]
    return values


class _RowMasks(torch.autograd.Function):
    """The masks of rows, from those of their levels."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor, level: Tensor, sums: Tensor) -> Tensor:
        """Masks float32 [rows, width]."""
        ctx.sums = sums
        return levels.index_select(0, level)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """A level's gradient is the sum over its rows."""
        return ctx.sums @ gradient, None, None


class _MaskedRows(torch.autograd.Function):
    """See `masked_rows`. The gradient of the whole tables is changed in place, which autograd
    cannot know to be safe.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, masks: Tensor, rows: Tensor) -> Tensor:
        """Values float32 [n, width]."""
        ctx.save_for_backward(weight, masks, rows)
        return (weight * masks).index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """The gradients of weight and of its rows' masks."""
        weight, masks, rows = ctx.saved_tensors
        table = torch.zeros_like(weight).index_add_(0, rows, gradient)
        of_masks = None
        if masks.is_leaf and masks.grad is not None:
            masks.grad.addcmul_(weight, table)  # held masks: no pass of its own to add it up
        elif ctx.needs_input_grad[1]:
            of_masks = weight * table
        return table.mul_(masks), of_masks, None


def _row_sums(level: Tensor, levels: int) -> Tensor:
    """A sparse matrix [levels, rows] that sums the rows of each level, faster than index_add."""
    order = torch.argsort(level, stable=True)
    starts = torch.searchsorted(level[order], torch.arange(levels + 1, device=level.device))
    ones = torch.ones(len(order), device=level.device)
    with warnings.catch_warnings():  # torch says that CSR is in beta state
        warnings.filterwarnings("ignore", "Sparse", UserWarning)
        return torch.sparse_csr_tensor(
            starts, order, ones, (levels, len(order)), check_invariants=False
        )
