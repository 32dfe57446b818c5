"""Verification: the torch module beside every written file, in every runtime of this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ondevice
from ondevice.converters.code_pages import release_code_pages
from ondevice.converters.report import Parity, TargetReport
from ondevice.converters.sources import Source
from ondevice.engines.tflite import RUNTIMES, TfliteEngine
from ondevice.errors import (
    InputError,
    MissingDependencyError,
    ParityError,
    needs_extra,
)
from ondevice.inspection import stored_tables
from ondevice.model import Model, file_bytes, model_files, sha256
from ondevice.verify import largest_difference

SCORE_BATCH = 8192
# Largest |probability difference| between the torch module, computing with the dequantised
# tables, and a converted file: float32 sums in another order stay two magnitudes below it.
TOLERANCE = 1e-5

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
Outputs = Mapping[str, FloatArray]


@dataclass(frozen=True)
class Validation:
    """Labelled rows that a conversion is judged by.

    Attributes:
        inputs: values by input name, int64 or float32 [rows, ...].
        labels: float32 [rows], 0 or 1, both present.
        source: what the rows are, for the model card.

    Raises:
        InputError: another shape, other labels, or one label alone.
    """

    inputs: dict[str, Array]
    labels: FloatArray
    source: str = "validation rows"

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
            raise InputError("validation: labels must be a list of 0 and 1")
        if len(np.unique(labels)) != 2:
            raise InputError(f"validation: an AUC needs both labels, got {len(labels)} rows of one")
        if wrong := [name for name, ids in self.inputs.items() if len(ids) != len(labels)]:
            raise InputError(f"validation: not one value per label in {', '.join(wrong)}")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def auc(self, scores: FloatArray) -> float:
        """Area under the ROC curve of scores float32 [rows]."""
        with needs_extra("the AUC of a validation set", "train"):
            from sklearn.metrics import roc_auc_score
        return float(roc_auc_score(self.labels, scores))

    def batches(self) -> Iterator[dict[str, Array]]:
        """The inputs, SCORE_BATCH rows at a time."""
        for start in range(0, len(self), SCORE_BATCH):
            yield {name: ids[start : start + SCORE_BATCH] for name, ids in self.inputs.items()}


@dataclass(frozen=True)
class Expected:
    """What the torch module says, which every file is compared with.

    Attributes:
        batches: inputs, one batch after another.
        stored: outputs of the module that computes with the tables as files store them.
        original: outputs of the module as it came.
        validation: labelled rows, if any.
        scores: the original module's first output on them.
    """

    batches: Sequence[dict[str, Array]]
    stored: Sequence[Outputs]
    original: Sequence[Outputs]
    validation: Validation | None = None
    scores: FloatArray | None = None

    @property
    def auc(self) -> float | None:
        """AUC of the module as it came; None without validation rows."""
        if self.validation is None or self.scores is None:
            return None
        return self.validation.auc(self.scores)


def main_score(
    predict: Source | Callable[[Mapping[str, Array]], Outputs], validation: Validation
) -> FloatArray:
    """The first output on the validation rows, float32 [rows]; of a matrix the first column.

    Raises:
        InputError: an input is missing.
    """
    names = getattr(predict, "names", ())
    if missing := [name for name in names if name not in validation.inputs]:
        raise InputError(f"validation: no values for {', '.join(missing)}")
    found = [next(iter(predict(batch).values())) for batch in validation.batches()]
    return np.concatenate([array.reshape(len(array), -1)[:, 0] for array in found])


def verify_file(file: Path, expected: Expected, tolerance: float) -> TargetReport:
    """Compare a file with the torch module in every engine of this machine that runs it.

    Raises:
        ParityError: a probability differs by more than `tolerance`.
        MissingDependencyError: no runtime for the file is installed.
    """
    models, not_checked = _models(file)
    release_code_pages()  # of loading
    parity, change = [], 0.0
    for model in models:
        largest = 0.0
        for batch, stored, original in zip(
            expected.batches, expected.stored, expected.original, strict=True
        ):
            got = _outputs(model, batch)
            largest = max(largest, _checked_difference(file, model, got, stored, tolerance))
            change = max(change, difference(got, original))
        rows = sum(len(next(iter(right.values()))) for right in expected.stored)
        parity.append(Parity(model.runner.runtime, rows, largest, tolerance))
    auc = None
    if expected.validation is not None and expected.scores is not None:
        scores = main_score(functools.partial(_outputs, models[0]), expected.validation)
        change = max(change, largest_difference(scores, expected.scores))
        auc = expected.validation.auc(scores)
    return TargetReport(
        path=file,
        bytes=file_bytes(file),
        table_bytes=sum(table.total for table in stored_tables(file, models[0].info)),
        parity=tuple(parity),
        not_checked=not_checked,
        max_change=change,
        auc=auc,
        files={item.name: (item.stat().st_size, sha256(item)) for item in model_files(file)},
    )


def _models(file: Path) -> tuple[list[Model], tuple[str, ...]]:
    """The file in every runtime that claims to run it, and the runtimes that are missing here."""
    first = ondevice.load(file)
    models, missing = [first], []
    if first.engine == "native":
        models.append(ondevice.load(file, engine="numpy"))
    elif first.engine == "numpy":
        missing.append("the native engine (not compiled here)")
    elif first.engine == "tflite":
        for runtime in RUNTIMES:
            if first.runner.runtime.startswith(runtime):
                continue
            try:
                models.append(replace(first, runner=TfliteEngine(file, runtime=runtime)))
            except MissingDependencyError:
                missing.append(f"{runtime} (not available here)")
    return models, tuple(missing)


def _checked_difference(
    file: Path, model: Model, got: Outputs, right: Outputs, tolerance: float
) -> float:
    found = difference(got, right)
    if not found <= tolerance:  # also catches NaN
        hint = "" if tolerance <= TOLERANCE else "; try --float-layers, or calibrate with more rows"
        raise ParityError(
            f"{file.name}: probabilities differ from the torch module by "
            f"{found:.3g} in {model.runner.runtime}, more than {tolerance:g}; "
            f"nothing was written{hint}"
        )
    return found


def _outputs(model: Model, batch: Mapping[str, Array]) -> dict[str, FloatArray]:
    scores = model.predict(batch)
    return scores if isinstance(scores, dict) else {model.outputs[0]: scores}


def difference(left: Outputs, right: Outputs) -> float:
    """The largest difference of all outputs; NaN where there is one.

    Raises:
        ParityError: unequal shapes.
    """
    for name, expected in right.items():
        if left[name].shape != expected.shape:
            raise ParityError(
                f"output {name!r} has shape {list(left[name].shape)} instead of "
                f"{list(expected.shape)}"
            )
    return float(np.max([largest_difference(left[name], right[name]) for name in right]))
