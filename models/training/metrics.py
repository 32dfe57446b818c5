"""Metrics of click probabilities: how well they order rows, how right they are on average."""

from __future__ import annotations

from dataclasses import dataclass

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
