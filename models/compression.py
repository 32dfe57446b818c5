"""One compression trial: train head tables of a given size, write them, measure the written file.

Head tables give a row to every value seen often enough in training; the rest of a field shares its
out-of-vocabulary row. Results are stored as JSON under the trial's settings, so that a search or a
benchmark that is stopped continues where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.atomic import atomic_path
from ondevice.codecs import CODECS, Codec
from ondevice.converters import convert
from ondevice.errors import FileFormatError, SpecError
from ondevice.inspection import inspect
from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.data import HashedLog, encode, split
from ondevice.models.designs import full_embeddings
from ondevice.models.experiment import example_ids
from ondevice.models.fitting import FitConfig, fit
from ondevice.models.log import ClickLog
from ondevice.models.networks import ClickModel
from ondevice.models.rounding import Rounding
from ondevice.models.trainer import TrainConfig
from ondevice.models.widths import Widths

SCORE_BATCH = 8192


@dataclass(frozen=True)
class Trial:
    """Settings of one trial.

    Attributes:
        dim: width of the rows.
        min_count: values with fewer training rows share their field's out-of-vocabulary row.
        codec: how the rows are stored.
        seed: of initial weights and training.
        epochs, batch, learning_rate: see TrainConfig.
        widths: how kept widths are found.
        round_epochs: so many last epochs train with tables rounded to the codec.

    Raises:
        SpecError: a setting out of range.
    """

    dim: int
    min_count: int
    codec: Codec
    seed: int = 0
    epochs: int = 5
    batch: int = 4096
    learning_rate: float = 2e-3
    widths: Widths = field(default_factory=lambda: Widths("whole"))
    round_epochs: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.min_count < 1 or self.codec not in CODECS:
            raise SpecError(f"trial: dim, min_count >= 1 and a known codec needed, got {self}")
        if self.round_epochs < 0:
            raise SpecError(f"trial: round_epochs must not be negative, got {self.round_epochs}")
        _ = self.fitting

    @property
    def fitting(self) -> FitConfig:
        """How the trial trains."""
        training = TrainConfig(
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            patience=1,
            seed=self.seed,
        )
        rounding = Rounding(self.codec, self.round_epochs) if self.round_epochs else None
        return FitConfig(training, self.widths, rounding)


# The reference that bytes and AUC are compared with.
REFERENCE = Trial(dim=16, min_count=1, codec="f32")


@dataclass(frozen=True)
class TrialResult:
    """What the written .odm file of a trial holds and reaches.

    Attributes:
        table_bytes: all tables with scales and width indexes.
        map_bytes: 8 a vocabulary value, what raw IDs need on top; 0 bytes if IDs arrive as indices.
        validation_auc: decides in a search.
        test_auc: for reports alone.
    """

    trial: Trial
    table_bytes: int
    map_bytes: int
    validation_auc: float
    test_auc: float


def ladder(seed: int = 0, round_epochs: int = 0) -> list[Trial]:
    """The search's trials: the reference, then smaller and smaller heads (choices of this project).

    One dimension at growing thresholds comes first: on long-tailed rating logs dimensions cost
    little AUC and rows cost much.
    """
    narrow = [Trial(1, count, "q4", seed) for count in (1, 4, 16, 64)]
    wider = [Trial(dim, count, "q4", seed) for dim in (2, 4) for count in (1, 4, 16, 64)]
    smaller = [*narrow, *wider, Trial(16, 1, "q4", seed)]
    return [
        Trial(16, 1, "f32", seed),
        *(replace(trial, round_epochs=round_epochs) for trial in smaller),
    ]


def run_trial(log: HashedLog, trial: Trial, folder: Path, *, progress: bool = True) -> TrialResult:
    """Run a trial, or read its stored result; writes checkpoint, model.odm, then result.json.

    Raises:
        FileFormatError: a stored result that is damaged.
        KeyboardInterrupt: Ctrl-C; nothing is stored of a trial that did not finish.
    """
    target = folder / _key(log, trial)
    if (target / "result.json").is_file():
        return _read(target / "result.json", trial)
    parts = split(log)
    names = [item.name for item in log.features.fields]
    splits = encode(*parts, vocabulary_fields=names, min_count=trial.min_count)
    torch.manual_seed(trial.seed)
    model = ClickModel(full_embeddings(splits.train, trial.dim), (128, 64))
    fitted = fit(model, splits, trial.fitting, progress=progress)
    if fitted.interrupted:
        raise KeyboardInterrupt
    features = splits.train.features
    examples = {name: ids.tolist() for name, ids in example_ids(splits.test).items()}
    save_checkpoint(
        target / "checkpoint", model, features, {"examples": examples}, counts=fitted.counts
    )
    tensors = {name: torch.tensor(ids) for name, ids in examples.items()}
    report = convert(
        model, (tensors,), target, targets=("odm",), tables=trial.codec, features=features
    )
    path = report.targets["odm"].path
    result = TrialResult(
        trial=trial,
        table_bytes=sum(table.total for table in inspect(path).tables),
        map_bytes=sum(8 * len(f.vocabulary) for f in features.fields if f.vocabulary is not None),
        validation_auc=_auc(path, splits.validation),
        test_auc=_auc(path, splits.test),
    )
    with atomic_path(target / "result.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return result


def frontier(results: Sequence[TrialResult]) -> list[TrialResult]:
    """Results that no other beats in bytes and validation AUC, by ascending bytes."""
    best: list[TrialResult] = []
    for result in sorted(results, key=lambda item: (item.table_bytes, -item.validation_auc)):
        if not best or result.validation_auc > best[-1].validation_auc:
            best.append(result)
    return best


def folder_of(log: HashedLog, trial: Trial, folder: Path) -> Path:
    """Where `run_trial` stores a trial."""
    return folder / _key(log, trial)


def _auc(path: Path, log: ClickLog) -> float:
    model = ondevice.load(path)
    scores = [
        model.predict({name: ids[start : start + SCORE_BATCH] for name, ids in log.ids.items()})
        for start in range(0, len(log), SCORE_BATCH)
    ]
    return float(roc_auc_score(log.labels, np.concatenate(scores)))


def _key(log: HashedLog, trial: Trial) -> str:
    """A folder name for the settings and the data themselves, so that no other log's is reused."""
    digest = hashlib.sha256(json.dumps(asdict(trial), sort_keys=True).encode())
    for name, hashes in log.hashes.items():
        digest.update(name.encode() + np.ascontiguousarray(hashes).tobytes())
    digest.update(np.ascontiguousarray(log.labels).tobytes())
    return f"d{trial.dim}-c{trial.min_count}-{trial.codec}-{digest.hexdigest()[:12]}"


def _read(path: Path, trial: Trial) -> TrialResult:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("trial") != asdict(trial):
            raise ValueError("it is of other settings")
        return TrialResult(trial, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: not a trial's result: {error}") from error
