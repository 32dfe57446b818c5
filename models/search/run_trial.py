"""Run one compression trial: train its tables, write them, measure the written file.

Results are stored as JSON under the trial's settings, so that a search or a benchmark that is
stopped continues where it was.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.atomic import atomic_path
from ondevice.codecs import ScaleAxis
from ondevice.converters import convert
from ondevice.converters.convert import TARGETS
from ondevice.converters.verify.report import ConversionReport
from ondevice.errors import PARSE_ERRORS, FileFormatError
from ondevice.features import FeatureSpec
from ondevice.inspection import file_parts
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.data import HashedLog
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.rounding import Rounding
from ondevice.models.networks import ClickModel, table_counts
from ondevice.models.retrieval import HashedModel, hashed_ids, replaceable, without_vocabularies
from ondevice.models.search.adapted import adapted
from ondevice.models.search.bootstrap import resampled_auc
from ondevice.models.search.measure import FINGERPRINT_BITS, RETRIEVAL_FROM
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import WHOLE, Trial, TrialResult
from ondevice.models.search.trial_data import TrialData
from ondevice.models.training.distillation import Note, TeacherSet, silent, teacher_folder
from ondevice.models.training.experiment import example_ids
from ondevice.models.training.phases import FitConfig, fit, round_tables, rounded
from ondevice.models.training.refit import Refit, fixed_network
from ondevice.models.training.row_weights import undo_sampling
from ondevice.models.training.shift import shift_tables
from ondevice.models.training.trainer import evaluate, train
from ondevice.odm import open_odm
from ondevice.records import RecordTable
from ondevice.temporary import temporary_folder

SCORE_BATCH = 8192
# The learning rate of rounding epochs is divided by this, as in `ondevice train`.
ROUNDING_SLOWER = Rounding().slower
# Of refitted rows, which the network must not learn to trust again, and which are nearly settled.
REFITTED_SLOWER = 10.0


def run_trial(data: TrialData, trial: Trial, folder: Path, *, progress: bool = True) -> TrialResult:
    """Run a trial, or read its stored result; writes checkpoint, files, then result.json.

    Raises:
        FileFormatError: a stored result that is damaged.
        SpecError: designs that do not fit the log.
    """
    target = folder_of(data, trial, folder)
    if (target / "result.json").is_file():
        return _read(target / "result.json", trial)
    started = time.monotonic()
    splits = data.encoded(trial)
    targets = distilled_targets(data, trial, folder, progress=progress)
    model = trained_model(data, trial, splits, targets, folder=folder, progress=progress)
    undo_sampling(model, splits.train.negative_sampling)
    size = _write(data, trial, model, splits, target)
    path = target / "model.odm"
    scores = _scores(path, splits.test, data.parts[2])
    test = splits.test
    result = TrialResult(
        trial=trial,
        **size.__dict__,
        validation_auc=_auc(splits.validation, _scores(path, splits.validation, data.parts[1])),
        test_auc=_auc(test, scores),
        resampled=resampled_auc(test.labels, scores, test.weights),
        seconds=time.monotonic() - started,
    )
    with atomic_path(target / "result.json") as temporary:
        text = json.dumps(result.to_json(), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return result


@dataclass(frozen=True)
class FileSize:
    """Bytes of a written file and of its parts, as `TrialResult` has them."""

    table_bytes: int
    map_bytes: int
    network_bytes: int
    file_bytes: int


def size_before_training(data: TrialData, trial: Trial, folder: Path) -> FileSize:
    """What a trial's file will take, from a file that is written and thrown away.

    Its rows and units come from the trial `start`, or are initial ones, untrained after that. What
    training changes can only be whether q8 tables (and others without levels) get scales of rows or
    of columns.
    """
    splits = data.encoded(trial)
    model = _adapted(data, trial, splits, folder) if trial.start else _initial(data, trial)
    with temporary_folder(folder) as temporary:
        return _write(data, trial, model, splits, temporary / "trial")


def _write(
    data: TrialData, trial: Trial, model: ClickModel, splits: Splits, target: Path
) -> FileSize:
    """Write checkpoint, model.odm and what else ships of a trial to a folder."""
    features = splits.train.features
    examples = {name: ids.tolist() for name, ids in example_ids(splits.test).items()}
    counts = table_counts(model, splits.train)
    save_checkpoint(target / "checkpoint", model, features, {"examples": examples}, counts=counts)
    targets = dict.fromkeys(("odm", trial.ships))
    report = write_files(model, features, examples, trial, target, tuple(targets))
    return _size(report.targets[trial.ships].path)


def write_files(
    model: ClickModel,
    features: FeatureSpec,
    examples: Mapping[str, npt.ArrayLike],
    trial: Trial,
    out: Path,
    targets: Sequence[str] = TARGETS,
) -> ConversionReport:
    """Convert a trial's trained model as the trial says.

    Args:
        model: the trained model.
        features: how raw values become its IDs.
        examples: a few IDs by field.
        trial: whose model it is.
        out: folder of the files.
        targets: which files to write.

    Raises:
        UnsupportedError, ParityError, InputError: see `convert`.
    """
    ids = {name: np.asarray(values, dtype=np.int64) for name, values in examples.items()}
    original = None
    if trial.map == "retrieval":
        chosen = []
        for name in replaceable(model, features):
            vocabulary = features[name].vocabulary
            if vocabulary is not None and len(vocabulary) >= RETRIEVAL_FROM:
                chosen.append(name)
        narrow = {name: trial.tables[name].codec for name in chosen}
        ids |= {name: hashed_ids(features[name], ids[name]) for name in chosen}
        smaller, hashed = without_vocabularies(
            model, features, narrow, fingerprint_bits=FINGERPRINT_BITS, fields=chosen
        )
        original = HashedModel(model, features, hashed)
        model, features = smaller, hashed
    tensors = {name: torch.from_numpy(values) for name, values in ids.items()}
    return convert(
        model,
        (tensors,),
        out,
        targets=targets,
        tables=trial.codecs,
        dense=trial.dense,
        features=features,
        original=original,
        vectors=trial.vectors,
    )


def _size(path: Path) -> FileSize:
    """Bytes of a written file."""
    parts = file_parts(path)
    return FileSize(parts.tables, parts.map, parts.network, parts.total)


def distilled_targets(
    data: TrialData,
    trial: Trial,
    folder: Path,
    *,
    progress: bool = True,
    note: Note = silent,
) -> npt.NDArray[np.float32] | None:
    """What the trial learns in place of the training labels; None without distillation.

    A teacher has a float row for every value, the trial's network and training, and is refitted.
    Teachers do not depend on the trial's designs or seed: all trials in `folder` share them.
    """
    settings = trial.distillation
    if settings is None:
        return None
    config = FitConfig(trial.training, WHOLE, refit=trial.refit or Refit())

    def build() -> ClickModel:
        whole = TableDesign(settings.dim, "f32")
        tables = {
            name: Embedding(whole.spec(data.rows_of_values(name), ranked=True))
            for name in data.fields
        }
        return ClickModel(tables, trial.hidden)

    stored = teacher_folder(folder, data.digest.hex(), settings, config, list(trial.hidden))
    teachers = TeacherSet(settings, build, data.ranked, config, stored)
    return teachers.targets(progress=progress, note=note)


def trained_model(
    data: TrialData,
    trial: Trial,
    splits: Splits,
    targets: npt.NDArray[np.float32] | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> ClickModel:
    """A model of the trial's designs, trained.

    Args:
        data: the prepared log.
        trial: the settings.
        splits: encoded for the trial.
        targets: of `distilled_targets`.
        folder: has the trial `start`, if the trial goes on from one.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        KeyboardInterrupt: it was interrupted; half a training is no result.
    """
    torch.manual_seed(trial.seed)
    if trial.start and folder is not None:
        model = _adapted(data, trial, splits, folder)
    else:
        model = _initial(data, trial)
    fitted = fit(
        *(model, splits, FitConfig(trial.training, trial.widths, refit=trial.refit)),
        trained=trial.is_refit,
        progress=progress,
        targets=targets,
    )
    codecs = {name: item for name, item in trial.codecs.items() if isinstance(item, str)}
    shift_tables(model, codecs, fitted.counts)
    interrupted = fitted.interrupted
    if trial.round_epochs and not interrupted:
        interrupted = _round(model, trial, splits, fitted.counts, targets, progress)
    if interrupted:
        raise KeyboardInterrupt  # half a training is no result
    round_tables(model, trial.codecs, fitted.counts)
    return model


def _initial(data: TrialData, trial: Trial) -> ClickModel:
    """A model of the trial's designs with initial weights."""
    tables = {
        name: Embedding(trial.spec(name, data.rows_of_values(name), number=name in data.numbers))
        for name in data.fields
    }
    return ClickModel(tables, trial.hidden)


def _adapted(data: TrialData, trial: Trial, splits: Splits, folder: Path) -> ClickModel:
    """The model of the trial `start`, with this trial's rows and units."""
    start = folder / trial.start
    before = Trial.from_json(_settings(start))
    model = adapted(load_checkpoint(start / "checkpoint").model, before, trial, data, splits.train)
    undo_sampling(model, 1 / splits.train.negative_sampling)  # it is trained on the sampled log
    return model


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of a trial that is stored in a folder."""
    try:
        data = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        settings: dict[str, Any] = data["trial"]
    except PARSE_ERRORS as error:
        raise FileFormatError(f"{folder}: not a stored trial to go on from: {error}") from error
    return settings


def _round(
    model: ClickModel,
    trial: Trial,
    splits: Splits,
    counts: Mapping[str, npt.NDArray[np.int64]],
    targets: npt.NDArray[np.float32] | None,
    progress: bool,
) -> bool:
    """Train on with rounded tables; whether that was interrupted.

    Refitted rows are trained under the refit's first prior, with the network fixed.
    """
    refit = trial.refit
    settings = replace(
        trial.training,
        epochs=trial.round_epochs,
        patience=trial.round_epochs,
        learning_rate=trial.learning_rate / (REFITTED_SLOWER if refit else ROUNDING_SLOWER),
        row_penalty=refit.penalties[0] if refit and refit.penalties else 0.0,
    )
    before = copy.deepcopy(model.state_dict())
    learning = fixed_network(model) if refit else contextlib.nullcontext()
    with rounded(model, trial.codecs, counts), learning:
        least = evaluate(model, splits.validation).auc
        history = train(
            *(model, splits.train, splits.validation, settings, progress), targets=targets
        )
        if history.best.validation.auc <= least:
            model.load_state_dict(before)
    return history.interrupted


def written_axes(data: TrialData, trial: Trial, folder: Path) -> dict[str, ScaleAxis | None]:
    """What the scales of each field's table belong to in the written file of a trial."""
    opened = open_odm(folder_of(data, trial, folder) / "model.odm")
    axes: dict[str, ScaleAxis | None] = {}
    for node in opened.plan.nodes:
        table = None if node.table is None else opened.tables[node.table]
        if isinstance(table, RecordTable):  # tables in sections have an axis each
            axes[node.inputs[0]] = table.layout.scale_axis
    return axes


def folder_of(data: TrialData, trial: Trial, folder: Path) -> Path:
    """Where `run_trial` stores a trial: named by its settings and the data themselves."""
    text = json.dumps(trial.to_json(), sort_keys=True)
    return folder / hashlib.sha256(text.encode() + data.digest).hexdigest()[:16]


def _scores(path: Path, log: ClickLog, hashed: HashedLog) -> npt.NDArray[np.float32]:
    """What the written file answers for a log, float32 [n].

    Args:
        path: of the file.
        log: encoded as the model was trained.
        hashed: the same rows, for fields that the file reads by their hashes.
    """
    model = ondevice.load(path)
    by_hash = {item.name for item in model.features.fields if item.encoding == "hash"}
    ids = {
        name: hashed.hashes[name] if name in by_hash else values for name, values in log.ids.items()
    }
    parts = [
        model.predict({name: values[start : start + SCORE_BATCH] for name, values in ids.items()})
        for start in range(0, len(log), SCORE_BATCH)
    ]
    return np.concatenate(parts)


def _auc(log: ClickLog, scores: npt.NDArray[np.float32]) -> float:
    return float(roc_auc_score(log.labels, scores, sample_weight=log.weights))


def _read(path: Path, trial: Trial) -> TrialResult:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("trial") != trial.to_json():
            raise ValueError("it is of other settings")
        if "file_bytes" not in data:  # of a release that kept less
            data |= _size(path.with_name(f"model.{trial.ships}")).__dict__
        data["resampled"] = tuple(data.get("resampled", ()))
        return TrialResult(trial, **data)
    except PARSE_ERRORS as error:
        raise FileFormatError(f"{path}: not a trial's result: {error}") from error
