"""What each row counts for in training and in metrics: the log's weights and its sampling."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from ondevice.models.click_log import ClickLog
from ondevice.models.networks import ClickModel

FloatArray = npt.NDArray[np.float32]


def row_weights(log: ClickLog, *, unsampled: bool = False) -> FloatArray | None:
    """What each row of a log counts for, float32 [n]; None where all count the same.

    Args:
        log: its weights count, where it has any.
        unsampled: let the rows count as those of the log before its rows without a click (those
            whose first label is 0) were sampled: each stands for 1 / negative_sampling rows.
    """
    if not unsampled or log.negative_sampling == 1:
        return log.weights
    clicked = log.labels if log.labels.ndim == 1 else log.labels[:, 0]
    scale = np.where(clicked > 0, np.float32(1), np.float32(1 / log.negative_sampling))
    weights: FloatArray = scale if log.weights is None else scale * log.weights
    return weights


def training_weights(log: ClickLog) -> FloatArray | None:
    """Factors of the losses of rows, float32 [n] or [n, labels], of mean 1 in each label.

    The first label is trained on the log as it is, since a shift of its log-odds undoes the
    sampling exactly (see `undo_sampling`). That holds for no other label: its rows are weighted.

    Returns:
        None where all rows count the same in every label.
    """
    weights = row_weights(log)
    if log.labels.ndim == 1:
        return None if weights is None else weights / np.float32(weights.mean(dtype=np.float64))
    others = row_weights(log, unsampled=True)
    if weights is None and others is None:
        return None
    first = np.ones(len(log), np.float32) if weights is None else weights
    rest = first if others is None else others
    columns = np.stack([first, *[rest] * (log.labels.shape[1] - 1)], axis=1)
    scaled: FloatArray = columns / columns.mean(axis=0, dtype=np.float64).astype(np.float32)
    return scaled


@torch.no_grad()
def undo_sampling(model: ClickModel, negative_sampling: float) -> None:
    """Make a model's click probabilities those of the log before its negatives were sampled.

    Of a log that holds the share w of the rows without a click, p / (p + (1 - p) / w) is the
    probability in the whole log: the log-odds grow by log(w). The last bias takes that, so every
    engine computes it without another operator.

    Args:
        model: changed in place; it was trained on the sampled log.
        negative_sampling: w.
    """
    model.network[-1].bias[0] += math.log(negative_sampling)  # type: ignore[index, operator]
