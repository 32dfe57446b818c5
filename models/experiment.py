"""Train on a click log: the compressed model (codes, then adaptive masks) or the full one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ondevice.models.data import HashedLog, cardinalities, encode, split
from ondevice.models.designs import Design, compressed_embeddings, full_embeddings, small_fields
from ondevice.models.log import ClickLog, Splits
from ondevice.models.networks import ClickModel, attach_masks
from ondevice.models.trainer import Metrics, TrainConfig, evaluate, train

EXAMPLES = 64


@dataclass(frozen=True)
class Experiment:
    """What to train.

    Attributes:
        design: sizes of the tables.
        hidden: sizes of the network's hidden layers.
        training: how to train the model with whole rows.
        mask_epochs: how long to learn kept widths afterwards, starting from the trained model; 0
            leaves all rows whole.
        width_penalty: price of a kept dimension meanwhile (TrainConfig.width_penalty).
    """

    design: Design = field(default_factory=Design)
    hidden: tuple[int, ...] = (128, 64)
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=6, batch=2048, learning_rate=2e-3)
    )
    mask_epochs: int = 2
    width_penalty: float = 0.001


@dataclass(frozen=True)
class Trained:
    """A trained model, the split it was trained on, and its metrics on the test split."""

    model: ClickModel
    splits: Splits
    test: Metrics
    epochs: int

    @property
    def table_bytes(self) -> int:
        """The embedding tables in float32, in bytes."""
        return 4 * sum(table.weight.numel() for table in self.model.tables())

    @property
    def parameter_bytes(self) -> int:
        """All parameters in float32, in bytes; masks are not parameters of the shipped model."""
        return 4 * sum(
            parameter.numel()
            for name, parameter in self.model.named_parameters()
            if ".mask." not in name
        )


def train_full(log: HashedLog, experiment: Experiment, *, progress: bool = True) -> Trained:
    """The uncompressed reference: one float32 row per training value of every field."""
    parts = split(log)
    splits = encode(*parts, vocabulary_fields=[item.name for item in log.features.fields])
    torch.manual_seed(experiment.training.seed)
    model = ClickModel(full_embeddings(splits.train, experiment.design.dim), experiment.hidden)
    history = train(model, splits.train, splits.validation, experiment.training, progress)
    return Trained(model.eval(), splits, evaluate(model, splits.test), len(history.epochs))


def train_compressed(log: HashedLog, experiment: Experiment, *, progress: bool = True) -> Trained:
    """Binary-code tables for large fields, then adaptive masks over the rows of all tables."""
    parts = split(log)
    splits = encode(*parts, vocabulary_fields=small_fields(parts[0], experiment.design))
    counts = cardinalities(parts[0])
    torch.manual_seed(experiment.training.seed)
    tables = compressed_embeddings(splits.train, counts, experiment.design)
    model = ClickModel(tables, experiment.hidden)
    history = train(model, splits.train, splits.validation, experiment.training, progress)
    epochs = len(history.epochs)
    if experiment.mask_epochs:
        attach_masks(model, splits.train)
        settings = replace(
            experiment.training,
            epochs=experiment.mask_epochs,
            width_penalty=experiment.width_penalty,
        )
        epochs += len(train(model, splits.train, splits.validation, settings, progress).epochs)
        for mask in model.masks().values():
            mask.freeze()
    return Trained(model.eval(), splits, evaluate(model, splits.test), epochs)


def checkpoint_extra(trained: Trained, log: HashedLog) -> dict[str, Any]:
    """What a checkpoint says beside the weights: data, metrics, and IDs to probe conversions."""
    return {
        "data": {"name": log.name, "rows": len(log), "best_auc": log.best_auc},
        "test": asdict(trained.test),
        "epochs": trained.epochs,
        "examples": {name: ids.tolist() for name, ids in example_ids(trained.splits.test).items()},
    }


def example_ids(log: ClickLog) -> dict[str, npt.NDArray[np.int64]]:
    """The first IDs of each field, int64 [up to EXAMPLES]."""
    return {name: ids[:EXAMPLES] for name, ids in log.ids.items()}
