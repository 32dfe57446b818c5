"""`ondevice convert` with its options, called as from the command line."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.cli import main
from ondevice.features import FeatureSpec, Field
from ondevice.models import ClickModel, FullEmbedding, save_checkpoint

ROWS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and a CSV file of raw values whose column `clicked` follows the model."""
    folder = tmp_path_factory.mktemp("command")
    torch.manual_seed(0)
    tables = {"user": FullEmbedding(1200, 8, std=1.0), "item": FullEmbedding(1100, 8, std=1.0)}
    model = ClickModel(tables, (16, 8)).eval()
    with torch.no_grad():
        model.network[-1].weight.mul_(2)
    features = FeatureSpec(tuple(Field(name, "integer", "id") for name in tables))
    rng = np.random.default_rng(0)
    ids = {"user": rng.integers(2, 1200, ROWS), "item": rng.integers(2, 1100, ROWS)}
    with torch.inference_mode():
        scores = model({name: torch.from_numpy(values) for name, values in ids.items()}).numpy()
    clicked = scores + rng.normal(0, scores.std(), ROWS) > np.median(scores)
    examples = {name: values[:8].tolist() for name, values in ids.items()}
    extra = {"examples": examples, "data": {"name": "made up", "rows": ROWS}}
    save_checkpoint(folder / "checkpoint", model, features, extra)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "clicked", "user"])
        columns = (ids["item"].tolist(), clicked.astype(int).tolist(), ids["user"].tolist())
        writer.writerows(zip(*columns, strict=True))
    np.savez(folder / "truth.npz", scores=scores, clicked=clicked, **ids)
    return folder


def convert(folder, *options):
    return main(["convert", str(folder / "checkpoint"), "--out", str(folder / "out"), *options])


def test_fit_quantise_calibrate_and_validate(folder, capsys):
    rows = str(folder / "rows.csv")
    options = ["--width-error", "0.2", "--row-ratio", "2", "--dense", "q8", "--tables", "q8"]
    options += ["--float-layers", "network.4", "--calibration", rows, "--targets", "onnx", "odm"]
    options += ["--validation", rows, "--label", "clicked", "--json", str(folder / "report.json")]
    assert convert(folder, *options) == 0
    printed = capsys.readouterr().out
    truth = np.load(folder / "truth.npz")
    before = roc_auc_score(truth["clicked"], truth["scores"])
    assert f"AUC on the validation rows before tables were fitted: {before:.4f}" in printed
    report = json.loads((folder / "report.json").read_text())
    ids = {name: truth[name] for name in ("user", "item")}
    for target in ("odm", "onnx"):
        scores = ondevice.load(folder / "out" / f"model.{target}").predict(ids)
        auc = roc_auc_score(truth["clicked"], scores)
        assert report["targets"][target]["auc"] == pytest.approx(auc, abs=1e-9)
        assert f"model.{target} {auc:.4f}" in printed
        codecs = [layer["codec"] for layer in report["targets"][target]["layers"]]
        assert codecs == ["q8", "q8", "f32"]
    assert report["targets"]["onnx"]["layers"][0]["activations"] == "static"
    assert "embeddings.user" in printed
    assert "binary code" in printed
    card = (folder / "out" / "model.md").read_text()
    assert "Training data: made up, 300 rows" in card
    assert f"before tables were fitted: {before:.4f}" in card
    assert "Fitted table embeddings.user: binary code" in card


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--validation", "rows.csv", "--data", "synthetic"], "not both"),
        (["--validation", "rows.csv", "--label", "user"], "'user' is an input of the model"),
        (["--validation", "rows.csv"], "columns label are missing"),
        (["--validation", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--calibration", "rows.txt", "--dense", "q8"], "expected .csv or .jsonl"),
        (["--width-error", "2"], "width_error must be between 0 and 1"),
        (["--data", "synthetic", "--max-rows", "1000"], "hashed unlike the model's"),
        (["--dense", "q8", "--float-layers", "head"], "no dense layer 'head'"),
    ],
)
def test_faults_are_one_line(folder, monkeypatch, capsys, options, fault):
    monkeypatch.chdir(folder)
    (folder / "rows.txt").touch()
    assert convert(folder, *options) == 1
    error = capsys.readouterr().err
    assert fault in error
    assert error.count("\n") == 1
