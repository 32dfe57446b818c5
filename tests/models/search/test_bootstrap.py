"""Bootstrap samples of an AUC against scikit-learn on the same rows."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ondevice.models.search.bootstrap import SEED, resampled_auc, share_error, standard_error


@pytest.mark.parametrize("weighted", [False, True])
def test_samples_are_those_of_scikit_learn(weighted):
    rng = np.random.default_rng(1)
    labels = (rng.random(500) < 0.3).astype(np.float32)
    scores = np.round(labels * 0.2 + rng.random(500), 1).astype(np.float32)  # with ties
    weights = rng.random(500).astype(np.float32) + 0.5 if weighted else None
    drawn = np.random.default_rng(SEED)
    for auc in resampled_auc(labels, scores, weights, rounds=5):
        rows = drawn.integers(0, 500, 500)
        sample = None if weights is None else weights[rows]
        assert auc == pytest.approx(
            roc_auc_score(labels[rows], scores[rows], sample_weight=sample), abs=1e-6
        )


def test_errors_of_an_auc_and_of_a_share():
    rng = np.random.default_rng(2)
    labels = (rng.random(4000) < 0.5).astype(np.float32)
    scores = (labels + rng.normal(size=4000)).astype(np.float32)
    samples = resampled_auc(labels, scores, rounds=200)
    # Hanley and McNeil 1982
    auc = roc_auc_score(labels, scores)
    positive, negative = labels.sum(), len(labels) - labels.sum()
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positive - 1) * (first - auc**2)
    variance = (variance + (negative - 1) * (second - auc**2)) / (positive * negative)
    assert standard_error(samples) == pytest.approx(variance**0.5, rel=0.2)
    # a share of itself is certain; a pair of models is more certain than either
    assert share_error(samples, samples) == 0
    noisy = (scores + 0.1 * rng.normal(size=4000)).astype(np.float32)
    error = share_error(resampled_auc(labels, noisy, rounds=200), samples)
    assert 0 < error < standard_error(samples)
    assert share_error((), samples) == 0 and standard_error((0.7,)) == 0


def test_samples_without_clicks():
    labels = np.array([0, 0, 1], dtype=np.float32)
    samples = resampled_auc(labels, np.array([0.1, 0.2, 0.3], dtype=np.float32))
    assert set(samples) == {0.5, 1.0}
