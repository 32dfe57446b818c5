"""One compression trial: train a table design for each field, write it, measure the written file.

Results are stored as JSON under the trial's settings, so that a search or a benchmark that is
stopped continues where it was.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.atomic import atomic_path
from ondevice.codecs import CODECS, Codec
from ondevice.converters import convert
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.features import FIRST_BUCKET_ID, FIRST_VOCABULARY_ID, OOV_ID, PADDING_ID, FeatureSpec
from ondevice.features import Field as InputField
from ondevice.inspection import inspect
from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.data import HashedLog, boundaries, split
from ondevice.models.data.hashed import IdArray, encoded
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.rounding import Rounding
from ondevice.models.networks import ClickModel, table_counts
from ondevice.models.training.experiment import example_ids
from ondevice.models.training.phases import FitConfig, fit, rounded
from ondevice.models.training.refit import Refit
from ondevice.models.training.shift import shift_tables
from ondevice.models.training.trainer import TrainConfig, evaluate, train
from ondevice.models.training.widths import Widths
from ondevice.spec import (
    LookupSpec,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

SCORE_BATCH = 8192
WHOLE = Widths("whole")
# The learning rate of rounding epochs is divided by this, as in `ondevice train`.
ROUNDING_SLOWER = Rounding().slower
HASHES = 2  # of a multi-hash tail
# Of a binary code of hashes. More blocks would keep more values apart, but each row would serve
# more of them; one block more cost 0.05 AUC where a tail had 50 rows.
HASH_BLOCKS = 3

Tail = Literal["shared", "hash", "multi_hash", "quotient_remainder", "binary_code"]
TAILS: tuple[Tail, ...] = get_args(Tail)


@dataclass(frozen=True)
class TableDesign:
    """How the table of one field is built.

    Attributes:
        dim: width of the rows.
        codec: how they are stored.
        head: how many values own a row, the most frequent ones of training; None for all of them.
        tail: what all other values read. "shared": one row together. Otherwise rows that the
            value's ID selects, as `ondevice.spec` says.
        size: of the tail. "hash": rows; "multi_hash": rows of each of two hashes;
            "quotient_remainder": remainders; "binary_code": bits of a block (succession, separate
            rows, summed).

    Raises:
        SpecError: a setting out of range.
    """

    dim: int = 16
    codec: Codec = "q4"
    head: int | None = None
    tail: Tail = "shared"
    size: int = 0

    def __post_init__(self) -> None:
        faults = []
        if self.dim < 1:
            faults.append(f"dim must be at least 1, got {self.dim}")
        if self.codec not in CODECS:
            faults.append(f"codec must be one of {', '.join(CODECS)}, got {self.codec!r}")
        if self.head is not None and self.head < 0:
            faults.append(f"head must not be negative, got {self.head}")
        if self.tail not in TAILS:
            faults.append(f"tail must be one of {', '.join(TAILS)}, got {self.tail!r}")
        elif (self.tail == "shared") != (self.size == 0) or self.size < 0:
            faults.append(f"tail {self.tail!r} with size {self.size}")
        if faults:
            raise SpecError("table design: " + "; ".join(faults))

    def own(self, values: int) -> int:
        """How many of a field's values own a row."""
        return values if self.head is None else min(self.head, values)

    def spec(self, values: int, *, ranked: bool) -> LookupSpec:
        """The lookup of a field with so many training values; no ID is padding.

        Missing and unseen values (IDs 0 and 1) own a row each if any value does. The code of a
        binary-code tail has the bits that ranked IDs need, or HASH_BLOCKS blocks of hashes.
        """
        own = self.own(values)
        if self.tail == "shared" or own == values:
            return full_spec(own + FIRST_VOCABULARY_ID, self.dim, oov_row=OOV_ID)
        head = own + FIRST_VOCABULARY_ID if own else 0
        if self.tail == "hash":
            return hashing_spec(self.size, self.dim, head=head)
        if self.tail == "multi_hash":
            return multi_hash_spec(self.size, self.dim, hashes=HASHES, head=head)
        ids = values + FIRST_VOCABULARY_ID
        if self.tail == "quotient_remainder":
            return quotient_remainder_spec(ids, self.dim, remainders=self.size, head=head)
        bits = code_bits(values) if ranked else min(64, HASH_BLOCKS * self.size)
        return binary_code_spec(self.dim, code_bits=bits, t=min(self.size, bits), head=head)


def code_bits(values: int) -> int:
    """Bits of the ranked IDs of a field with so many training values."""
    return max(1, (values + FIRST_VOCABULARY_ID - 1).bit_length())


@dataclass(frozen=True)
class Trial:
    """Settings of one trial.

    Attributes:
        tables: the design of each field's table; numbers in buckets always own their rows.
        ranked: IDs arrive as frequency-ranked indices: 2 for the most frequent training value, 3
            for the next, and so on, 1 for unseen ones; no vocabulary is shipped. Otherwise raw
            values arrive: values that own a row are found in a vocabulary.
        hidden: sizes of the network's hidden layers.
        seed: of initial weights and training.
        epochs, batch, learning_rate: see TrainConfig.
        widths: how kept widths of the rows are found.
        refit: how rows are refitted with the network fixed; None for not at all.
        round_epochs: so many more epochs with tables rounded as they will be stored, at a quarter
            of the learning rate; they count if they validate better than rounding afterwards.

    Raises:
        SpecError: a setting out of range.
    """

    tables: Mapping[str, TableDesign]
    ranked: bool = False
    hidden: tuple[int, ...] = (128, 64)
    seed: int = 0
    epochs: int = 5
    batch: int = 4096
    learning_rate: float = 2e-3
    widths: Widths = WHOLE
    refit: Refit | None = None
    round_epochs: int = 0

    def __post_init__(self) -> None:
        _ = self.training
        if self.round_epochs < 0:
            raise SpecError(f"rounding epochs must not be negative, got {self.round_epochs}")

    @property
    def training(self) -> TrainConfig:
        """How the trial trains."""
        return TrainConfig(
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            patience=1,
            seed=self.seed,
        )

    @property
    def codecs(self) -> dict[str, Codec]:
        """The codec of each field's table, for `convert`."""
        return {name: design.codec for name, design in self.tables.items()}

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        plain = {name: asdict(design) for name, design in self.tables.items()}
        settings = {**asdict(replace(self, tables={})), "tables": plain}
        as_read: dict[str, Any] = json.loads(json.dumps(settings))  # tuples become lists
        return as_read


@dataclass(frozen=True)
class TrialResult:
    """What the written .odm file of a trial holds and reaches.

    Attributes:
        table_bytes: all tables with scales and width indexes.
        map_bytes: 8 for each value that owns a row, what raw IDs need on top; nothing if IDs
            arrive as frequency-ranked indices.
        validation_auc: decides in a search.
        test_auc: for reports alone.
    """

    trial: Trial
    table_bytes: int
    map_bytes: int
    validation_auc: float
    test_auc: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**self.__dict__, "trial": self.trial.to_json()}


@dataclass(frozen=True)
class TrialData:
    """A log, prepared once for many trials.

    Attributes:
        log: the log, without sequences.
        parts: its training, validation and test parts.
        values: per categorical field the hashes of its training values, the most frequent first
            (of equal counts the smaller hash).
        counts: how often each of them occurs in training.
    """

    log: HashedLog
    parts: tuple[HashedLog, HashedLog, HashedLog]
    values: dict[str, IdArray]
    counts: dict[str, IdArray]

    @cached_property
    def digest(self) -> bytes:
        """A hash of the data themselves."""
        digest = hashlib.sha256()
        for name, hashes in self.log.hashes.items():
            digest.update(name.encode() + np.ascontiguousarray(hashes).tobytes())
        digest.update(np.ascontiguousarray(self.log.labels).tobytes())
        return digest.digest()

    @cached_property
    def edges(self) -> dict[str, InputField]:
        """The fields of numbers, with the bucket boundaries of the training part."""
        train = self.parts[0]
        return {
            item.name: replace(
                item, boundaries=boundaries(train.hashes[item.name].view(np.float64), 32)
            )
            for item in self.log.features.fields
            if item.encoding == "bucket"
        }

    @cached_property
    def ranked(self) -> Splits:
        """The parts with frequency-ranked indices as IDs."""
        fields = tuple(
            self.edges.get(item.name) or InputField(item.name, "integer", "id")
            for item in self.log.features.fields
        )
        return Splits(*(self._ranked(part, FeatureSpec(fields)) for part in self.parts))

    def _ranked(self, part: HashedLog, features: FeatureSpec) -> ClickLog:
        ids = {}
        for item in features.fields:
            hashes = part.hashes[item.name]
            if item.name in self.edges:
                ids[item.name] = encoded(part, FeatureSpec((item,))).ids[item.name]
                continue
            known = self.values[item.name]
            order = np.argsort(known)
            at = np.minimum(np.searchsorted(known, hashes, sorter=order), len(known) - 1)
            found = known[order[at]] == hashes
            ids[item.name] = np.where(found, order[at] + FIRST_VOCABULARY_ID, OOV_ID)
            ids[item.name][hashes == PADDING_ID] = PADDING_ID
        return ClickLog(features, ids, part.labels)

    def encoded(self, trial: Trial) -> Splits:
        """The parts as a trial needs them. Raises SpecError, InputError."""
        if set(trial.tables) != set(self.values):
            raise SpecError(
                f"trial: designs for {', '.join(trial.tables)}; the fields are "
                f"{', '.join(self.values)}"
            )
        if trial.ranked:
            return self.ranked
        fields = tuple(
            self.edges.get(item.name) or self._raw_field(item, trial.tables[item.name])
            for item in self.log.features.fields
        )
        features = replace(self.log.features, fields=fields)
        return Splits(*(encoded(part, features) for part in self.parts))

    def _raw_field(self, item: InputField, design: TableDesign) -> InputField:
        values = self.values[item.name]
        own = design.own(len(values))
        if design.tail != "shared" and own == 0:
            return item
        known = np.sort(values[:own])
        hashed = design.tail != "shared" and own < len(values)
        return replace(
            item,
            encoding="vocabulary",
            vocabulary=known,
            unknown="hash" if hashed else "oov",
        )


def prepare(log: HashedLog) -> TrialData:
    """Split a log and count its training values. Raises InputError when it has sequences."""
    if sequences := [item.name for item in log.features.fields if item.length is not None]:
        raise InputError(f"compression trials take no sequences: {', '.join(sequences)}")
    parts = split(log)
    values, counts = {}, {}
    for item in log.features.fields:
        if item.encoding == "bucket":
            continue
        distinct, occurrences = np.unique(parts[0].hashes[item.name], return_counts=True)
        distinct, occurrences = (a[distinct != PADDING_ID] for a in (distinct, occurrences))
        order = np.argsort(-occurrences, kind="stable")
        values[item.name], counts[item.name] = distinct[order], occurrences[order]
    return TrialData(log, parts, values, counts)


def run_trial(data: TrialData, trial: Trial, folder: Path, *, progress: bool = True) -> TrialResult:
    """Run a trial, or read its stored result; writes checkpoint, model.odm, then result.json.

    Raises:
        FileFormatError: a stored result that is damaged.
        SpecError: designs that do not fit the log.
    """
    target = folder_of(data, trial, folder)
    if (target / "result.json").is_file():
        return _read(target / "result.json", trial)
    splits = data.encoded(trial)
    model = trained_model(data, trial, splits, progress=progress)
    features = splits.train.features
    examples = {name: ids.tolist() for name, ids in example_ids(splits.test).items()}
    counts = table_counts(model, splits.train)
    save_checkpoint(target / "checkpoint", model, features, {"examples": examples}, counts=counts)
    tensors = {name: torch.tensor(ids) for name, ids in examples.items()}
    report = convert(
        model, (tensors,), target, targets=("odm",), tables=trial.codecs, features=features
    )
    path = report.targets["odm"].path
    owned = [design.own(len(data.values[name])) for name, design in trial.tables.items()]
    result = TrialResult(
        trial=trial,
        table_bytes=sum(table.total for table in inspect(path).tables),
        map_bytes=8 * sum(owned),
        validation_auc=_auc(path, splits.validation),
        test_auc=_auc(path, splits.test),
    )
    with atomic_path(target / "result.json") as temporary:
        text = json.dumps(result.to_json(), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return result


def trained_model(
    data: TrialData, trial: Trial, splits: Splits, *, progress: bool = True
) -> ClickModel:
    """A model of the trial's designs, trained."""
    torch.manual_seed(trial.seed)
    tables = {}
    for item in splits.train.features.fields:
        if item.boundaries is not None:
            rows = len(item.boundaries) + 1 + FIRST_BUCKET_ID
            dim = max(design.dim for design in trial.tables.values())
            tables[item.name] = Embedding(full_spec(rows, dim, oov_row=OOV_ID))
        else:
            design, values = trial.tables[item.name], len(data.values[item.name])
            tables[item.name] = Embedding(design.spec(values, ranked=trial.ranked))
    model = ClickModel(tables, trial.hidden)
    fitted = fit(
        model, splits, FitConfig(trial.training, trial.widths, refit=trial.refit), progress=progress
    )
    shift_tables(model, trial.codecs, fitted.counts)
    interrupted = fitted.interrupted
    if trial.round_epochs and not interrupted:
        interrupted = _round(model, trial, splits, progress)
    if interrupted:
        raise KeyboardInterrupt  # half a training is no result
    return model


def _round(model: ClickModel, trial: Trial, splits: Splits, progress: bool) -> bool:
    """Train on with rounded tables; whether that was interrupted."""
    settings = replace(
        trial.training,
        epochs=trial.round_epochs,
        patience=trial.round_epochs,
        learning_rate=trial.learning_rate / ROUNDING_SLOWER,
    )
    before = copy.deepcopy(model.state_dict())
    with rounded(model, trial.codecs):
        least = evaluate(model, splits.validation).auc
        history = train(model, splits.train, splits.validation, settings, progress)
        if history.best.validation.auc <= least:
            model.load_state_dict(before)
    return history.interrupted


def folder_of(data: TrialData, trial: Trial, folder: Path) -> Path:
    """Where `run_trial` stores a trial: named by its settings and the data themselves."""
    text = json.dumps(trial.to_json(), sort_keys=True)
    return folder / hashlib.sha256(text.encode() + data.digest).hexdigest()[:16]


def _auc(path: Path, log: ClickLog) -> float:
    model = ondevice.load(path)
    scores = [
        model.predict({name: ids[start : start + SCORE_BATCH] for name, ids in log.ids.items()})
        for start in range(0, len(log), SCORE_BATCH)
    ]
    return float(roc_auc_score(log.labels, np.concatenate(scores)))


def _read(path: Path, trial: Trial) -> TrialResult:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("trial") != trial.to_json():
            raise ValueError("it is of other settings")
        return TrialResult(trial, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: not a trial's result: {error}") from error
