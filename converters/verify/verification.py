"""Verification: the torch module beside every written file, in every runtime of this machine."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ondevice
from ondevice.converters.source.torch_source import Source
from ondevice.converters.tables.file_pages import release_file_pages
from ondevice.converters.tables.packed_table import PackedTable
from ondevice.converters.verify.number_inputs import NumberRequests, number_limits
from ondevice.converters.verify.report import TargetReport
from ondevice.difference import ScaleArray, largest_difference, output_scale
from ondevice.engines.tflite import RUNTIMES, TfliteEngine
from ondevice.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    ParityError,
    SpecError,
    UnsupportedError,
    needs_extra,
)
from ondevice.info import InputSpec
from ondevice.inspection import file_parts
from ondevice.model import Model, checked_inputs, model_files, sha256
from ondevice.ranking import named_scores, ranking_difference
from ondevice.verify import Parity

SCORE_BATCH = 8192
# Largest difference, in units of the output's scale, between the torch module, computing with the
# dequantised tables, and a converted file: float32 sums in another order stay two magnitudes below.
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
        weights: what each row counts for, float32 [rows]; None: all the same.

    Raises:
        InputError: another shape, other labels, or only one of the labels.
    """

    inputs: dict[str, Array]
    labels: FloatArray
    source: str = "validation rows"
    weights: FloatArray | None = None

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
            raise InputError("validation: labels must be a list of 0 and 1")
        if len(np.unique(labels)) != 2:
            raise InputError(f"validation: an AUC needs both labels, got {len(labels)} rows of one")
        if wrong := [name for name, ids in self.inputs.items() if len(ids) != len(labels)]:
            raise InputError(f"validation: not one value per label in {', '.join(wrong)}")
        if self.weights is not None and self.weights.shape != labels.shape:
            raise InputError(f"validation: weights must be float32 [{len(labels)}]")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def auc(self, scores: FloatArray) -> float:
        """Area under the ROC curve of scores float32 [rows]."""
        with needs_extra("the AUC of a validation set", "train"):
            from sklearn.metrics import roc_auc_score
        return float(roc_auc_score(self.labels, scores, sample_weight=self.weights))

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
        own: outputs of the module with its float32 tables.
        trained: inputs, and the trained module's outputs for them: what changes are counted from.
        validation: labelled rows, if any.
        scores: the trained module's first output on them.
        auc: of the trained module on them.
        own_auc: of the module, where it was compressed after training and the two differ.
        refused: inputs of single requests that the torch module refuses.
        numbers: requests with numbers of every magnitude, if any input holds integers that are.
    """

    batches: Sequence[dict[str, Array]]
    stored: Sequence[Outputs]
    own: Sequence[Outputs]
    trained: Sequence[tuple[dict[str, Array], Outputs]]
    validation: Validation | None = None
    scores: FloatArray | None = None
    auc: float | None = None
    own_auc: float | None = None
    refused: Sequence[dict[str, Array]] = ()
    numbers: NumberRequests | None = None

    @functools.cached_property
    def scales(self) -> dict[str, ScaleArray]:
        """The unit of a difference, by output, for every position in a row."""
        return {
            name: output_scale([outputs[name] for outputs in self.stored])
            for name in self.stored[0]
        }

    @property
    def probabilities(self) -> bool:
        """Whether all outputs of the batches lie between 0 and 1."""
        arrays = (array for outputs in self.stored for array in outputs.values())
        return all(bool(((array >= 0) & (array <= 1)).all()) for array in arrays)

    def difference(self, left: Outputs, right: Outputs) -> float:
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
        differences = [
            largest_difference(left[name], right[name], self.scales[name]) for name in right
        ]
        return float(np.max(differences))


def expected_of(
    source: Source,
    trained: Source,
    batches: Sequence[dict[str, Array]],
    own: Sequence[dict[str, FloatArray]],
    tables: Mapping[str, PackedTable],
    validation: Validation | None,
    inputs: Sequence[InputSpec],
) -> Expected:
    """Run the torch module with the tables of files on the batches, and on the validation rows.

    Args:
        source: the module.
        trained: what it was compressed from; the same where it was not.
        batches: inputs.
        own: what the module answers to them.
        tables: as files store them.
        validation: labelled rows, if any.
        inputs: what the module takes.

    Raises:
        SpecError: `trained` has other inputs or outputs.
        InputError: the validation rows do not fit.
    """
    if (trained.names, trained.outputs) != (source.names, source.outputs):
        raise SpecError(
            f"the original module takes {', '.join(trained.names)} and returns "
            f"{', '.join(trained.outputs)}; this one takes {', '.join(source.names)} and returns "
            f"{', '.join(source.outputs)}"
        )
    expected = Expected(
        batches=batches,
        stored=[source(batch, tables) for batch in batches],
        own=own,
        # codes have vectors for IDs that the trained table rejects: only its examples are safe
        trained=list(zip(batches, own, strict=True))
        if trained is source
        else [(trained.examples, trained(trained.examples))],
    )
    if validation is None:
        return expected
    fitting = replace(validation, inputs=checked_rows("validation", inputs, validation.inputs))
    scores = main_score(trained, fitting)
    return replace(
        expected,
        validation=fitting,
        scores=scores,
        auc=fitting.auc(scores),
        own_auc=None if trained is source else fitting.auc(main_score(source, fitting)),
    )


def checked_rows(
    what: str, inputs: Sequence[InputSpec], rows: Mapping[str, Any]
) -> dict[str, Array]:
    """Rows by input name as the model takes them; other columns are left out.

    Raises:
        InputError: begins with `what`: an input is missing, or has a wrong dtype, shape or ID.
    """
    known = {item.name: rows[item.name] for item in inputs if item.name in rows}
    try:
        return checked_inputs(inputs, known)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def main_score(
    predict: Source | Callable[[Mapping[str, Array]], Outputs], validation: Validation
) -> FloatArray:
    """The first output on the validation rows, float32 [rows]; of a matrix the first column.

    Raises:
        InputError: the model rejects a row, or returns no finite number for it.
    """
    try:
        outputs = [next(iter(predict(batch).values())) for batch in validation.batches()]
    except IndexError as error:  # torch's, for an ID beyond a table
        raise InputError(f"validation: the module rejects a row: {error}") from error
    scores = np.concatenate([array.reshape(len(array), -1)[:, 0] for array in outputs])
    if len(wrong := np.flatnonzero(~np.isfinite(scores))):
        raise InputError(f"validation: the model returns {scores[wrong[0]]} for row {wrong[0] + 1}")
    return scores


def measure_file(file: Path, expected: Expected, tolerance: float) -> TargetReport:
    """Compare a file with the torch module in every engine of this machine that runs it.

    Raises:
        ParityError: outputs have other shapes, or it refuses what the module answers.
        MissingDependencyError: no runtime for the file is installed.
        UnsupportedError: the runtime lacks an operator of the file.
    """
    loaders, not_checked = _loaders(file)
    models = [load() for load in loaders]
    release_file_pages()  # of loading
    rows = sum(len(next(iter(right.values()))) for right in expected.stored)
    parity, changes = [], []
    for load, model in zip(loaders, models, strict=True):
        differences = [
            expected.difference(_answers(model, batch), stored)
            for batch, stored in zip(expected.batches, expected.stored, strict=True)
        ]
        ranked = ranking_difference(load, expected.batches[-1], expected.scales)
        parity.append(
            Parity(model.runner.runtime, rows, float(np.max(differences)), ranked, tolerance)
        )
        changes += [
            expected.difference(_outputs(model, batch), right) for batch, right in expected.trained
        ]
    warn_of_answers(models[0], expected.refused)
    auc = None
    accepted = all(item.passed for item in parity)
    if accepted and expected.validation is not None and expected.scores is not None:
        scores = main_score(functools.partial(_outputs, models[0]), expected.validation)
        scale = next(iter(expected.scales.values())).reshape(-1)[0]  # of the main score
        changes.append(largest_difference(scores, expected.scores, scale))
        auc = expected.validation.auc(scores)
    return TargetReport(
        path=file,
        parts=file_parts(file),
        parity=tuple(parity),
        not_checked=not_checked,
        max_change=float(np.max(changes)),
        auc=auc,
        files={item.name: (item.stat().st_size, sha256(item)) for item in model_files(file)},
    )


def limits_of_numbers(files: Iterable[Path], expected: Expected) -> dict[str, int]:
    """Bounds of numbers by input name, below which all engines agree with the torch module."""
    if expected.numbers is None:
        return {}
    models = (load() for file in files for load in _loaders(file)[0])
    return number_limits(models, _outputs, expected.numbers, expected.scales, TOLERANCE)


def warn_of_answers(model: Model, refused: Iterable[Mapping[str, Array]]) -> None:
    """Warn, once, if a model answers a request that the torch module refuses.

    No limit of one input says which these are: they depend on several values, or the module
    refuses them in Python, which its graph does not hold.
    """
    for batch in refused:
        for row in range(len(next(iter(batch.values())))):
            request = {name: array[row : row + 1] for name, array in batch.items()}
            try:
                model.predict(request)
            except InputError:
                continue
            values = ", ".join(f"{name} {array[0].tolist()}" for name, array in request.items())
            warnings.warn(
                f"{model.path.name} answers requests that the module refuses, such as {values}; "
                "check them before they reach the file",
                stacklevel=2,
            )
            return


def _loaders(file: Path) -> tuple[list[Callable[[], Model]], tuple[str, ...]]:
    """What opens the file in each runtime that claims to run it; the runtimes that are missing.

    Raises:
        MissingDependencyError: no runtime for the file is installed.
        UnsupportedError: the runtime cannot open it, as where it lacks an operator on integers.
    """
    try:
        first = ondevice.load(file)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{file.name} cannot be verified, so it is not written: {error}"
        ) from error
    except FileFormatError as error:
        raise UnsupportedError(
            f"the runtime of {file.name} cannot run the model's operators: {error}"
        ) from error
    loaders: list[Callable[[], Model]] = [functools.partial(ondevice.load, file)]
    missing = []
    if first.engine == "native":
        loaders.append(functools.partial(ondevice.load, file, engine="numpy"))
    elif first.engine == "numpy":
        missing.append("the native engine (not compiled here)")
    elif first.engine == "tflite":
        for runtime in RUNTIMES:
            if first.runner.runtime.startswith(runtime):
                continue
            try:
                TfliteEngine(file, runtime=runtime)
            except MissingDependencyError:
                missing.append(f"{runtime} (not available here)")
            else:
                loaders.append(functools.partial(_load_tflite, first, runtime))
    return loaders, tuple(missing)


def _load_tflite(model: Model, runtime: str) -> Model:
    """The same file opened anew in a TFLite runtime."""
    return replace(model, runner=TfliteEngine(model.path, runtime=runtime))


def check_parity(reports: Iterable[TargetReport], *, probabilities: bool, hint: str = "") -> None:
    """Raise ParityError that names every file and runtime beyond its tolerance.

    Args:
        reports: of the written files.
        probabilities: whether outputs lie between 0 and 1, so that a difference is absolute.
        hint: what the user may try, the end of the error's text.
    """
    failed = [(item, parity) for item in reports for parity in item.parity if not parity.passed]
    if not failed:
        return
    faults = [
        f"{item.path.name} by {parity.max_difference:.3g} in {parity.runtime}"
        + (
            f" (rank differs from predict by {parity.rank_difference:.3g})"
            if not parity.rank_difference <= parity.tolerance
            else ""
        )
        for item, parity in failed
    ]
    tolerance = failed[0][1].tolerance
    outputs, unit = ("probabilities", "") if probabilities else ("outputs", " of their scale")
    raise ParityError(
        f"{outputs} differ from the torch module's by more than {tolerance:g}{unit}: "
        f"{', '.join(faults)}; nothing was written{hint}"
    )


def _answers(model: Model, batch: Mapping[str, Array]) -> dict[str, FloatArray]:
    """The outputs for requests that the torch module answers.

    Raises:
        ParityError: the file refuses them.
    """
    try:
        return _outputs(model, batch)
    except InputError as error:
        raise ParityError(
            f"{model.path.name} refuses requests that the module answers: {error}"
            f"{_note_on_negative_ids(model, batch)}"
        ) from error


def _note_on_negative_ids(model: Model, batch: Mapping[str, Array]) -> str:
    """What may be the reason of a refusal: torch's `table[-1]` is the last row."""
    negative = [
        spec.name
        for spec in model.inputs
        if spec.dtype == "int64" and spec.id_limit is not None and spec.id_low == 0
        if (batch[spec.name] < 0).any()
    ]
    if not negative:
        return ""
    return (
        f"; the examples of {', '.join(negative)} hold negative IDs: torch counts those of "
        "table[ids] from the end, files refuse them; give IDs from 0 on"
    )


def _outputs(model: Model, batch: Mapping[str, Array]) -> dict[str, FloatArray]:
    return named_scores(model, model.predict(batch))
