"""Train on a click log: the compressed model (codes, kept widths, rounding) or the full one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ondevice.codecs import Codec
from ondevice.errors import InputError
from ondevice.limits import MAX_LENGTH
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.data import (
    SCALES,
    HashedLog,
    History,
    Scale,
    add_history,
    cardinalities,
    encode,
    split,
)
from ondevice.models.data.buckets import MAX_BUCKETS
from ondevice.models.designs import Design, compressed_embeddings, full_embeddings, small_fields
from ondevice.models.layers.rounding import Rounding
from ondevice.models.network_config import NetworkConfig
from ondevice.models.networks import ClickModel
from ondevice.models.training.distillation import (
    Distillation,
    Note,
    TeacherSet,
    silent,
    teacher_folder,
)
from ondevice.models.training.metrics import Metrics
from ondevice.models.training.phases import FitConfig, Fitted, OnEpoch, fit, rounded
from ondevice.models.training.refit import Refit
from ondevice.models.training.row_weights import undo_sampling
from ondevice.models.training.trainer import TrainConfig, metrics_by_label, predict
from ondevice.models.training.training_state import TrainingState, log_digest
from ondevice.models.training.widths import Widths

EXAMPLES = 64


@dataclass(frozen=True)
class Numeric:
    """How numbers become buckets: see `ondevice.models.data.boundaries`.

    Raises:
        InputError: a setting out of range.
    """

    buckets: int = 32
    scale: Scale = "quantile"

    def __post_init__(self) -> None:
        if not 1 <= self.buckets <= MAX_BUCKETS or self.scale not in SCALES:
            scales = " or ".join(SCALES)
            raise InputError(f"numeric: 1..{MAX_BUCKETS} buckets, scale {scales}; got {self}")


@dataclass(frozen=True)
class HistorySource:
    """Which fields a history is of, before the log is known: the first names that the log has.

    Attributes:
        user: names of the field whose rows belong together, in order of preference.
        item: names of the field that is remembered.
        length: how many of the latest clicks a history holds.
        name: of the new field.

    Raises:
        InputError: a setting out of range.
    """

    user: tuple[str, ...] = ("user",)
    item: tuple[str, ...] = ("item",)
    length: int = 20
    name: str = "history"

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MAX_LENGTH:
            raise InputError(f"history: length must be 1..{MAX_LENGTH}, got {self.length}")

    def resolve(self, log: HashedLog) -> History:
        """The history of this log's fields. Raises InputError when it has none of the names."""
        chosen = []
        for names in (self.user, self.item):
            present = [name for name in names if name in log.hashes]
            if not present:
                raise InputError(
                    f"history: the log has no field {' or '.join(map(repr, names))}; "
                    f"its fields are {', '.join(log.hashes)}"
                )
            chosen.append(present[0])
        return History(chosen[0], chosen[1], self.length, self.name)


@dataclass(frozen=True)
class Experiment:
    """What to train.

    Attributes:
        design: sizes of the tables.
        network: what computes a click from the vectors.
        training: how to train.
        widths: how the kept widths of compressed tables are found.
        refit: how rows are refitted with the network fixed; None for not at all.
        rounding: the codec to train the last epochs of compressed tables for; None for none.
        distillation: the full models whose probabilities are learned beside the labels; None: the
            labels only.
        numeric: how numbers are put into buckets.
        history: the sequence field to add; None for none.
    """

    design: Design = field(default_factory=Design)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=6, batch=2048, learning_rate=2e-3)
    )
    widths: Widths = field(default_factory=Widths)
    refit: Refit | None = None
    rounding: Rounding | None = None
    distillation: Distillation | None = None
    numeric: Numeric = field(default_factory=Numeric)
    history: HistorySource | None = None


@dataclass(frozen=True)
class Trained:
    """A trained model, the split it was trained on, and its metrics on the test split.

    Attributes:
        parts: the log's parts before their values became IDs.
        probabilities: of the test part, float32 [n] or [n, labels], with the tables as `codec`
            stores them.
        by_label: test metrics of each label, of these probabilities.
        codec: what the experiment rounds tables to, else "f32".
    """

    model: ClickModel
    splits: Splits
    parts: tuple[HashedLog, HashedLog, HashedLog]
    probabilities: npt.NDArray[np.float32]
    by_label: dict[str, Metrics]
    fitted: Fitted
    codec: Codec = "f32"

    @property
    def test(self) -> Metrics:
        """Test metrics of the first label."""
        return next(iter(self.by_label.values()))

    @property
    def epochs(self) -> int:
        """Epochs of all phases."""
        return self.fitted.epochs

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


def train_full(
    log: HashedLog,
    experiment: Experiment,
    *,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    state: TrainingState | None = None,
    teachers: Path | None = None,
    note: Note = silent,
) -> Trained:
    """The uncompressed reference: one float32 row per training value of every field.

    Args:
        log: what to train on.
        experiment: how.
        progress: show bars on stderr, if that is a terminal.
        on_epoch: called after every epoch, see `fit`.
        state: saves every epoch, see `fit`.
        teachers: folder that keeps what distillation's teachers predict; None: nothing is kept.
        note: told in a few words which teacher is trained.

    Raises:
        InputError, SpecError, DataError, TrainingError: see `fit` and `TeacherSet.targets`.
    """
    history = history_in(log, experiment)
    parts = parts_of(log, history)
    histories = {} if history is None else {history.name: history.item}
    names = [item.name for item in log.features.fields if item.encoding == "hash"]
    splits = _encoded(parts, names, experiment)
    torch.manual_seed(experiment.training.seed)
    tables = full_embeddings(splits.train, experiment.design.dim, log.settings)
    model = ClickModel(tables, experiment.network, histories, log.label_names)
    config = FitConfig(experiment.training, Widths("whole"), refit=experiment.refit)
    targets = _targets(log, parts, histories, experiment, progress, teachers, note)
    fitted = fit(
        *(model, splits, config),
        progress=progress,
        on_epoch=on_epoch,
        state=state,
        targets=targets,
    )
    undo_sampling(model, log.negative_sampling)
    return tested(model, parts, splits, fitted, "f32")


def train_compressed(
    log: HashedLog,
    experiment: Experiment,
    *,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
    state: TrainingState | None = None,
    teachers: Path | None = None,
    note: Note = silent,
) -> Trained:
    """Binary-code tables for large fields, kept widths for the rows of all tables.

    For arguments and errors see `train_full`.
    """
    history = history_in(log, experiment)
    parts = parts_of(log, history)
    histories = {} if history is None else {history.name: history.item}
    splits = _encoded(parts, small_fields(parts[0], experiment.design), experiment)
    counts = cardinalities(parts[0])
    torch.manual_seed(experiment.training.seed)
    design = experiment.design
    if experiment.widths.method != "whole":  # a cut row would cut the products of all its values
        design = replace(design, fuse="sum")
    tables = compressed_embeddings(splits.train, counts, design, log.settings)
    model = ClickModel(tables, experiment.network, histories, log.label_names)
    config = FitConfig(
        experiment.training, experiment.widths, experiment.rounding, experiment.refit
    )
    targets = _targets(log, parts, histories, experiment, progress, teachers, note)
    fitted = fit(
        *(model, splits, config),
        progress=progress,
        on_epoch=on_epoch,
        state=state,
        targets=targets,
    )
    undo_sampling(model, log.negative_sampling)
    codec = experiment.rounding.codec if experiment.rounding else "f32"
    return tested(model, parts, splits, fitted, codec)


def _targets(
    log: HashedLog,
    parts: tuple[HashedLog, HashedLog, HashedLog],
    histories: dict[str, str],
    experiment: Experiment,
    progress: bool,
    folder: Path | None,
    note: Note,
) -> npt.NDArray[np.float32] | None:
    """What is learned in place of the training labels; None without distillation.

    A teacher is the full model of the same network, refitted; see `train_full` for the arguments.
    """
    settings = experiment.distillation
    if settings is None:
        return None
    names = [item.name for item in log.features.fields if item.encoding == "hash"]
    splits = _encoded(parts, names, experiment)
    config = FitConfig(experiment.training, Widths("whole"), refit=experiment.refit or Refit())

    def build() -> ClickModel:
        tables = full_embeddings(splits.train, settings.dim, log.settings)
        return ClickModel(tables, experiment.network, histories, log.label_names)

    if folder is not None:
        inputs = [asdict(experiment.numeric), experiment.history and asdict(experiment.history)]
        network = asdict(experiment.network)
        folder = teacher_folder(folder, log_digest(log), settings, config, [network, inputs])
    return TeacherSet(settings, build, splits, config, folder).targets(progress=progress, note=note)


def tested(
    model: ClickModel,
    parts: tuple[HashedLog, HashedLog, HashedLog],
    splits: Splits,
    fitted: Fitted,
    codec: Codec,
) -> Trained:
    """The result of a training, measured on the test part; the model's sampling is undone."""
    with rounded(model, codec):
        scores = predict(model, splits.test)
    sampled = splits.test.negative_sampling < 1
    by_label = metrics_by_label(splits.test, scores, unsampled=sampled)
    return Trained(model, splits, parts, scores, by_label, fitted, codec)


def parts_of(log: HashedLog, history: History | None) -> tuple[HashedLog, HashedLog, HashedLog]:
    """The three parts of a log, with the history if there is one. Raises InputError."""
    parts = split(log)
    return parts if history is None else add_history(parts, history)


def history_in(log: HashedLog, experiment: Experiment) -> History | None:
    """The history that an experiment adds to this log, if any. Raises InputError."""
    return None if experiment.history is None else experiment.history.resolve(log)


def _encoded(
    parts: tuple[HashedLog, HashedLog, HashedLog], names: list[str], experiment: Experiment
) -> Splits:
    numeric = experiment.numeric
    return encode(*parts, vocabulary_fields=names, buckets=numeric.buckets, scale=numeric.scale)


def checkpoint_extra(
    trained: Trained,
    log: HashedLog,
    *,
    history: History | None = None,
    rounding: Rounding | None = None,
) -> dict[str, Any]:
    """What a checkpoint says beside the weights: data, metrics, IDs to probe conversions, and what
    `continue_training` needs: of what its history is computed, and how its tables were rounded.
    """
    codecs = {name: asked.codec for name, asked in log.settings.items() if asked.codec is not None}
    return {
        "data": {
            "name": log.name,
            "rows": len(log),
            "refused": log.refused,
            "best_auc": log.best_auc,
        },
        "table_codecs": codecs,
        "training": {
            "history": None if history is None else asdict(history),
            "rounding": None if rounding is None else asdict(rounding),
        },
        "test": asdict(trained.test),
        "test_by_label": {name: asdict(item) for name, item in trained.by_label.items()},
        "epochs": trained.epochs,
        "examples": {name: ids.tolist() for name, ids in example_ids(trained.splits.test).items()},
    }


def example_ids(log: ClickLog) -> dict[str, npt.NDArray[np.int64]]:
    """The first IDs of each input, int64 [up to EXAMPLES, ...]."""
    return {name: ids[:EXAMPLES] for name, ids in log.ids.items()}
