"""Metrics of click probabilities: how well they order rows, how right they are on average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import needs_extra

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Metrics:
    """Area under the ROC curve, and mean negative log-likelihood (natural logarithm).

    Attributes:
        auc: of the log's rows, each with its weight.
        logloss: likewise.
        unsampled: whether they are of the log before its rows without a click were sampled.
    """

    auc: float
    logloss: float
    unsampled: bool = False


def metrics_of(
    labels: FloatArray,
    probabilities: FloatArray,
    weights: FloatArray | None = None,
    *,
    unsampled: bool = False,
) -> Metrics:
    """AUC and log loss of probabilities [n] for labels [n] of 0 and 1, both present.

    Args:
        labels: 0 or 1.
        probabilities: of a 1.
        weights: what each row counts for, [n]; None: all the same.
        unsampled: see Metrics.
    """
    with needs_extra("evaluation", "train"):  # large: a conversion does without
        from sklearn.metrics import roc_auc_score
    auc = float(roc_auc_score(labels, probabilities, sample_weight=weights))
    return Metrics(auc, mean_log_loss(labels, probabilities, weights), unsampled)


def mean_log_loss(
    labels: FloatArray, probabilities: FloatArray, weights: FloatArray | None = None
) -> float:
    """Weighted mean negative log-likelihood of labels [n] under probabilities [n]."""
    with needs_extra("evaluation", "train"):
        from sklearn.metrics import log_loss
    # float32 reaches 0 and 1; the same clip as for any 32-bit probability keeps the loss finite
    edge = float(np.finfo(np.float32).eps)
    clipped = np.clip(probabilities.astype(np.float64), edge, 1 - edge)
    return float(log_loss(labels, clipped, sample_weight=weights, labels=[0, 1]))


@dataclass(frozen=True)
class Bin:
    """Rows of neighbouring probabilities: their mean probability, and the share of clicks."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class GroupedAuc:
    """The mean of the AUCs of groups, such as users, weighted by their impressions.

    Attributes:
        auc: of the groups with both labels; None if there is none.
        groups: how many there are; an AUC have `counted_groups` of them.
        rows: in all groups and in none; groups with an AUC have `counted_rows`.
    """

    auc: float | None
    groups: int
    counted_groups: int
    rows: int
    counted_rows: int


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of each group of rows, all arrays [groups].

    Attributes:
        rows, clicks: how many there are.
        weights: what the rows count for.
        predicted, observed: mean probability and share of clicks.
        auc: NaN where a group has one label only.
    """

    rows: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    auc: npt.NDArray[np.float64]


def base_log_loss(labels: FloatArray, weights: FloatArray | None = None) -> float:
    """Log loss of the best constant, the share of clicks: what a model has to beat."""
    share = float(np.average(labels.astype(np.float64), weights=weights))
    return mean_log_loss(labels, np.full(len(labels), share), weights)


def calibration_bins(
    labels: FloatArray,
    probabilities: FloatArray,
    weights: FloatArray | None = None,
    count: int = 10,
) -> list[Bin]:
    """Rows in the order of their probabilities, cut into bins of equal weight (deciles).

    Args:
        labels: 0 or 1, [n].
        probabilities: [n].
        weights: what each row counts for, [n]; None: all the same.
        count: of the bins; empty ones are left out.
    """
    order = np.argsort(probabilities, kind="stable")
    sizes = np.ones(len(labels)) if weights is None else weights[order].astype(np.float64)
    middles = np.cumsum(sizes) - sizes / 2
    places = np.minimum((middles / sizes.sum() * count).astype(np.int64), count - 1)
    bins = group_metrics(labels[order], probabilities[order], places, sizes, count)
    return [
        Bin(int(rows), float(predicted), float(observed))
        for rows, predicted, observed in zip(bins.rows, bins.predicted, bins.observed, strict=True)
        if rows
    ]


def grouped_auc(
    labels: FloatArray,
    probabilities: FloatArray,
    groups: npt.NDArray[np.int64],
    weights: FloatArray | None = None,
    left_out: int | None = None,
) -> GroupedAuc:
    """GAUC: the AUC within each group, averaged by impressions.

    Args:
        labels: 0 or 1, [n].
        probabilities: [n].
        groups: which group each row is in, any integers [n].
        weights: what each row counts for, [n]; None: all the same.
        left_out: the number of rows that are in no group, as of unknown users.
    """
    whole = len(labels)
    if left_out is not None and not (grouped := groups != left_out).all():
        labels, probabilities, groups = labels[grouped], probabilities[grouped], groups[grouped]
        weights = None if weights is None else weights[grouped]
    distinct, places = np.unique(groups, return_inverse=True)
    each = group_metrics(labels, probabilities, places, weights, len(distinct))
    counted = ~np.isnan(each.auc)
    auc = None
    if counted.any():
        auc = float(np.average(each.auc[counted], weights=each.weights[counted]))
    rows = int(each.rows[counted].sum())
    return GroupedAuc(auc, len(distinct), int(counted.sum()), whole, rows)


def auc_error(auc: float, clicks: int, others: int) -> float:
    """Standard error of an AUC of so many rows with and without a click (Hanley and McNeil)."""
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (clicks - 1) * (first - auc**2) + (others - 1) * (second - auc**2)
    return math.sqrt(max(spread, 0.0) / (clicks * others))


def group_metrics(
    labels: FloatArray,
    probabilities: FloatArray,
    places: npt.NDArray[np.int64],
    weights: FloatArray | None,
    count: int,
) -> GroupMetrics:
    """Metrics of every group at once: of many small ones, a call for each would take minutes.

    Args:
        labels: 0 or 1, [n].
        probabilities: [n].
        places: the group of each row, [n], 0 .. count - 1.
        weights: what each row counts for, [n]; None: all the same.
        count: of the groups.
    """
    sizes = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    scores = probabilities.astype(np.float64)

    whole, clicks = _totals(places, sizes, count), _totals(places, sizes * labels, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted, observed = _totals(places, sizes * scores, count) / whole, clicks / whole
        auc = _pairs_in_order(labels, scores, places, sizes, count) / (clicks * (whole - clicks))
    rows = np.bincount(places, minlength=count).astype(np.int64)
    ones = _totals(places, labels, count).astype(np.int64)
    auc[(ones == 0) | (ones == rows)] = np.nan
    return GroupMetrics(rows, ones, whole, predicted, observed, auc)


def _pairs_in_order(
    labels: FloatArray,
    scores: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.float64],
    count: int,
) -> npt.NDArray[np.float64]:
    """Per group the weight of pairs of a click and a lower scored row without; half of ties."""
    if not len(labels):
        return np.zeros(count)
    order = np.lexsort((scores, places))
    group, score, label, size = places[order], scores[order], labels[order], sizes[order]
    changed = np.flatnonzero((np.diff(group) != 0) | (np.diff(score) != 0)) + 1
    first = np.concatenate([[0], changed])  # rows of one group and score
    clicks = np.add.reduceat(size * label, first)
    others = np.add.reduceat(size * (1 - label), first)
    below = np.cumsum(others) - others
    group = group[first]
    starts = np.concatenate([[True], group[1:] != group[:-1]])
    below -= below[starts][np.cumsum(starts) - 1]  # within the group
    return _totals(group, clicks * (below + others / 2), count)


def _totals(
    places: npt.NDArray[np.int64], values: npt.NDArray[Any], count: int
) -> npt.NDArray[np.float64]:
    """The sum of the values of each group, float64 [count]."""
    return np.bincount(places, values, minlength=count).astype(np.float64)
