"""Rows that a network takes out of the batch by a mask and puts back: all are computed instead."""

from __future__ import annotations

from typing import Any

import torch


class ChosenRows:
    """Answers choices of rows by a mask [batch] while a module is traced.

    How many rows a mask chooses depends on values, which no graph can. A row's score does not
    depend on the rows beside it, so all rows are computed, and those that the mask leaves out are
    what they were before the chosen ones were put back. Of a network that mixes the chosen rows the
    files differ, so that it does not pass verification.
    """

    def chosen(self, input: Any, place: Any) -> Any:
        """x[mask]: all rows of x."""
        if not isinstance(input, torch.Tensor) or not self._is_mask(input, place):
            return NotImplemented
        return input.clone()

    def chooses(self, input: torch.Tensor, mask: torch.Tensor) -> bool:
        """Whether a mask [batch, 1, ...] chooses whole rows of a tensor [batch, ...]."""
        same_rows = mask.dim() == input.dim() and self._is_mask(input, mask.flatten())
        return same_rows and all(size == 1 for size in mask.shape[1:])

    def put_back(self, target: Any, place: Any, value: Any) -> bool:
        """x[mask] = rows, where the rows are all of them; False where it is something else."""
        if not isinstance(value, torch.Tensor) or not self._is_mask(target, place):
            return False
        if value.dim() != target.dim() or not _is_free(value):
            return False
        chosen = place.reshape(-1, *[1] * (target.dim() - 1))
        target.copy_(torch.where(chosen, value, target))
        return True

    def _is_mask(self, input: torch.Tensor, place: Any) -> bool:
        """Whether it is a bool vector [batch] over the free rows of a tensor."""
        if not isinstance(place, torch.Tensor) or place.dtype != torch.bool or place.dim() != 1:
            return False
        return _is_free(place) and _is_free(input)


def _is_free(tensor: torch.Tensor) -> bool:
    return tensor.dim() > 0 and isinstance(tensor.shape[0], torch.SymInt)
