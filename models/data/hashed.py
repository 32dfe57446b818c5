"""The hashed click log every loader returns, its fixed split, and its encoding for training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ondevice.cells import Cells, RawKind
from ondevice.errors import InputError
from ondevice.features import (
    PADDING_ID,
    Encoding,
    FeatureSpec,
    Field,
    bucket_ids,
    vocabulary_ids,
)
from ondevice.hashing import xxh64
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.data.buckets import Scale, boundaries

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HashedLog:
    """Impressions whose raw values are hashed, 8 bytes a value, before any split or vocabulary.

    Attributes:
        name: what the data are called in reports.
        features: the input fields, in order, with encoding "hash", or "bucket" without boundaries.
        hashes: per field int64 [n] ([n, length] of a sequence), the XXH64 of the raw value;
            PADDING_ID where it is missing. Of a number: the bits of the float64, NaN where missing.
        labels: float32 [n], 0 or 1.
        times: int64 [n], when an impression happened, in any unit; None where that is unknown. It
            orders a user's rows and is no feature.
        best_auc: the AUC of the true click probabilities on the test rows of `split(log)`, where
            the truth is known (the synthetic log); None otherwise.

    Raises:
        InputError: a missing or unknown field, a wrong shape, dtype, label or encoding.
    """

    name: str
    features: FeatureSpec
    hashes: dict[str, IdArray]
    labels: npt.NDArray[np.float32]
    best_auc: float | None = None
    times: IdArray | None = None

    def __post_init__(self) -> None:
        ClickLog(self.features, self.hashes, self.labels)  # one set of checks for both logs
        wrong = [
            field.name
            for field in self.features.fields
            if field.encoding not in ("hash", "bucket") or field.boundaries is not None
        ]
        if wrong:
            raise InputError(f"hashed log: fields must not be encoded yet: {', '.join(wrong)}")
        if self.times is not None and self.times.shape != self.labels.shape:
            raise InputError(f"hashed log: times must be int64 [{len(self)}]")

    def __len__(self) -> int:
        """Number of impressions."""
        return int(self.labels.shape[0])

    def take(self, rows: IdArray) -> HashedLog:
        """The impressions `rows` (int64 [m] positions), in that order, as a new log."""
        hashes = {name: values[rows] for name, values in self.hashes.items()}
        times = None if self.times is None else self.times[rows]
        return replace(self, hashes=hashes, labels=self.labels[rows], times=times)


def hashed_field(name: str, kind: RawKind = "string", cells: Cells | None = None) -> Field:
    """The field `name` with its own hash seed: XXH64 of the UTF-8 name with seed 0.

    Deriving the seed only from the name is a choice of this project: equal values of two fields
    get unrelated hashes, and the same field of another log gets the same ones. Its texts are read
    as `cells` says, by default an empty text as missing.
    """
    encoding: Encoding = "bucket" if kind == "number" else "hash"
    seed = xxh64(name.encode("utf-8"))
    return Field(name, kind, encoding, seed, cells=cells or Cells())


def split_rows(
    n: int, seed: int = 0, parts: Sequence[float] = (0.8, 0.1, 0.1)
) -> tuple[IdArray, IdArray, IdArray]:
    """Row numbers of the three parts, int64: `numpy.random.default_rng(seed).permutation(n)`, cut.

    The first int(n * parts[0]) rows of the permutation are for training, those up to
    int(n * (parts[0] + parts[1])) for validation, the rest for the test.

    Raises:
        InputError: not three positive shares that add up to 1, or so few rows that a part is empty.
    """
    if len(parts) != 3 or min(parts) <= 0 or abs(sum(parts) - 1) > 1e-9:
        raise InputError(f"split: expected three positive shares that sum to 1, got {tuple(parts)}")
    order = np.random.default_rng(seed).permutation(n).astype(np.int64, copy=False)
    first, second = int(n * parts[0]), int(n * (parts[0] + parts[1]))
    train, validation, test = order[:first], order[first:second], order[second:]
    if not min(len(train), len(validation), len(test)):
        raise InputError(f"split: {n} rows are too few for three parts {tuple(parts)}")
    return train, validation, test


def split(
    log: HashedLog, seed: int = 0, parts: Sequence[float] = (0.8, 0.1, 0.1)
) -> tuple[HashedLog, HashedLog, HashedLog]:
    """The training, validation and test parts of a log; see `split_rows`. Raises InputError."""
    train, validation, test = split_rows(len(log), seed, parts)
    return log.take(train), log.take(validation), log.take(test)


def encode(
    train: HashedLog,
    validation: HashedLog,
    test: HashedLog,
    vocabulary_fields: Collection[str],
    *,
    min_count: int = 1,
    buckets: int = 32,
    scale: Scale = "quantile",
) -> Splits:
    """Turn hashes into the IDs a model is trained on.

    A field in `vocabulary_fields` gets the sorted distinct hashes that occur at least `min_count`
    times in the **training** part as its vocabulary, and IDs 2 + position, 1 where a hash is not
    in it and 0 where the value is missing. A sequence takes the vocabulary of the field it
    shares its hashes with. Numbers get up to `buckets` buckets with boundaries chosen from the
    **training** part (see `boundaries`). Other fields keep their hashes as IDs.

    Raises:
        InputError: an unknown field, parts with different fields, or min_count below 1.
    """
    if validation.features != train.features or test.features != train.features:
        raise InputError("encode: the three parts must have the same fields")
    if min_count < 1:
        raise InputError(f"encode: min_count must be at least 1, got {min_count}")
    for name in vocabulary_fields:
        train.features[name]  # raises for an unknown one
    fields: list[Field] = []
    vocabularies: dict[int, IdArray] = {}  # by hash seed, which names what is hashed
    for field in train.features.fields:
        if field.encoding == "bucket":
            edges = boundaries(train.hashes[field.name].view(np.float64), buckets, scale)
            fields.append(replace(field, boundaries=edges))
        elif field.length is not None and field.seed in vocabularies:
            known = vocabularies[field.seed]
            fields.append(replace(field, encoding="vocabulary", vocabulary=known))
        elif field.name in vocabulary_fields and field.length is None:
            indexed = _with_vocabulary(field, train.hashes[field.name], min_count)
            if indexed.vocabulary is not None:
                vocabularies[field.seed] = indexed.vocabulary
            fields.append(indexed)
        else:
            fields.append(field)
    features = replace(train.features, fields=tuple(fields))
    return Splits(encoded(train, features), encoded(validation, features), encoded(test, features))


def cardinalities(log: HashedLog) -> dict[str, int]:
    """Distinct values per field, sequences left out; a missing value is not counted."""
    counts = {}
    for field in log.features.fields:
        if field.encoding == "bucket":
            numbers = np.unique(log.hashes[field.name].view(np.float64))
            counts[field.name] = int(np.count_nonzero(~np.isnan(numbers)))
        elif field.length is None:
            counts[field.name] = len(_counted(log.hashes[field.name])[0])
    return counts


def _with_vocabulary(field: Field, hashes: IdArray, min_count: int) -> Field:
    distinct, counts = _counted(hashes)
    return replace(field, encoding="vocabulary", vocabulary=distinct[counts >= min_count])


def _counted(hashes: IdArray) -> tuple[IdArray, IdArray]:
    distinct, counts = np.unique(hashes, return_counts=True)
    present = distinct != PADDING_ID
    return distinct[present], counts[present]


def encoded(log: HashedLog, features: FeatureSpec) -> ClickLog:
    """A log's hashes as the IDs of fields that are encoded already."""
    ids = {field.name: _ids(field, log.hashes[field.name]) for field in features.fields}
    return ClickLog(features, ids, log.labels)


def _ids(field: Field, hashes: IdArray) -> IdArray:
    if field.boundaries is not None:
        return bucket_ids(field.boundaries, hashes.view(np.float64))
    if field.vocabulary is None:
        return hashes
    ids = vocabulary_ids(field.vocabulary, hashes, field.unknown)
    ids[hashes == PADDING_ID] = PADDING_ID
    return ids
