"""What happened in a training: its epochs, and which one's weights the model holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ondevice.errors import SpecError
from ondevice.models.training.metrics import Metrics


@dataclass(frozen=True)
class Epoch:
    """One pass: mean training loss (without penalty), validation metrics of the first label, mean
    kept width of the masked rows (None without masks), wall-clock seconds of training and of
    validation, validation metrics by label.
    """

    number: int
    train_loss: float
    validation: Metrics
    mean_width: float | None
    seconds: float
    validation_seconds: float
    by_label: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass
class History:
    """What happened; the model holds the weights of `best`: the highest validation AUC, or within
    TrainConfig.width_tolerance of it the narrowest rows.
    """

    epochs: list[Epoch] = field(default_factory=list)
    interrupted: bool = False
    kept: Epoch | None = None

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model holds."""
        if self.kept is None:
            raise SpecError("training had no whole epoch, so there is no best one")
        return self.kept

    @property
    def plateaus(self) -> int:
        """How many epochs had no better validation AUC than all before them."""
        best, count = -1.0, 0
        for epoch in self.epochs:
            count += epoch.validation.auc <= best
            best = max(best, epoch.validation.auc)
        return count

    def add(self, epoch: Epoch, tolerance: float) -> bool:
        """Append an epoch; whether its weights are the ones to keep."""
        self.epochs.append(epoch)
        floor = max(item.validation.auc for item in self.epochs) - tolerance
        best_so_far, better = self.kept, epoch.validation.auc >= floor
        if better and best_so_far is not None and best_so_far.validation.auc >= floor:
            if tolerance and epoch.mean_width is not None and best_so_far.mean_width is not None:
                better = epoch.mean_width < best_so_far.mean_width
            else:
                better = epoch.validation.auc > best_so_far.validation.auc
        if better:
            self.kept = epoch
        return better
