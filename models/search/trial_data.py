"""A log that is split, counted and encoded once for many trials."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ondevice.errors import InputError, SpecError
from ondevice.features import FIRST_VOCABULARY_ID, OOV_ID, PADDING_ID, FeatureSpec
from ondevice.features import Field as InputField
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.data import HashedLog, boundaries, split
from ondevice.models.data.hashed import IdArray, encoded
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial


@dataclass(frozen=True)
class TrialData:
    """A log, prepared once for many trials.

    Attributes:
        log: the log, without sequences.
        parts: its training, validation and test parts.
        values: per categorical field the hashes of its training values, the most frequent first
            (of equal counts the smaller hash); numbers are not among them.
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
        if self.log.weights is not None:
            digest.update(np.ascontiguousarray(self.log.weights).tobytes())
        if self.log.negative_sampling != 1:
            digest.update(str(self.log.negative_sampling).encode())
        return digest.digest()

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Names of all fields, categorical and numbers: each has a table."""
        return tuple(item.name for item in self.log.features.fields)

    def rows_of_values(self, name: str) -> int:
        """How many values of a field can own a row: its training values, or a number's buckets."""
        if name in self.numbers:
            edges = self.numbers[name].boundaries
            return 1 + (0 if edges is None else len(edges))
        return len(self.values[name])

    @cached_property
    def numbers(self) -> dict[str, InputField]:
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
            self.numbers.get(item.name) or InputField(item.name, "integer", "id")
            for item in self.log.features.fields
        )
        return Splits(*(self._ranked(part, FeatureSpec(fields)) for part in self.parts))

    def _ranked(self, part: HashedLog, features: FeatureSpec) -> ClickLog:
        ids = {}
        for item in features.fields:
            hashes = part.hashes[item.name]
            if item.name in self.numbers:
                ids[item.name] = encoded(part, FeatureSpec((item,))).ids[item.name]
                continue
            known = self.values[item.name]
            if not len(known):  # every training value is missing
                ids[item.name] = np.where(hashes == PADDING_ID, PADDING_ID, OOV_ID)
                continue
            order = np.argsort(known)
            place = np.minimum(np.searchsorted(known, hashes, sorter=order), len(known) - 1)
            is_known = known[order[place]] == hashes
            ids[item.name] = np.where(is_known, order[place] + FIRST_VOCABULARY_ID, OOV_ID)
            ids[item.name][hashes == PADDING_ID] = PADDING_ID
        others = (part.weights, part.label_names, part.keys, part.negative_sampling)
        return ClickLog(features, ids, part.labels, *others)

    def encoded(self, trial: Trial) -> Splits:
        """The parts as a trial needs them.

        Raises:
            SpecError: designs of other fields than the log's, or one that takes rows from numbers.
        """
        if set(trial.tables) != set(self.fields):
            raise SpecError(
                f"trial: designs for {', '.join(trial.tables)}; the fields are "
                f"{', '.join(self.fields)}"
            )
        if cut := [name for name in self.numbers if trial.tables[name].head is not None]:
            raise SpecError(
                f"trial: every bucket of a number owns a row, so its design has no head; got one "
                f"for {', '.join(cut)}"
            )
        if trial.ranked:
            return self.ranked
        fields = tuple(
            self.numbers.get(item.name) or self._raw_field(item, trial.tables[item.name])
            for item in self.log.features.fields
        )
        features = replace(self.log.features, fields=fields)
        return Splits(*(encoded(part, features) for part in self.parts))

    def _raw_field(self, item: InputField, design: TableDesign) -> InputField:
        values = self.values[item.name]
        mapped = design.values_mapped(len(values))
        if design.tail != "shared" and mapped == 0:
            return item
        known = values[design.order(values)]
        hashed = design.tail != "shared" and mapped < len(values)
        return replace(
            item,
            encoding="vocabulary",
            vocabulary=known,
            vocabulary_groups=design.groups(len(values)),
            unknown="hash" if hashed else "oov",
        )


def prepare(log: HashedLog) -> TrialData:
    """Split a log and count its training values.

    Raises:
        InputError: the log has sequences or several labels.
    """
    if len(log.label_names) > 1:
        raise InputError(
            f"compression trials weigh what fields and tables cost one label's AUC; the log has "
            f"{', '.join(log.label_names)}: describe it with one of them (label = ...)"
        )
    if sequences := [item.name for item in log.features.fields if item.length is not None]:
        names = ", ".join(sequences)
        raise InputError(
            f"compression trials take no sequences: {names}; leave these columns out (ignore = "
            "[...] in the description of the log), or train with them and shrink the trained model"
        )
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
