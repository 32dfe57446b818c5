"""How far an AUC may be off: its values on rows that are drawn again, with replacement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# The error of a standard error of so many rounds is about 7 %.
ROUNDS = 100
SEED = 0


def resampled_auc(
    labels: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None = None,
    rounds: int = ROUNDS,
) -> tuple[float, ...]:
    """The AUC on `rounds` bootstrap samples of the rows.

    The samples depend on the number of rows only, so those of two models on the same rows are
    pairs. A sample whose rows all have one label has the AUC 0.5.

    Args:
        labels: [n], 0 or 1.
        scores: [n].
        weights: [n], what a row counts for; None: 1.
        rounds: how many samples.
    """
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    clicks = labels[order].astype(np.float64)
    if weights is not None:
        clicks = clicks * weights[order]
    others = (np.ones(len(labels)) if weights is None else weights[order]) - clicks
    rng = np.random.default_rng(SEED)
    rows = len(labels)
    results = []
    for _ in range(rounds):
        drawn = np.bincount(rng.integers(0, rows, rows), minlength=rows)[order]
        positive = np.add.reduceat(clicks * drawn, starts)
        negative = np.add.reduceat(others * drawn, starts)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        results.append(float((positive * below).sum() / pairs) if pairs else 0.5)
    return tuple(results)


def standard_error(values: Sequence[float]) -> float:
    """The standard deviation of bootstrap values; 0 of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def share_error(values: Sequence[float], full: Sequence[float]) -> float:
    """The standard error of values / full, pair by pair; 0 where a side has none.

    Pairs without a share are left out: on a few rows the full model's AUC may be 0.
    """
    if len(values) != len(full):
        return 0.0
    return standard_error([one / other for one, other in zip(values, full, strict=True) if other])
