"""Weights of rows and sampled negatives: in the loss, in metrics, and in the shipped model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from support.torch import make_log, planted_log

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError
from ondevice.features import FeatureSpec
from ondevice.hashing import hash_int64
from ondevice.models import ClickModel, FullEmbedding, TrainConfig, evaluate, predict, train
from ondevice.models.data import HashedLog
from ondevice.models.data.hashed import hashed_field
from ondevice.models.network_config import NetworkConfig
from ondevice.models.training.experiment import Experiment, example_ids, train_full
from ondevice.models.training.row_weights import row_weights, undo_sampling

VALIDATION = planted_log(500, 2)


def small_model(seed=0):
    torch.manual_seed(seed)
    tables = {"user": FullEmbedding(52, 4), "item": FullEmbedding(42, 4)}
    return ClickModel(tables, NetworkConfig(hidden=(8,)))


def one_step(log):
    """The weights after one step on the whole log."""
    model = small_model()
    settings = TrainConfig(epochs=1, batch=len(log), learning_rate=1e-2)
    history = train(model, log, VALIDATION, settings, progress=False)
    return model.state_dict(), history.best.train_loss


def test_weighted_training_equals_training_on_repeated_rows():
    log = planted_log(300, 1)
    times = np.random.default_rng(0).integers(1, 4, len(log))
    weighted, weighted_loss = one_step(replace(log, weights=times.astype(np.float32) * 0.5))
    repeated, repeated_loss = one_step(log.take(np.repeat(np.arange(300), times)))
    plain, plain_loss = one_step(log)
    assert weighted_loss == pytest.approx(repeated_loss, rel=1e-6)
    assert abs(plain_loss - repeated_loss) > 1e-4
    for name, values in repeated.items():
        torch.testing.assert_close(weighted[name], values, rtol=1e-4, atol=1e-4)
    assert any((plain[name] - values).abs().max() > 1e-3 for name, values in repeated.items())


def test_metrics_of_weighted_rows_equal_those_of_repeated_rows():
    log = planted_log(300, 1)
    times = np.random.default_rng(0).integers(1, 4, len(log))
    model = small_model()
    weighted = evaluate(model, replace(log, weights=times.astype(np.float32)))
    rows = np.repeat(np.arange(300), times)
    scores = predict(model, log).astype(np.float64)[rows]
    assert weighted.auc == pytest.approx(roc_auc_score(log.labels[rows], scores), abs=1e-9)
    assert weighted.logloss == pytest.approx(log_loss(log.labels[rows], scores), abs=1e-9)
    assert weighted.auc != pytest.approx(evaluate(model, log).auc, abs=1e-4)


def test_sampled_negatives_count_as_those_they_stand_for():
    log = replace(planted_log(300, 1), negative_sampling=0.25)
    rows = np.concatenate([np.flatnonzero(log.labels > 0), *[np.flatnonzero(log.labels == 0)] * 4])
    model = small_model()
    measured = evaluate(model, log, unsampled=True)
    whole = evaluate(model, replace(log.take(rows), negative_sampling=1.0))
    assert measured.logloss == pytest.approx(whole.logloss, abs=1e-7)
    assert measured.auc == pytest.approx(whole.auc, abs=1e-9)
    assert (measured.unsampled, whole.unsampled) == (True, False)
    assert row_weights(replace(log, weights=None)) is None  # of the log as it is


def test_the_bias_undoes_the_sampling_by_its_closed_form():
    model, log = small_model(), planted_log(200, 4)
    before = predict(model, log).astype(np.float64)
    undo_sampling(model, 0.1)
    after = predict(model, log)
    np.testing.assert_allclose(after, before / (before + (1 - before) / 0.1), atol=1e-6)


def sampled_log(share, rows=300_000):
    """A log whose true click probabilities, by item, are known; a share of its negatives."""
    truth = np.array([0.02, 0.05, 0.1, 0.3])
    draws = np.random.default_rng(3)
    item = draws.integers(0, 4, rows)
    labels = (draws.random(rows) < truth[item]).astype(np.float32)
    held = (labels > 0) | (draws.random(rows) < share)
    feature = hashed_field("item", "integer")
    hashes = {"item": hash_int64(item[held], feature.seed)}
    log = HashedLog("sampled", FeatureSpec((feature,)), hashes, labels[held],
                    negative_sampling=share)  # fmt: skip
    return log, truth, hash_int64(np.arange(4), feature.seed)


def test_shipped_probabilities_are_those_of_the_whole_log(tmp_path):
    log, truth, hashes = sampled_log(0.1)
    training = TrainConfig(epochs=1, batch=256, learning_rate=3e-3)
    trained = train_full(log, Experiment(training=training), progress=False)
    features = trained.splits.train.features
    ids = {"item": torch.from_numpy(example_ids(trained.splits.test)["item"])}
    convert(trained.model, (ids,), tmp_path, targets=("odm",), tables="f32", features=features)
    field = features.fields[0]
    known = np.searchsorted(field.vocabulary, hashes) + 2
    shipped = ondevice.load(tmp_path / "model.odm").predict({"item": known})
    np.testing.assert_allclose(shipped, truth, rtol=0.2)
    assert trained.test.unsampled
    # the sampled log's click rate is about 0.5; a calibrated loss is near that of the truth
    labels = np.random.default_rng(1).random((4, 20_000)) < truth[:, None]
    best = log_loss(labels.ravel(), np.repeat(truth, 20_000))
    assert trained.test.logloss == pytest.approx(best, rel=0.1)
    assert trained.fitted.phases["train"].best.validation.logloss > 1.5 * best
    assert not trained.fitted.phases["train"].best.validation.unsampled


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    log = make_log({"user": [2, 3]}, [0, 1])
    with pytest.raises(InputError, match="negative_sampling must be above 0"):
        replace(log, negative_sampling=share)
