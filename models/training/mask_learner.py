"""Updates the twins of all adaptive masks every few steps, from the gradients of these steps."""

from __future__ import annotations

import torch
from torch import Tensor

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
        self._model = model
        self._penalty = penalty
        self._masks = {name: mask for name, mask in model.masks().items() if not mask.frozen}
        flats = [mask.twins.flat for mask in self._masks.values() if mask.twins is not None]
        rate = learning_rate * STEPS_PER_UPDATE
        self._optimizer = torch.optim.Adam(flats, lr=rate, fused=True) if flats else None
        self._live: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}
        self._steps = 0

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What updates the twins; between epochs the learner remembers nothing else."""
        return [] if self._optimizer is None else [self._optimizer]

    def levels(self) -> dict[str, Tensor]:
        """The level masks to use in this step, by field; `step` follows the backward pass."""
        if not self._leaves:
            self._live = self._model.level_masks()
            self._leaves = {
                name: levels.detach().requires_grad_() for name, levels in self._live.items()
            }
        return self._leaves

    def step(self) -> None:
        """Count a step; after a few, update the twins."""
        self._steps += 1
        if self._steps == STEPS_PER_UPDATE:
            self.update()

    def update(self) -> None:
        """Update the twins from the gradients since the last update, if there are any.

        Of several ranks, each has a part of these gradients: they are summed.
        """
        if self._optimizer is not None and self._steps:
            gradients = [
                torch.zeros_like(leaf) if leaf.grad is None else leaf.grad / self._steps
                for leaf in self._leaves.values()
            ]
            current_ranks().sum_dense(gradients)
            self._optimizer.zero_grad(set_to_none=True)
            outputs = list(self._live.values())
            if self._penalty:
                outputs.append(self._penalty * self._mean_width())
                gradients.append(torch.ones_like(outputs[-1]))
            torch.autograd.backward(outputs, gradients)
            self._optimizer.step()
        self._live, self._leaves, self._steps = {}, {}, 0

    def _mean_width(self) -> Tensor:
        rows = sum(mask.rows for mask in self._masks.values())
        widths = [
            mask.mean_width(self._live[name]) * (mask.rows / rows)
            for name, mask in self._masks.items()
        ]
        return torch.stack(widths).sum()
