"""Rows that a network takes out of the batch by a mask and puts back: all are computed instead."""

from __future__ import annotations

from typing import Any

import torch

from ondevice.converters.source.one_step_masks import OneStepMasks


class ChosenRows:
    """Answers choices of rows by a mask [batch] while a module is traced.

    How many rows a mask chooses depends on values, which no graph can. A row's score does not
    depend on the rows beside it, so all rows are computed, and those that the mask leaves out are
    what they were before the chosen ones were put back. Of a network that mixes the chosen rows the
    files differ, so that it does not pass verification.
    """

    def __init__(self, steps: OneStepMasks) -> None:
        """Take what knows the masks that choose one step of each row."""
        self._steps = steps

    def chosen(self, input: Any, place: Any) -> Any:
        """x[mask]: all rows of x; where a mask chooses one step of each row, these."""
        if not isinstance(input, torch.Tensor):
            return NotImplemented
        if self._begins_with_mask(input, place):
            return input[(slice(None), *place[1:])].clone()
        if self._is_mask(input, place):
            return input.clone()
        if self._steps.chooses_one(place) and _have_same(input, place):
            within = place.reshape(*place.shape, *[1] * (input.dim() - 2))
            return torch.where(within, input, torch.zeros((), dtype=input.dtype)).sum(
                1, dtype=input.dtype
            )
        return self._some(input, place)

    def _some(self, input: torch.Tensor, place: Any) -> Any:
        """Elements of any number: some, as beside whatever rows; see `_StandIns._asked`."""
        if not isinstance(place, torch.Tensor) or place.dtype != torch.bool or place.dim() < 2:
            return NotImplemented
        if not _is_free(place):
            return NotImplemented
        found = input[place]
        if isinstance(found.shape[0], torch.SymInt):
            torch._check(found.shape[0] > 0)
        return found

    def chooses(self, input: torch.Tensor, mask: torch.Tensor) -> bool:
        """Whether a mask [batch, 1, ...] chooses whole rows of a tensor [batch, ...]."""
        same_rows = mask.dim() == input.dim() and self._is_mask(input, mask.flatten())
        return same_rows and all(size == 1 for size in mask.shape[1:])

    def put_back(self, target: Any, place: Any, value: Any) -> bool:
        """x[mask] = rows, where the rows are all of them; False where it is something else."""
        if self._begins_with_mask(target, place):
            target, place = target[(slice(None), *place[1:])], place[0]
        if not isinstance(value, torch.Tensor) or not self._is_mask(target, place):
            return False
        if value.dim() != target.dim() or not _is_free(value):
            return False
        chosen = place.reshape(-1, *[1] * (target.dim() - 1))
        target.copy_(torch.where(chosen, value, target))
        return True

    def _begins_with_mask(self, input: Any, place: Any) -> bool:
        """Whether it is a mask over the rows, and integers or slices along the other axes."""
        if not isinstance(place, tuple) or len(place) < 2 or not isinstance(input, torch.Tensor):
            return False
        plain = all(isinstance(part, int | slice | None) for part in place[1:])
        return plain and self._is_mask(input, place[0])

    def _is_mask(self, input: torch.Tensor, place: Any) -> bool:
        """Whether it is a bool vector [batch] over the free rows of a tensor."""
        if not isinstance(place, torch.Tensor) or place.dtype != torch.bool or place.dim() != 1:
            return False
        return _is_free(place) and _is_free(input)


def _have_same(input: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether a tensor [batch, steps, ...] has the free rows and the steps of a mask."""
    if input.dim() < 2 or not all(isinstance(part.shape[1], int) for part in (input, mask)):
        return False
    return (
        input.shape[1] == mask.shape[1]
        and _is_free(input)
        and _is_free(mask)
        and input.dtype != torch.bool
    )


def _is_free(tensor: torch.Tensor) -> bool:
    return tensor.dim() > 0 and isinstance(tensor.shape[0], torch.SymInt)
