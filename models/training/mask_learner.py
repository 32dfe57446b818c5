"""Updates the twins of all adaptive masks every few steps, from the gradients of these steps."""

from __future__ import annotations

import torch
from torch import nn

from ondevice.models.layers.adaptive_mask import MaskGroup
from ondevice.models.layers.masked_rows import HeldMasks
from ondevice.models.networks import ClickModel
from ondevice.models.training.distributed import current_ranks

# Widths change slowly, and a pass through the twins costs a fifth of a step. The step
# size grows alike, so that widths move as far in an epoch as with an update every step. A choice of
# this project.
STEPS_PER_UPDATE = 4


class MaskLearner:
    """The masks that a model learns, fixed between two updates of their twins."""

    def __init__(self, model: ClickModel, learning_rate: float, penalty: float) -> None:
        """Learn the masks of a model in training mode.

        Args:
            model: its live masks are learned; there may be none.
            learning_rate: of the twins, if they were updated in every step.
            penalty: price of a kept dimension: penalty * mean width of all rows is added to the
                loss.
        """
        masks = {name: mask for name, mask in model.masks().items() if not mask.frozen}
        self._fields = list(masks)
        self._group = MaskGroup(list(masks.values()))
        self._penalty = penalty / max(1, sum(mask.rows for mask in masks.values()))
        # the twins' numbers side by side: Adam's time is that of the calls, one for each tensor
        self._flats = [nn.Parameter(flat.detach()) for flat in self._group.flats()]
        rate = learning_rate * STEPS_PER_UPDATE
        self._optimizer = torch.optim.Adam(self._flats, lr=rate, fused=True) if masks else None
        self._is_ahead = False  # of the model's numbers
        self._held: HeldMasks | None = None
        self._steps = 0

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What updates the twins; between epochs the learner remembers nothing else."""
        return [] if self._optimizer is None else [self._optimizer]

    def held(self) -> HeldMasks:
        """The masks to use in this step; `step` follows the backward pass."""
        if self._held is None:
            if not self._group.fits(self._group.masks):
                self._group = MaskGroup(self._group.masks)
            if not self._is_ahead:
                with torch.no_grad():
                    for flat, present in zip(self._flats, self._group.flats(), strict=True):
                        flat.copy_(present)
            levels = self._group.level_masks(self._flats)
            self._held = HeldMasks(dict(zip(self._fields, levels, strict=True)))
        return self._held

    def step(self) -> None:
        """Count a step; after a few, update the twins."""
        self._steps += 1
        if self._steps == STEPS_PER_UPDATE:
            self.update()

    def update(self) -> None:
        """Update the twins from the gradients since the last update, if there are any.

        Of several ranks, each has a part of these gradients: they are summed.
        """
        if self._optimizer is not None and self._held is not None and self._steps:
            masks, sums = zip(*self._held.collected(), strict=True)
            gradients = [gradient / self._steps for gradient in sums]
            current_ranks().sum_dense(gradients)
            if self._penalty:  # the mean width is the mean over the rows of their masks' sums
                for gradient, rows in zip(gradients, self._group.row_counts(), strict=True):
                    gradient.add_(rows, alpha=self._penalty)
            of_flats = torch.autograd.grad(masks, self._flats, gradients)
            for flat, gradient in zip(self._flats, of_flats, strict=True):
                flat.grad = gradient
            self._optimizer.step()
            self._is_ahead = True
        self._held, self._steps = None, 0

    def share(self) -> None:
        """Give the model the twins as they are now: they are the learner's until then."""
        if self._is_ahead:
            self._group.set_flats(self._flats)
            self._is_ahead = False
