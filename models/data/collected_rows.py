"""The rows of a log, collected and divided into training, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from ondevice.errors import DataError, InputError
from ondevice.features import FeatureSpec
from ondevice.models.data.builder import LogBuilder, Rows, ordered_by_part
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import FieldSettings, HashedLog
from ondevice.models.data.row_rules import MAX_TEXTS, SPLIT_HASH
from ondevice.models.data.splits import (
    PARTS,
    PartArray,
    SplitRule,
    mixed_hash,
    part_of_hash,
    part_of_time,
)


class CollectedRows:
    """The rows of a log so far, and the part that each row's file says."""

    def __init__(self, description: LogDescription, split: SplitRule | None) -> None:
        """No rows yet."""
        self._description = description
        self._split = split
        features = FeatureSpec(description.features, description.text_format, description.columns)
        self._builder = LogBuilder(features, labels=tuple(description.labels))
        self._parts: list[tuple[int, int]] = []  # how many rows, and their part

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._builder)

    def add(self, rows: Rows, part: int) -> None:
        """Append rows of a file that says this part."""
        self._builder.add_rows(rows)
        self._parts.append((len(rows.labels), part))

    def log(self, name: str, refused: int, texts: Mapping[str, Mapping[int, str]]) -> HashedLog:
        """The log of all rows, divided as the split says; add nothing after.

        Args:
            name: of the log.
            refused: how many rows could not be read.
            texts: by key, the texts of its hashes: see `RowRules.texts`.

        Raises:
            DataError: no rows, or a part without rows or with rows of one label only.
        """
        description, split = self._description, self._split
        log = self._builder.build(name)
        if not len(log):
            raise DataError(f"{name}: no rows")
        log = replace(
            log,
            settings=_settings(description),
            negative_sampling=description.negative_sampling,
            refused=refused,
            key_texts={key: known for key, known in texts.items() if len(known) <= MAX_TEXTS},
        )
        if split is None:
            return log
        parts = _parts(log, split, self._parts)
        keys = {key: values for key, values in log.keys.items() if key != SPLIT_HASH}
        _check_labels(log, (("", log.labels),), description)
        try:
            ordered = ordered_by_part(replace(log, keys=keys), parts)
            named = ((f" for {part}", ordered.part(n).labels) for n, part in enumerate(PARTS))
            _check_labels(ordered, named, description)
        except DataError as error:
            if split.by != "random":
                raise
            raise DataError(
                f"{error}; a random split keeps equal rows together: where a log has few different "
                "rows, give it a time column, or split it by hash:COLUMN"
            ) from error
        return ordered


def _parts(log: HashedLog, split: SplitRule, file_parts: Sequence[tuple[int, int]]) -> PartArray:
    """The part of each row, uint8 [n]. Raises DataError."""
    if split.by == "folders":
        counts, parts = zip(*file_parts, strict=True)
        return np.repeat(np.array(parts, np.uint8), counts)
    if split.by == "time":
        if log.times is None:
            raise InputError("a split by time needs the column of times in the description")
        return part_of_time(log.times, split, log.name)
    if split.by == "hash":
        return part_of_hash(log.keys[SPLIT_HASH].view(np.uint64), split.shares)
    return _at_random(log, split)


def _at_random(log: HashedLog, split: SplitRule, chunk: int = 1 << 18) -> PartArray:
    """Parts by a hash of the whole row: of its fields, labels and time. Equal rows share one."""
    parts = np.empty(len(log), np.uint8)
    for start in range(0, len(log), chunk):
        rows = slice(start, start + chunk)
        columns = [
            column
            for values in log.hashes.values()
            for column in values[rows].reshape(len(values[rows]), -1).T
        ]
        columns += list(log.labels[rows].reshape(len(log.labels[rows]), -1).T.astype(np.int64))
        if log.times is not None:
            columns.append(log.times[rows])
        parts[rows] = part_of_hash(mixed_hash(columns), split.shares)
    return parts


def _check_labels(
    log: HashedLog,
    parts: Iterable[tuple[str, npt.NDArray[np.float32]]],
    description: LogDescription,
) -> None:
    """Refuse rows that all have one label: they have no AUC. Raises DataError.

    Args:
        log: whose labels these are.
        parts: of it, each with what is said of it in an error.
        description: of the log.
    """
    for part, values in parts:
        labels = values.reshape(-1, len(log.label_names))
        clicks = labels.sum(axis=0, dtype=np.float64)
        for name, count in zip(log.label_names, clicks.tolist(), strict=True):
            if not 0 < count < len(labels):
                column = description.labels[name].column
                raise DataError(
                    f"{log.name}: the label column {column!r} is {'1' if count else '0'} in all "
                    f"{len(labels)} rows{part}; both labels are needed"
                )


def _settings(description: LogDescription) -> dict[str, FieldSettings]:
    """What the description asks of each field's table."""
    names = [item.name for item in fields(FieldSettings)]
    settings = {}
    for name, item in description.fields.items():
        asked = FieldSettings(**{key: getattr(item, key) for key in names})
        if asked != FieldSettings():
            for feature in item.features(name, description.missing):
                settings[feature.name] = asked
    return settings
