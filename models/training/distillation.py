"""Distillation: a small model learns from the labels and from what full models say of each row.

The full models, the teachers, are cross-fitted: the training rows are cut into folds, and each
fold is scored by models that were trained on the other folds only. A teacher that had seen a row
would repeat the row's label, and a row of a rare value would be learned by heart again. Targets
are (1 - weight) * label + weight * mean of the teachers' probabilities. After Hinton et al.,
"Distilling the Knowledge in a Neural Network" (2015); that teachers are cross-fitted is a choice
of this project.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ondevice.atomic import atomic_path
from ondevice.converters.source.array_files import ARRAY_FILE_ERRORS
from ondevice.errors import DataError, FileFormatError, SpecError
from ondevice.models.click_log import Splits
from ondevice.models.networks import ClickModel
from ondevice.models.training.distributed import current_ranks
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.trainer import predict

FloatArray = npt.NDArray[np.float32]
FOLD_SEED = 100  # unlike the seed of a random split
# Told in a few words what comes next.
Note = Callable[[str], None]


def silent(text: str) -> None:
    """A Note that says nothing."""


@dataclass(frozen=True)
class Distillation:
    """What the teachers are, and how much they count.

    Attributes:
        folds: how many parts the training rows are cut into; a teacher is trained on all but one.
        seeds: how often that is done, each time with other folds and initial weights.
        weight: of the teachers' probabilities in the targets; the labels have the rest.
        dim: width of the teachers' tables, which have a row for every training value.

    Raises:
        SpecError: a setting out of range.
    """

    folds: int = 4
    seeds: int = 3
    weight: float = 0.6
    dim: int = 4

    def __post_init__(self) -> None:
        if self.folds < 2 or self.seeds < 1 or self.dim < 1 or not 0 < self.weight <= 1:
            raise SpecError(
                "distillation: folds >= 2, seeds >= 1, dim >= 1 and 0 < weight <= 1 needed; "
                f"got {self}"
            )

    @property
    def teachers(self) -> int:
        """How many teachers are trained."""
        return self.folds * self.seeds


@dataclass(frozen=True)
class TeacherSet:
    """The teachers of one training split, and where their predictions are stored.

    Attributes:
        settings: how many there are, and what they count.
        build: a new teacher with random weights; it reads `splits`.
        splits: a row's place in the training split is that of the same row in the student's.
        config: how a teacher is fitted; its seed is replaced, since each teacher has another.
        folder: each teacher's predictions are written there as soon as it is trained, and read
            again by the next run; for these splits and settings only, see `teacher_folder`.
            None: nothing is stored.
    """

    settings: Distillation
    build: Callable[[], ClickModel]
    splits: Splits
    config: FitConfig
    folder: Path | None = None

    def targets(self, *, progress: bool = True, note: Note = silent) -> FloatArray:
        """What the student learns in place of its labels, float32 of their shape.

        Args:
            progress: show bars on stderr, if that is a terminal.
            note: told in a few words which teacher is trained.

        Raises:
            DataError: fewer rows than folds.
            SpecError: several processes train together; each would train all teachers.
            FileFormatError: a stored prediction that is damaged.
            TrainingError: see `train`.
        """
        labels, settings = self.splits.train.labels, self.settings
        if current_ranks().world > 1:
            raise SpecError("distillation: teachers are trained by one process, not by several")
        if len(labels) < settings.folds:
            raise DataError(f"distillation: {len(labels)} rows cannot make {settings.folds} folds")
        total = np.zeros(labels.shape)
        for repeat in range(settings.seeds):
            fold_of = fold_numbers(len(labels), settings.folds, repeat)
            for fold in range(settings.folds):
                held_out = np.flatnonzero(fold_of == fold)
                total[held_out] += self._predictions(repeat, fold, held_out, progress, note)
        mixed = settings.weight * total / settings.seeds + (1 - settings.weight) * labels
        return np.clip(mixed, 0, 1).astype(np.float32)

    def _predictions(
        self,
        repeat: int,
        fold: int,
        held_out: npt.NDArray[np.int64],
        progress: bool,
        note: Note,
    ) -> FloatArray:
        """One teacher's probabilities of the rows that it was not trained on, stored or new."""
        shape = (len(held_out), *self.splits.train.labels.shape[1:])
        path = None if self.folder is None else self.folder / f"{repeat}-{fold}.npy"
        if path is not None and path.is_file():
            return _read(path, shape)
        number = repeat * self.settings.folds + fold
        note(f"teacher {number + 1} of {self.settings.teachers}")
        predictions = self._train(number, held_out, progress)
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, predictions, allow_pickle=False)
        return predictions

    def _train(self, number: int, held_out: npt.NDArray[np.int64], progress: bool) -> FloatArray:
        """Train teacher `number` on all other rows and score those held out.

        The caller's random numbers do not depend on whether a teacher was stored.
        """
        train = self.splits.train
        others = np.delete(np.arange(len(train)), held_out)
        splits = replace(self.splits, train=train.take(others))
        config = replace(self.config, training=replace(self.config.training, seed=number))
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = self.build()
            fitted = fit(model, splits, config, progress=progress)
        if fitted.interrupted:
            raise KeyboardInterrupt  # half a training is no teacher
        return predict(model, train.take(held_out))


def fold_numbers(rows: int, folds: int, repeat: int) -> npt.NDArray[np.int64]:
    """The fold of each row, int64 [rows], of sizes that differ by at most one."""
    return np.random.default_rng(FOLD_SEED + repeat).permutation(rows) % folds


def teacher_folder(
    root: Path, digest: str, settings: Distillation, config: FitConfig, others: Any
) -> Path:
    """The folder of the teachers of one log and one way to train; repeats and weights share it.

    Args:
        root: of many such folders.
        digest: of the log.
        settings: folds and width of the teachers.
        config: how a teacher is fitted.
        others: all else that the teachers' predictions depend on, as JSON.
    """
    fitting = asdict(replace(config, training=replace(config.training, seed=0)))
    depends_on = [digest, settings.folds, settings.dim, fitting, others, torch.__version__]
    text = json.dumps(depends_on, sort_keys=True)
    return root / f"teachers-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _read(path: Path, shape: tuple[int, ...]) -> FloatArray:
    try:
        predictions = np.load(path, allow_pickle=False)
        if predictions.shape != shape or predictions.dtype != np.float32:
            raise ValueError(
                f"expected float32 {list(shape)}, got {predictions.dtype} {list(predictions.shape)}"
            )
        if not ((predictions >= 0) & (predictions <= 1)).all():
            raise ValueError("not all values are probabilities")
    except ARRAY_FILE_ERRORS as error:
        raise FileFormatError(
            f"{path}: not the predictions of this teacher: {error}; remove the file to train it "
            "again"
        ) from error
    checked: FloatArray = predictions
    return checked
