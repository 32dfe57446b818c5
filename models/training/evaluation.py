"""The full evaluation of a trained model on its test part: by label, group, segment, frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError
from ondevice.features import PADDING_ID
from ondevice.hashing import hash_int64
from ondevice.models.click_log import ClickLog
from ondevice.models.data.hashed import HashedLog, IdArray
from ondevice.models.data.statistics import ValueCounts
from ondevice.models.training.metrics import (
    Bin,
    GroupedAuc,
    auc_error,
    base_log_loss,
    calibration_bins,
    group_metrics,
    grouped_auc,
    metrics_of,
)
from ondevice.models.training.row_weights import row_weights

FloatArray = npt.NDArray[np.float32]

MAX_SEGMENTS = 1000  # of one column, those with the most rows
# How often training must have seen a value to be counted in a band, and the band's name.
BANDS = ((0, "never"), (1, "1 to 9 times"), (10, "10 to 99 times"), (100, "100 times or more"))
SMALL_INTEGERS = 10_000  # integers whose hashes are recognised, to name segments


@dataclass(frozen=True)
class Segment:
    """The rows of one value of a column, or of values that training saw similarly often.

    Attributes:
        name: the value or the band.
        rows, clicks: of the test part, without weights.
        auc: None where the rows have one label only.
        auc_error: its standard error (J. Hanley and B. McNeil, "The meaning and use of the area
            under a receiver operating characteristic (ROC) curve", Radiology 1982).
        predicted, observed: mean probability and share of clicks.
    """

    name: str
    rows: int
    clicks: int
    auc: float | None
    auc_error: float | None
    predicted: float
    observed: float

    def differs_from(self, auc: float) -> bool:
        """Whether the segment's AUC is not this one, at a level of 95 %."""
        if self.auc is None or self.auc_error is None:
            return False
        return abs(self.auc - auc) > 1.96 * self.auc_error


@dataclass(frozen=True)
class LabelReport:
    """How well one label is predicted on the test part; rows count by their weights.

    Attributes:
        rows: of the test part.
        auc, logloss: see Metrics.
        base_logloss: of always predicting the share of clicks.
        predicted, observed: mean probability and share of clicks.
        deciles: of the rows in the order of their probabilities.
        gauc: by column that groups the rows.
        segments: by column, by value of it; those with the most rows first.
        frequency: by field, the rows by how often training saw their value of it.
        unsampled: whether all this is of the log before its negatives were sampled.
    """

    rows: int
    auc: float
    logloss: float
    base_logloss: float
    predicted: float
    observed: float
    deciles: Sequence[Bin]
    gauc: Mapping[str, GroupedAuc] = field(default_factory=dict)
    segments: Mapping[str, Sequence[Segment]] = field(default_factory=dict)
    frequency: Mapping[str, Sequence[Segment]] = field(default_factory=dict)
    unsampled: bool = False

    @property
    def information_gain(self) -> float:
        """The share of the base's log loss that the model takes away (relative, 0 for none)."""
        return 1 - self.logloss / self.base_logloss

    @property
    def calibration(self) -> float:
        """Predicted clicks over those observed: 1 is right."""
        return self.predicted / self.observed


@dataclass(frozen=True)
class Groups:
    """A column of the test part that divides its rows.

    Attributes:
        places: the group of each row, int64 [n], 0 .. len(names) - 1.
        names: of the groups.
    """

    places: IdArray
    names: Sequence[str]


def label_reports(
    log: ClickLog,
    probabilities: FloatArray,
    *,
    gauc: Mapping[str, IdArray] | None = None,
    segments: Mapping[str, Groups] | None = None,
    frequency: Mapping[str, Groups] | None = None,
) -> dict[str, LabelReport]:
    """Reports of each label.

    Args:
        log: the test part, both labels of each label in it.
        probabilities: of a model whose sampling is undone, [n] or [n, labels].
        gauc: columns that group rows, int64 [n]; those with PADDING_ID are in no group.
        segments: columns that divide rows.
        frequency: fields that divide rows by how often training saw their value.
    """
    unsampled = log.negative_sampling < 1
    weights = row_weights(log, unsampled=unsampled)
    reports = {}
    for place, name in enumerate(log.label_names):
        labels = log.labels.reshape(len(log), -1)[:, place]
        scores = probabilities.reshape(len(log), -1)[:, place]
        report = _label_report(labels, scores, weights, unsampled)
        reports[name] = replace(
            report,
            gauc={
                column: grouped_auc(labels, scores, groups, weights, left_out=PADDING_ID)
                for column, groups in (gauc or {}).items()
            },
            segments={
                column: _segments(labels, scores, groups, weights, MAX_SEGMENTS)
                for column, groups in (segments or {}).items()
            },
            frequency={
                column: _segments(labels, scores, groups, weights)
                for column, groups in (frequency or {}).items()
            },
        )
    return reports


def _label_report(
    labels: FloatArray, scores: FloatArray, weights: FloatArray | None, unsampled: bool
) -> LabelReport:
    """The report of all rows together."""
    metrics = metrics_of(labels, scores, weights, unsampled=unsampled)
    return LabelReport(
        rows=len(labels),
        auc=metrics.auc,
        logloss=metrics.logloss,
        base_logloss=base_log_loss(labels, weights),
        predicted=float(np.average(scores.astype(np.float64), weights=weights)),
        observed=float(np.average(labels.astype(np.float64), weights=weights)),
        deciles=calibration_bins(labels, scores, weights),
        unsampled=unsampled,
    )


def _segments(
    labels: FloatArray,
    scores: FloatArray,
    groups: Groups,
    weights: FloatArray | None,
    most: int | None = None,
) -> list[Segment]:
    """The metrics of each group that has rows.

    Args:
        labels: of the rows, [n].
        scores: likewise.
        groups: likewise.
        weights: likewise; None: all the same.
        most: only so many, those with the most rows first; None: all, in the groups' order.
    """
    each = group_metrics(labels, scores, groups.places, weights, len(groups.names))
    places = np.flatnonzero(each.rows)
    if most is not None:
        places = places[np.argsort(-each.rows[places], kind="stable")][:most]
    segments = []
    for place in places.tolist():
        rows, clicks = int(each.rows[place]), int(each.clicks[place])
        auc = None if np.isnan(each.auc[place]) else float(each.auc[place])
        segments.append(
            Segment(
                name=groups.names[place],
                rows=rows,
                clicks=clicks,
                auc=auc,
                auc_error=None if auc is None else auc_error(auc, clicks, rows - clicks),
                predicted=float(each.predicted[place]),
                observed=float(each.observed[place]),
            )
        )
    return segments


def key_of(log: HashedLog, name: str) -> IdArray:
    """The column of a log that `--gauc` or `--segment` names, int64 [n].

    Raises:
        InputError: the log has neither such a key nor such a field, or it is a sequence.
    """
    if name in log.keys:
        return log.keys[name]
    if name not in log.hashes or log.hashes[name].ndim > 1:
        known = [*log.keys, *(field for field, ids in log.hashes.items() if ids.ndim == 1)]
        raise InputError(
            f"{log.name}: no column {name!r} to group rows by (known: {', '.join(known)})"
        )
    return log.hashes[name]


def segments_of(log: HashedLog, name: str) -> Groups:
    """The rows of a log divided by the values of a column; see `key_of`. Raises InputError."""
    values, places = np.unique(key_of(log, name), return_inverse=True)
    texts = dict(log.key_texts.get(name, {}))
    if not texts and name in log.hashes and log.features[name].kind == "integer":
        integers = np.arange(SMALL_INTEGERS)
        hashes = hash_int64(integers, log.features[name].seed)
        texts = dict(zip(hashes.tolist(), map(str, integers.tolist()), strict=True))
    names = [
        "(missing)" if value == PADDING_ID else texts.get(value, _hex(value)) or '""'
        for value in values.tolist()
    ]
    return Groups(places.reshape(-1), names)


def frequency_groups(train: HashedLog, test: HashedLog) -> dict[str, Groups]:
    """By field, the test rows by how often training saw their value; see BANDS.

    Numbers and sequences are left out, and fields all of whose test rows are in one band.
    """
    groups = {}
    names = [name for _, name in BANDS]
    edges = [least for least, _ in BANDS[1:]]
    for item in test.features.fields:
        if item.encoding == "bucket" or item.length is not None:
            continue
        counts = ValueCounts.of(train.hashes[item.name])
        values = test.hashes[item.name]
        seen = np.zeros(len(values), np.int64)
        if len(counts.values):
            place = np.searchsorted(counts.values, values).clip(max=len(counts.values) - 1)
            seen = np.where(counts.values[place] == values, counts.counts[place], 0)
        places = np.searchsorted(edges, seen, side="right")
        missing = values == PADDING_ID
        places[missing] = len(names)
        if len(np.unique(places)) > 1:
            groups[item.name] = Groups(places, [*names, "(missing)"])
    return groups


def _hex(value: int) -> str:
    return f"hash {value % 2**64:016x}"
