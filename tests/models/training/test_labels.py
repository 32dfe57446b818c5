"""Several labels: a head each over one network, trained, saved, converted and run by name."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.torch import make_log, planted_log
from torch.nn import functional

import ondevice
from ondevice.cli import main
from ondevice.converters import convert
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.features import FeatureSpec
from ondevice.models import (
    ClickModel,
    FullEmbedding,
    NetworkConfig,
    TrainConfig,
    evaluate,
    load_checkpoint,
    predict,
    save_checkpoint,
    train,
)
from ondevice.models.data import HashedLog
from ondevice.models.data.hashed import hashed_field
from ondevice.models.network_config import ModelConfig
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.row_weights import undo_sampling
from ondevice.models.training.trainer import evaluate_labels

LABELS = ("click", "buy")


def two_labels(count, seed):
    """A log whose second label is a coin's half of the first, more often for even items."""
    log = planted_log(count, seed)
    chance = np.where(log.ids["item"] % 2 == 0, 0.8, 0.2)
    buys = (log.labels > 0) & (np.random.default_rng(seed).random(count) < chance)
    labels = np.stack([log.labels, buys], axis=1).astype(np.float32)
    return replace(log, labels=labels, label_names=LABELS)


def model_of(kind="dnn", seed=0):
    torch.manual_seed(seed)
    tables = {
        "user": FullEmbedding(52, 4),
        "item": FullEmbedding(42, 4, padding_id=0 if kind == "din" else None),
    }
    histories = {"history": "item"} if kind == "din" else {}
    settings = NetworkConfig(kind, hidden=(16,))
    return ClickModel(tables, settings, histories, LABELS)


def inputs_of(model, log, rows=64):
    ids = {name: torch.from_numpy(values[:rows]) for name, values in log.ids.items()}
    if "history" in model.inputs:
        ids["history"] = torch.from_numpy(log.ids["item"][:rows, None] % 7).repeat(1, 3)
    return ids


def test_each_label_is_learned_and_the_first_decides():
    model = model_of()
    settings = TrainConfig(epochs=4, batch=128, learning_rate=5e-3)
    history = train(model, two_labels(6000, 1), two_labels(2000, 2), settings, progress=False)
    metrics = evaluate_labels(model, two_labels(2000, 3))
    assert metrics["click"].auc > 0.85
    assert metrics["buy"].auc > 0.85
    assert evaluate(model, two_labels(2000, 3)) == metrics["click"]
    for epoch in history.epochs:
        assert epoch.validation == epoch.by_label["click"] != epoch.by_label["buy"]
    assert history.best.validation.auc == max(item.validation.auc for item in history.epochs)


def test_the_loss_is_the_mean_of_the_labels():
    log, model = two_labels(100, 1), model_of()
    with torch.no_grad():
        logits = model.forward_logits(inputs_of(model, log, 100))
        losses = [
            functional.binary_cross_entropy_with_logits(
                logits[:, k], torch.tensor(log.labels[:, k])
            )
            for k in range(2)
        ]
    settings = TrainConfig(epochs=1, batch=100)
    history = train(model, log, two_labels(200, 2), settings, progress=False)
    assert history.best.train_loss == pytest.approx(float(sum(losses)) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", ["dnn", "wide_deep", "deepfm", "dcn", "din"])
def test_files_have_an_output_per_label(kind, tmp_path):
    log, model = two_labels(64, 1), model_of(kind).eval()
    ids = inputs_of(model, log)
    convert(model, (ids,), tmp_path, tables="f32")
    expected = {name: values.detach().numpy() for name, values in model(ids).items()}
    assert list(expected) == list(LABELS)
    assert not np.allclose(expected["click"], expected["buy"], atol=1e-3)
    request = {name: values.numpy() for name, values in ids.items()}
    for target in ("odm", "onnx", "tflite"):
        shipped = ondevice.load(tmp_path / f"model.{target}")
        assert shipped.outputs == LABELS
        scores = shipped.predict(request)
        for name in LABELS:
            np.testing.assert_allclose(scores[name], expected[name], atol=1e-5)


def test_commands_work_on_such_a_file(tmp_path):
    log, model = two_labels(64, 1), model_of().eval()
    ids = inputs_of(model, log)
    convert(model, (ids,), tmp_path, targets=("odm",), features=log.features)
    path = str(tmp_path / "model.odm")
    assert main(["verify", path]) == 0
    (tmp_path / "rows.csv").write_text("user,item\n3,4\n5,6\n")
    command = [sys.executable, "-m", "ondevice", "run", path, str(tmp_path / "rows.csv")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].split(",") == list(LABELS)
    scores = ondevice.load(path).predict({"user": [3, 5], "item": [4, 6]})
    printed = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:]])
    np.testing.assert_allclose(printed, np.stack([scores["click"], scores["buy"]], 1), atol=1e-6)
    report = tmp_path / "bench.json"
    bench = ["bench", path, "--batch", "2", "--seconds", "0.05", "--gap-ms", "0",
             "--processes", "1", "--json", str(report)]  # fmt: skip
    assert main(bench) == 0
    assert json.loads(report.read_text())["latencies"]


def test_checkpoints_keep_the_labels_and_old_ones_have_one(tmp_path):
    log, model = two_labels(64, 1), model_of().eval()
    save_checkpoint(tmp_path / "two", model, log.features)
    loaded = load_checkpoint(tmp_path / "two").model
    assert loaded.labels == LABELS
    np.testing.assert_array_equal(predict(loaded, log), predict(model, log))

    single = ClickModel({"user": FullEmbedding(52, 4), "item": FullEmbedding(42, 4)}, (8,))
    save_checkpoint(tmp_path / "old", single, log.features)
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    assert config["model"].pop("labels") == ["label"]  # as versions without labels wrote it
    path.write_text(json.dumps(config))
    assert load_checkpoint(tmp_path / "old").model.labels == ("label",)
    config["model"]["labels"] = ["a", "a"]
    path.write_text(json.dumps(config))
    with pytest.raises(FileFormatError, match="labels named twice"):
        load_checkpoint(tmp_path / "old")


@pytest.mark.parametrize("labels", [(), ("",), ("a", "a"), (1,)])
def test_labels_without_names_are_refused(labels):
    tables = model_of().config.embeddings
    with pytest.raises(SpecError, match="labels"):
        ModelConfig(tables, labels=labels)


def test_a_log_of_other_labels_is_refused():
    log = planted_log(50, 1)
    with pytest.raises(InputError, match="predicts click, buy; the log's labels are label"):
        evaluate(model_of(), log)
    other = replace(two_labels(50, 1), label_names=("click", "cart"))
    with pytest.raises(InputError, match="the log's labels are click, cart"):
        train(model_of(), other, other, progress=False)


def test_other_labels_learn_the_whole_log_from_a_sampled_one():
    """The truth is known: clicks 0.1 or 0.3 by item, and half of them buy."""
    draws = np.random.default_rng(0)
    rows, share = 200_000, 0.2
    item = draws.integers(2, 4, rows)
    click = draws.random(rows) < np.where(item == 2, 0.1, 0.3)
    buy = click & (draws.random(rows) < 0.5)
    held = click | (draws.random(rows) < share)
    labels = np.stack([click, buy], axis=1)[held]
    columns = {"user": np.full(held.sum(), 2), "item": item[held]}
    features = make_log(columns, click[held]).features
    log = replace(make_log(columns, click[held]), features=features,
                  labels=labels.astype(np.float32), label_names=LABELS,
                  negative_sampling=share)  # fmt: skip
    model = model_of()
    settings = TrainConfig(epochs=1, batch=128, learning_rate=5e-3)
    train(model, log, log.take(np.arange(5000)), settings, progress=False)
    undo_sampling(model, share)
    probe = make_log({"user": [2, 2], "item": [2, 3]}, [0, 1])
    probe = replace(probe, labels=np.zeros((2, 2), np.float32), label_names=LABELS)
    truth = [[0.1, 0.05], [0.3, 0.15]]
    np.testing.assert_allclose(predict(model, probe), truth, rtol=0.15)


def test_a_search_for_tables_refuses_several_labels():
    feature = hashed_field("item", "integer")
    labels = np.eye(2, dtype=np.float32)[np.arange(20) % 2]
    log = HashedLog("two", FeatureSpec((feature,)), {"item": np.arange(20)}, labels,
                    label_names=LABELS)  # fmt: skip
    with pytest.raises(InputError, match="the log has click, buy: describe it with one of them"):
        prepare(log)
