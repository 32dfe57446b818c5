"""The synthetic log: reproducible, Zipf-distributed, and its best AUC is really the best."""

import hashlib
import math
import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ondevice.errors import InputError
from ondevice.models.data import cardinalities, split_rows, synthetic_data, synthetic_log

SMALL = {"user": 5000, "item": 1000, "hour": 24}


@pytest.fixture(scope="module")
def small():
    return synthetic_data(60_000, SMALL, zipf=1.0)


def test_same_arguments_same_log_and_another_seed_another(small):
    again = synthetic_log(60_000, SMALL, zipf=1.0)
    other = synthetic_log(60_000, SMALL, seed=1, zipf=1.0)
    assert all(np.array_equal(again.hashes[name], small.log.hashes[name]) for name in SMALL)
    assert np.array_equal(again.labels, small.log.labels)
    assert again.best_auc == small.log.best_auc
    assert (other.labels != again.labels).mean() > 0.2
    assert (other.hashes["hour"] != again.hashes["hour"]).mean() > 0.5


def test_golden_rows(small):
    # pins the streams: a numpy that draws others must not pass unnoticed (1.26.4 and 2.4 agree)
    digest = hashlib.sha256(b"".join(small.values[name].tobytes() for name in SMALL)).hexdigest()
    assert digest[:16] == "bec106458f2a600f"


def test_hashes_are_those_of_the_raw_values(small):
    encoded = small.log.features.encode({name: small.values[name] for name in SMALL})
    assert all(np.array_equal(encoded[name], small.log.hashes[name]) for name in SMALL)


def test_values_follow_the_zipf_law(small):
    for name, size in SMALL.items():
        harmonic = sum(1 / rank for rank in range(1, size + 1))
        counts = np.bincount(small.values[name], minlength=size)
        assert len(counts) == size  # no value outside the vocabulary
        for head in (1, 10, size // 2):
            share = sum(1 / rank for rank in range(1, head + 1)) / harmonic
            noise = math.sqrt(share * (1 - share) / 60_000)
            assert counts[:head].sum() / 60_000 == pytest.approx(share, abs=5 * noise)


def test_click_rate(small):
    assert small.log.labels.mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 60_000))
    rare = synthetic_log(60_000, SMALL, click_rate=0.02)
    assert rare.labels.mean() == pytest.approx(0.02, abs=5 * math.sqrt(0.02 * 0.98 / 60_000))


def test_labels_are_calibrated_to_the_truth(small):
    probabilities = small.truth.probabilities(small.values)
    for low in (0.0, 0.2, 0.4, 0.6):
        inside = (probabilities >= low) & (probabilities < low + 0.2)
        noise = 0.5 / math.sqrt(inside.sum())
        mean = probabilities[inside].mean()
        assert small.log.labels[inside].mean() == pytest.approx(mean, abs=5 * noise)


def test_latent_numbers_are_standard_normal(small):
    only = synthetic_data(10, {"a": 1, "b": 1}).truth
    values = np.arange(100_000, dtype=np.int64)
    latent = only._latent("a", "factors", values, 4)
    assert np.allclose(latent.mean(axis=0), 0, atol=0.02)
    assert np.allclose(np.cov(latent.T), np.eye(4), atol=0.02)
    assert np.quantile(latent, 0.975) == pytest.approx(1.96, abs=0.02)


def test_best_auc_is_that_of_the_truth_and_nothing_beats_it(small):
    log, truth = small.log, small.truth
    train, _, test = split_rows(len(log))
    logits = truth.logits(small.values)
    assert log.best_auc == pytest.approx(roc_auc_score(log.labels[test], logits[test]))
    # a logistic model given the true terms and the true logit learns nothing beyond the truth
    terms = [truth._latent(name, "effect", small.values[name], 1)[:, 0] for name in SMALL]
    inputs = np.stack([logits, *terms], axis=1)
    oracle = LogisticRegression().fit(inputs[train], log.labels[train])
    assert roc_auc_score(log.labels[test], oracle.decision_function(inputs[test])) == pytest.approx(
        log.best_auc, abs=0.002
    )
    # without the interaction it must do worse
    plain = LogisticRegression().fit(inputs[train, 1:], log.labels[train])
    worse = roc_auc_score(log.labels[test], plain.decision_function(inputs[test, 1:]))
    assert 0.6 < worse < log.best_auc - 0.01
    shuffled = np.random.default_rng(1).permutation(log.labels[test])
    assert roc_auc_score(shuffled, logits[test]) == pytest.approx(0.5, abs=0.03)


def test_defaults_are_hard_but_not_hopeless():
    log = synthetic_log()
    assert 0.82 < log.best_auc < 0.85
    sizes = cardinalities(log)
    assert sizes["user"] > 50_000 and sizes["device"] == 6


def test_a_vocabulary_of_two_million_is_cheap():
    tracemalloc.start()
    log = synthetic_log(20_000, {"user": 2_000_000, "item": 2_000_000})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6  # two floats a value of one field, and no latent vectors at all
    assert cardinalities(log)["user"] > 5000


def test_every_fault_is_listed():
    with pytest.raises(InputError) as caught:
        synthetic_log(3, {"a": 0}, -1, zipf=-1, click_rate=1.0)
    for part in ("10 rows", "two named fields", "'a'", "seed", "zipf", "click_rate"):
        assert part in str(caught.value)
