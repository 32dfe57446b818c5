"""The hashed click log every loader returns, its fixed split, and its encoding for training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
from ondevice.models.data.spool import Spool, chunked_take
from ondevice.models.data.statistics import ValueCounts, chunks

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FieldSettings:
    """What a log's description asks of one field's table; None leaves it to the experiment.

    Attributes:
        dim: width of the embedding vector.
        scheme: how values share rows.
        ratio: values per row.
        codec: of the table in a converted file.
        vocabulary: whether every value has a row of its own.
        min_count: a vocabulary keeps values with so many training rows.
        buckets: of numbers, at most so many.
        scale: of the buckets.
    """

    dim: int | None = None
    scheme: str | None = None
    ratio: float | None = None
    codec: str | None = None
    vocabulary: bool | None = None
    min_count: int = 1
    buckets: int | None = None
    scale: Scale | None = None


@dataclass(frozen=True)
class HashedLog:
    """Impressions whose raw values are hashed, 8 bytes a value, before any vocabulary.

    Attributes:
        name: what the data are called in reports.
        features: the input fields, in order, with encoding "hash", or "bucket" without boundaries.
        hashes: per field int64 [n] ([n, length] of a sequence), the XXH64 of the raw value;
            PADDING_ID where it is missing. Of a number: the bits of the float64, NaN where missing.
        labels: float32 [n], 0 or 1; [n, labels] where the log has several.
        best_auc: the AUC of the true click probabilities on the test rows of `split(log)`, where
            the truth is known (the synthetic log); None otherwise.
        times: int64 [n], when an impression happened, in any unit; None where that is unknown. It
            orders a user's rows and is no feature.
        weights: float32 [n], what a row counts for; None: every row counts 1.
        keys: further columns by name, int64 [n], that are no input: hashes of texts.
        key_texts: by key, the texts of its hashes, where it has few distinct values.
        label_names: of the labels.
        bounds: the rows before bounds[0] are for training, those from bounds[1] on for the test,
            those between for validation; None: `split` divides the rows at random.
        settings: by field, what the log's description asks of its table.
        negative_sampling: the share of the rows without a click that the log holds.
        refused: how many rows of the source were left out because they could not be read.

    Raises:
        InputError: a missing or unknown field, a wrong shape, dtype, label or encoding.
    """

    name: str
    features: FeatureSpec
    hashes: dict[str, IdArray]
    labels: npt.NDArray[np.float32]
    best_auc: float | None = None
    times: IdArray | None = None
    weights: npt.NDArray[np.float32] | None = None
    keys: Mapping[str, IdArray] = field(default_factory=dict)
    label_names: tuple[str, ...] = ("label",)
    bounds: tuple[int, int] | None = None
    settings: Mapping[str, FieldSettings] = field(default_factory=dict)
    negative_sampling: float = 1.0
    refused: int = 0
    key_texts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes, dtypes and encodings. Raises InputError."""
        # one set of checks for both logs
        ClickLog(self.features, self.hashes, self.labels, self.weights, self.label_names)
        wrong = [
            item.name
            for item in self.features.fields
            if item.encoding not in ("hash", "bucket") or item.boundaries is not None
        ]
        if wrong:
            raise InputError(f"hashed log: fields must not be encoded yet: {', '.join(wrong)}")
        for name, values in (("times", self.times), *self.keys.items()):
            if values is not None and values.shape != (len(self),):
                raise InputError(f"hashed log: {name} must be int64 [{len(self)}]")

    def __len__(self) -> int:
        """Number of impressions."""
        return int(self.labels.shape[0])

    def take(self, rows: IdArray) -> HashedLog:
        """The impressions `rows` (int64 [m] positions), in that order, as a new log."""
        return self.mapped(lambda values: chunked_take(values, rows))

    def part(self, number: int) -> HashedLog:
        """The rows of one part (0 training, 1 validation, 2 test) of a log with bounds, uncopied.

        Raises:
            InputError: the log has no bounds.
        """
        if self.bounds is None:
            raise InputError(f"{self.name}: its rows are in no order of parts")
        edges = (0, *self.bounds, len(self))
        return self.mapped(lambda values: values[edges[number] : edges[number + 1]])

    def mapped(self, function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> HashedLog:
        """A log without bounds whose columns are what `function` makes of this one's."""
        return replace(
            self,
            hashes={name: function(values) for name, values in self.hashes.items()},
            labels=function(self.labels),
            times=None if self.times is None else function(self.times),
            weights=None if self.weights is None else function(self.weights),
            keys={name: function(values) for name, values in self.keys.items()},
            bounds=None,
        )


def hashed_field(
    name: str,
    kind: RawKind = "string",
    cells: Cells | None = None,
    length: int | None = None,
) -> Field:
    """The field `name` with its own hash seed: XXH64 of the UTF-8 name with seed 0.

    Deriving the seed only from the name is a choice of this project: equal values of two fields
    get unrelated hashes, and the same field of another log gets the same ones. Its texts are read
    as `cells` says, by default an empty text as missing. With a `length` it is a sequence.
    """
    encoding: Encoding = "bucket" if kind == "number" else "hash"
    seed = xxh64(name.encode("utf-8"))
    return Field(name, kind, encoding, seed, cells=cells or Cells(), length=length)


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
    """The training, validation and test parts of a log: by its bounds, else see `split_rows`.

    Raises:
        InputError: so few rows that a part is empty.
    """
    if log.bounds is not None:
        return log.part(0), log.part(1), log.part(2)
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
    in it and 0 where the value is missing. A history takes the vocabulary of the field it
    shares its hashes with. What the log's description asks of a field goes before `min_count`,
    `buckets` and `scale`. Numbers get up to `buckets` buckets with boundaries chosen from the
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
    for item in train.features.fields:
        asked = train.settings.get(item.name, FieldSettings())
        values = train.hashes[item.name]
        if item.encoding == "bucket":
            most, how = asked.buckets or buckets, asked.scale or scale
            edges = boundaries(values.view(np.float64), most, how)
            fields.append(replace(item, boundaries=edges))
        elif item.length is not None and item.seed in vocabularies:
            known = vocabularies[item.seed]
            fields.append(replace(item, encoding="vocabulary", vocabulary=known))
        elif item.name in vocabulary_fields:
            known = ValueCounts.of(values).at_least(max(min_count, asked.min_count))
            vocabularies[item.seed] = known
            fields.append(replace(item, encoding="vocabulary", vocabulary=known))
        else:
            fields.append(item)
    features = replace(train.features, fields=tuple(fields))
    return Splits(encoded(train, features), encoded(validation, features), encoded(test, features))


def cardinalities(log: HashedLog) -> dict[str, int]:
    """Distinct values per field, histories left out; a missing value is not counted."""
    seeds: set[int] = set()
    counts = {}
    for item in log.features.fields:
        values = log.hashes[item.name]
        if item.encoding == "bucket":
            known = ValueCounts.of(_without_nan(values)).values
            counts[item.name] = len(known) + bool((values == PADDING_ID).any())  # 0.0 has its bits
        elif item.length is None or item.seed not in seeds:
            counts[item.name] = len(ValueCounts.of(values).values)
        seeds.add(item.seed)
    return counts


def _without_nan(bits: IdArray) -> IdArray:
    """The bits of the numbers that are there, with those of 0.0 for -0.0."""
    numbers = bits.view(np.float64)
    present = numbers[~np.isnan(numbers)] + 0.0
    return present.view(np.int64)


def encoded(log: HashedLog, features: FeatureSpec) -> ClickLog:
    """A log's hashes as the IDs of fields that are encoded already."""
    ids = {field.name: _ids(field, log.hashes[field.name]) for field in features.fields}
    others = (log.weights, log.label_names, log.keys, log.negative_sampling)
    return ClickLog(features, ids, log.labels, *others)


def _ids(item: Field, hashes: IdArray) -> IdArray:
    """IDs of a column's hashes; what is not the column itself is on disk if it is large."""
    if item.boundaries is None and item.vocabulary is None:
        return hashes
    spool = Spool(np.int64, hashes.shape[1:])
    for chunk in chunks(hashes):
        spool.append(_ids_of(item, chunk))
    return spool.array()


def _ids_of(item: Field, hashes: IdArray) -> IdArray:
    if item.boundaries is not None:
        return bucket_ids(item.boundaries, hashes.view(np.float64))
    if item.vocabulary is None:
        return hashes
    ids = vocabulary_ids(
        item.vocabulary, hashes, item.unknown, item.hash_bits, item.vocabulary_groups
    )
    ids[hashes == PADDING_ID] = PADDING_ID
    return ids
