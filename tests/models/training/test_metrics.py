"""Metrics of probabilities, against scikit-learn, numpy and values computed by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score
from support.torch import make_log

from ondevice.cli import main
from ondevice.errors import DataError, InputError
from ondevice.features import FeatureSpec
from ondevice.hashing import hash_int64, hash_texts
from ondevice.models.data import HashedLog, open_log
from ondevice.models.data.hashed import hashed_field
from ondevice.models.training.evaluation import Groups, frequency_groups, label_reports, segments_of
from ondevice.models.training.metrics import (
    auc_error,
    base_log_loss,
    calibration_bins,
    group_metrics,
    grouped_auc,
    mean_log_loss,
)
from ondevice.models.validation import validation_from_log


def draw(rows=2000, groups=60, ties=True):
    draws = np.random.default_rng(5)
    scores = draws.random(rows).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
    labels = (draws.random(rows) < scores).astype(np.float32)
    return labels, scores, draws.integers(0, groups, rows), draws.random(rows) + 0.1


def test_base_log_loss_is_the_entropy_of_the_click_rate():
    labels = np.array([1, 0, 0, 0], np.float32)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert base_log_loss(labels) == pytest.approx(entropy, rel=1e-6)
    weights = np.array([3, 1, 1, 1.0])
    assert base_log_loss(labels, weights) == pytest.approx(math.log(2), rel=1e-6)


def test_the_log_loss_of_certain_errors_is_finite():
    labels = np.array([1, 0], np.float32)
    assert mean_log_loss(labels, np.array([0, 1], np.float32)) == pytest.approx(15.94, abs=0.01)


@pytest.mark.parametrize("weighted", [False, True])
def test_grouped_auc_is_the_mean_of_the_groups(weighted):
    labels, scores, groups, sizes = draw(groups=400)
    weights = sizes if weighted else None
    result = grouped_auc(labels, scores, groups * 7 - 50, weights)
    aucs, impressions, rows = [], [], 0
    for group in np.unique(groups):
        inside = groups == group
        if 0 < labels[inside].sum() < inside.sum():
            part = sizes[inside] if weighted else None
            aucs.append(roc_auc_score(labels[inside], scores[inside], sample_weight=part))
            impressions.append(sizes[inside].sum() if weighted else inside.sum())
            rows += inside.sum()
    assert result.auc == pytest.approx(np.average(aucs, weights=impressions), abs=1e-9)
    assert result.counted_groups == len(aucs) < result.groups == len(np.unique(groups))
    assert (result.counted_rows, result.rows) == (rows, 2000)


def test_a_grouped_auc_needs_a_group_with_both_labels():
    result = grouped_auc(np.array([1, 0.0]), np.array([0.2, 0.1]), np.array([3, 4]))
    assert (result.auc, result.counted_groups, result.counted_rows) == (None, 0, 0)


def test_metrics_of_each_group():
    labels, scores, groups, weights = draw(groups=5)
    each = group_metrics(labels, scores, groups, weights, 6)
    for group in range(5):
        inside = groups == group
        part = (labels[inside], scores[inside])
        assert each.auc[group] == pytest.approx(
            roc_auc_score(*part, sample_weight=weights[inside]), abs=1e-9
        )
        assert each.rows[group] == inside.sum()
        assert each.predicted[group] == pytest.approx(np.average(part[1], weights=weights[inside]))
        assert each.observed[group] == pytest.approx(np.average(part[0], weights=weights[inside]))
    assert each.rows[5] == 0
    assert np.isnan(each.auc[5])


def test_deciles_are_those_of_scikit_learn():
    labels, scores, _, _ = draw(ties=False)
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    bins = calibration_bins(labels, scores)
    assert [item.rows for item in bins] == [200] * 10
    np.testing.assert_allclose([item.predicted for item in bins], predicted, atol=1e-3)
    np.testing.assert_allclose([item.observed for item in bins], observed, atol=0.01)


def test_deciles_of_weighted_rows_have_equal_weight():
    labels, scores, _, _ = draw(ties=False)
    times = np.random.default_rng(0).integers(1, 5, len(labels))
    weighted = calibration_bins(labels, scores, times.astype(np.float32))
    repeated = calibration_bins(np.repeat(labels, times), np.repeat(scores, times))
    for one, other in zip(weighted, repeated, strict=True):
        assert one.predicted == pytest.approx(other.predicted, abs=2e-3)
        assert one.observed == pytest.approx(other.observed, abs=0.02)


def log_of(values, keys=None, texts=None):
    feature = hashed_field("item", "integer")
    hashes = hash_int64(np.array(values), feature.seed)
    hashes[np.array(values) < 0] = 0  # missing
    labels = (np.arange(len(values)) % 2).astype(np.float32)
    return HashedLog("log", FeatureSpec((feature,)), {"item": hashes}, labels, keys=keys or {},
                     key_texts=texts or {})  # fmt: skip


def test_rows_are_banded_by_how_often_training_saw_their_value():
    train = log_of([1] * 9 + [2] * 10 + [3] * 100 + [-1] * 5)
    groups = frequency_groups(train, log_of([0, 1, 2, 3, -1]))["item"]
    bands = ["never", "1 to 9 times", "10 to 99 times", "100 times or more", "(missing)"]
    assert [groups.names[place] for place in groups.places] == bands
    assert frequency_groups(train, log_of([1, 1])) == {}  # one band: nothing to compare


def test_segments_have_the_names_of_their_values():
    log = log_of([7, -1, 7])
    segments = segments_of(log, "item")
    assert [segments.names[place] for place in segments.places] == ["7", "(missing)", "7"]
    hashes = hash_texts(["US", "DE", ""])
    hashes[2] = 0
    texts = {int(hashes[0]): "US", int(hashes[1]): "DE"}
    log = log_of([1, 2, 3], {"country": hashes}, {"country": texts})
    segments = segments_of(log, "country")
    assert [segments.names[place] for place in segments.places] == ["US", "DE", "(missing)"]


def write_log(folder, rows=3000, countries=("DE", "US", "FR"), note="x"):
    """A log whose clicks depend on the item; the country and the user are no fields."""
    draws = np.random.default_rng(1)
    lines = ["click,buy,w,item,price,user,country,note"]
    for number in range(rows):
        item, user = draws.integers(0, 20, 2)
        click = int(draws.random() < 0.1 + 0.04 * item)
        buy = int(click and draws.random() < 0.5)
        country = countries[number % len(countries)]
        lines.append(
            f"{click},{buy},{draws.integers(1, 3)},{item},{number},{user},{country},{note}"
        )
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "log.toml").write_text(
        'labels = ["click", "buy"]\nweight = "w"\nnegative_sampling = 0.5\n'
        'ignore = ["user", "country", "note"]\n[fields]\nitem = "integer"\nprice = "number"\n'
    )


def open_keys(folder, keys, **options):
    return open_log("log", folder / "log.csv", columns=folder / "log.toml", keys=keys, **options)


def test_a_log_carries_the_columns_that_group_its_rows(tmp_path):
    write_log(tmp_path)
    log = open_keys(tmp_path, ["user", "country", "item"])
    assert set(log.keys) == {"user", "country", "item"}
    assert set(log.key_texts["country"].values()) == {"DE", "US", "FR"}
    assert len(set(log.keys["country"].tolist())) == 3
    assert [field.name for field in log.features.fields] == ["item", "price"]
    for _ in range(2):  # written, then mapped
        cached = open_keys(tmp_path, ["user", "country"], cache=tmp_path / "cache")
        assert cached.key_texts == {key: log.key_texts[key] for key in ("user", "country")}
        np.testing.assert_array_equal(cached.keys["country"], log.keys["country"])
    assert not open_keys(tmp_path, []).keys
    with pytest.raises(DataError, match="no column 'region'"):
        open_keys(tmp_path, ["region"])


def test_texts_of_many_values_are_not_kept(tmp_path):
    write_log(tmp_path, countries=[f"c{number}" for number in range(1001)])
    assert "country" not in open_keys(tmp_path, ["country"]).key_texts
    write_log(tmp_path, countries=[f"c{number}" for number in range(1000)])
    assert len(open_keys(tmp_path, ["country"]).key_texts["country"]) == 1000


def test_train_writes_all_metrics(tmp_path, capsys):
    write_log(tmp_path)
    out = tmp_path / "metrics.json"
    command = ["train", "--data", "log", "--path", str(tmp_path / "log.csv"), "--columns",
               str(tmp_path / "log.toml"), "--gauc", "user", "--segment", "country", "--epochs",
               "2", "--batch", "64", "--json", str(out), "--out",
               str(tmp_path / "checkpoint")]  # fmt: skip
    assert main(command) == 0
    data = json.loads(out.read_text())
    assert (data["format"], data["version"]) == ("ondevice-training", 1)
    assert list(data["test"]) == ["click", "buy"]
    test = data["test"]["click"]
    assert test["unsampled"]
    assert 0.6 < test["auc"] < 0.9
    assert test["calibration"] == pytest.approx(1, abs=0.2)
    assert test["information_gain"] == pytest.approx(1 - test["logloss"] / test["base_logloss"])
    assert sum(item["rows"] for item in test["deciles"]) == test["rows"]
    segments = test["segments"]["country"]
    assert {item["name"] for item in segments} == {"DE", "US", "FR"}
    assert sum(item["rows"] for item in segments) == test["rows"] == data["data"]["parts"]["test"]
    assert test["gauc"]["user"]["groups"] == 20
    assert [item["field"] for item in data["importance"]] == ["item", "price"]
    lost = [item["auc_lost"] for item in data["importance"]]
    assert lost[0] > 0.1 > abs(lost[1])  # clicks depend on the item, not on the price
    epochs = data["phases"][0]["epochs"]
    assert set(epochs[0]["by_label"]) == {"click", "buy"}
    shown = capsys.readouterr().out
    assert "GAUC of buy by user" in shown
    assert "country of click" in shown


def test_an_unknown_column_is_refused_before_training(tmp_path, capsys):
    command = ["train", "--max-rows", "2000", "--segment", "planet", "--out", str(tmp_path / "c")]
    assert main(command) == 1
    assert "no column 'planet' to group rows by (known: user, item" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_log_loss_equals_that_of_scikit_learn():
    labels, scores, _, weights = draw(ties=False)
    assert mean_log_loss(labels, scores, weights) == pytest.approx(
        log_loss(labels, scores.astype(np.float64), sample_weight=weights), abs=1e-6
    )


def test_the_auc_of_a_conversion_counts_weights(tmp_path):
    write_log(tmp_path)
    log = open_keys(tmp_path, [])
    validation = validation_from_log(log, log.features)
    part = log.part(1)
    np.testing.assert_array_equal(validation.labels, part.labels[:, 0])
    scores = np.random.default_rng(0).random(len(part)).astype(np.float32)
    expected = roc_auc_score(part.labels[:, 0], scores, sample_weight=part.weights)
    assert validation.auc(scores) == pytest.approx(expected)
    assert validation.auc(scores) != pytest.approx(roc_auc_score(part.labels[:, 0], scores))
    with pytest.raises(InputError, match="weights must be"):
        replace(validation, weights=part.weights[:-1])


def test_the_error_of_an_auc_is_its_spread_over_samples():
    draws = np.random.default_rng(0)
    aucs = []
    for _ in range(400):
        scores = np.concatenate([draws.normal(1, 1, 60), draws.normal(0, 1, 200)])
        aucs.append(roc_auc_score(np.repeat([1, 0], [60, 200]), scores))
    assert auc_error(float(np.mean(aucs)), 60, 200) == pytest.approx(np.std(aucs), rel=0.15)


def test_rows_without_a_value_are_in_no_group(tmp_path):
    write_log(tmp_path, rows=600, countries=("DE", "", "US"))
    log = open_keys(tmp_path, ["country"])
    assert set(log.key_texts["country"].values()) == {"DE", "US"}
    assert (log.keys["country"] == 0).sum() == 200
    labels, scores, groups, weights = draw(groups=4)
    known = groups != 0
    result = grouped_auc(labels, scores, groups, weights, left_out=0)
    expected = grouped_auc(labels[known], scores[known], groups[known], weights[known])
    assert (result.auc, result.groups, result.rows) == (expected.auc, 3, 2000)


def test_of_many_segments_the_largest_are_reported():
    draws = np.random.default_rng(0)
    values = np.concatenate([np.repeat(np.arange(1500), 2), np.repeat([7, 9], [50, 80])])
    item = draws.permutation(values)
    labels = (draws.random(len(item)) < 0.5).astype(np.float32)
    log = make_log({"item": item}, labels)
    groups = Groups(item, [str(number) for number in range(1500)])
    report = label_reports(log, labels * 0.5 + 0.1, segments={"item": groups})["label"]
    assert len(report.segments["item"]) == 1000
    assert [(s.name, s.rows) for s in report.segments["item"][:3]] == [
        ("9", 82),
        ("7", 52),
        ("0", 2),
    ]
    assert report.segments["item"][0].auc == 1
