"""`ondevice convert` with its options, called as from the command line."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from support.stopped import signalled, stopped_command

import ondevice
from ondevice.cli import main
from ondevice.features import FeatureSpec, Field
from ondevice.inspection import inspect
from ondevice.manifest import read_manifest
from ondevice.models import ClickModel, FullEmbedding, save_checkpoint

ROWS = 300
FAULTY = {
    "empty": "",
    "header": "user,item\n",
    "columns": "item,shop\n2,3\n",
    "words": "user,item\n2,3\n2,x\n",
    "short": "user,item\n2\n",
}
MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(1500, 8)
        self.tower = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, item, price):
        x = torch.cat([self.items(item), price], -1)
        return torch.sigmoid(self.tower(x)).squeeze(-1)
"""


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
    return main(
        ["convert", str(folder / "checkpoint"), "--out", str(folder / "out"), "--force", *options]
    )


def test_fit_quantise_calibrate_and_validate(folder, capsys):
    rows = str(folder / "rows.csv")
    options = ["--width-error", "0.2", "--row-ratio", "2", "--dense", "q8", "--tables", "q8"]
    options += ["--float-layers", "network.4", "--calibration", rows, "--targets", "onnx", "odm"]
    options += ["--validation", rows, "--label", "clicked", "--json", str(folder / "report.json")]
    assert convert(folder, *options) == 0
    printed = capsys.readouterr().out
    truth = np.load(folder / "truth.npz")
    before = roc_auc_score(truth["clicked"], truth["scores"])
    assert f"AUC on 300 rows (rows.csv): float32 torch {before:.4f}, with fitted" in printed
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
    assert f"| AUC | {before:.4f} | {report['targets']['onnx']['auc']:.4f} |" in card
    assert "| embeddings.user | 1,200 x 8 | binary code, " in card
    weights = (folder / "checkpoint" / "model.safetensors").read_bytes()
    assert f"SHA-256 of model.safetensors: {hashlib.sha256(weights).hexdigest()}" in card
    assert "Kept in float32: `network.4`." in card
    assert "Ranges of activations fixed by 300 rows." in card
    assert report["source_auc"] == pytest.approx(before, abs=1e-9)
    assert report["fitted_auc"] < before - 0.01
    assert report["validation_source"] == "rows.csv"
    assert [entry["path"] for entry in report["fitted"]] == ["embeddings.user", "embeddings.item"]
    assert all(0.01 < entry["error"] < 1 for entry in report["fitted"])
    assert report["weight_bytes"] == 4 * (8 * (1200 + 1100) + 17 * 16 + 17 * 8 + 9)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--validation", "rows.csv", "--data", "synthetic"], "not both"),
        (["--validation", "rows.csv", "--label", "user"], "'user' is an input of the model"),
        (["--validation", "rows.csv"], "columns label are missing"),
        (["--validation", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--calibration", "rows.dat", "--dense", "q8"], "cannot tell the format by its name"),
        (["--width-error", "2"], "width_error must be between 0 and 1"),
        (["--data", "synthetic", "--max-rows", "1000"], "hashed unlike the model's"),
        (["--dense", "q8", "--float-layers", "head"], "no dense layer 'head'"),
        (["--calibration", "rows.csv", "--dense", "f16"], "calibration rows are for q8 layers"),
        (["--calibration", "rows.npz", "--dense", "q8"], "expected one that ends in .csv"),
        (["--calibration", "empty.csv", "--dense", "q8"], "empty.csv: the CSV input is empty"),
        (["--calibration", "header.csv", "--dense", "q8"], "header.csv: no rows"),
        (["--calibration", "columns.csv", "--dense", "q8"], "columns user are missing"),
        (["--calibration", "words.csv", "--dense", "q8"], "line 3: field 'item': expected"),
        (["--calibration", "short.csv", "--dense", "q8"], "line 2: expected 2 cells, got 1"),
        (["--example", "rows.npz"], "go with package.module:factory or an .onnx file"),
    ],
)
def test_faults_are_one_line(folder, monkeypatch, capsys, options, fault):
    monkeypatch.chdir(folder)
    (folder / "rows.txt").touch()
    (folder / "rows.npz").touch()
    for name, text in FAULTY.items():
        (folder / f"{name}.csv").write_text(text)
    assert convert(folder, *options) == 1
    error = capsys.readouterr().err
    assert fault in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A module in a file, its weights, an .onnx of it, and rows whose labels follow it."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "net_of_mine.py").write_text(MODULE)
    scope = {}
    exec(MODULE, scope)  # noqa: S102
    module = scope["Net"]().eval()
    with torch.no_grad():
        module.items.weight.mul_(0.5 ** torch.arange(8))
        module.tower[-1].weight.mul_(4)
    save_file(module.state_dict(), folder / "net.safetensors")
    rng = np.random.default_rng(0)
    item, price = rng.integers(0, 1500, ROWS), rng.random((ROWS, 1), np.float32)
    with torch.inference_mode():
        scores = module(torch.from_numpy(item), torch.from_numpy(price)).numpy()
    clicked = scores + rng.normal(0, scores.std(), ROWS) > np.median(scores)
    np.savez(folder / "example.npz", item=item[:8], price=price[:8])
    np.savez(folder / "rows.npz", item=item, price=price, clicked=clicked, other=item)
    np.savez(folder / "short.npz", item=item, price=price[:3], clicked=clicked)
    np.savez(folder / "wide.npz", item=item, price=price[:, 0], clicked=clicked)
    np.savez(folder / "high.npz", item=item + 9000, price=price, clicked=clicked)
    np.savez(folder / "nan.npz", item=item, price=price * np.nan, clicked=clicked)
    np.savez(folder / "none.npz", item=item[:0], price=price[:0])
    torch.onnx.export(
        module,
        (torch.from_numpy(item[:8]), torch.from_numpy(price[:8])),
        folder / "net.onnx",
        dynamic_shapes={"item": {0: "batch"}, "price": {0: "batch"}},
        verbose=False,
    )
    return folder, roc_auc_score(clicked, scores)


def test_an_axis_of_a_module_is_left_free(tmp_path, monkeypatch, capsys):
    """A history of any length, and its mask of the same, in the stock runtime."""
    (tmp_path / "reader.py").write_text(READER)
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    history, mask = draws.integers(0, 50, (4, 6)), draws.random((4, 6)) < 0.7
    np.savez("rows.npz", history=history, mask=mask.astype("f"))
    arguments = ["convert", "reader:Reader", "--example", "rows.npz", "--tables", "f32"]
    free = ["--dynamic", "history:1=steps", "mask:1=steps"]
    assert main([*arguments, "--out", "free", *free, "--targets", "onnx"]) == 0
    capsys.readouterr()
    session = onnxruntime.InferenceSession("free/model.onnx")
    scope = {}
    exec(READER, scope)  # noqa: S102
    for steps in (1, 11):
        history, mask = draws.integers(0, 50, (3, steps)), np.ones((3, steps), np.float32)
        with torch.inference_mode():
            expected = scope["Reader"]()(torch.from_numpy(history), torch.from_numpy(mask))
        (got,) = session.run(None, {"history": history, "mask": mask})
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)
    for wrong in ("history", "history:1", "history:x=steps", ":1=steps"):
        assert main([*arguments, "--out", "wrong", "--dynamic", wrong]) == 1
        assert "expected INPUT:AXIS=NAME" in capsys.readouterr().err
    assert main([*arguments, "--out", "wrong", "--dynamic", "age:1=steps"]) == 1
    assert "dynamic axes of 'age'; the inputs are history, mask" in capsys.readouterr().err
    assert main(["convert", "no.onnx", "--out", "wrong", "--dynamic", "history:1=steps"]) == 1
    assert "--dynamic is for package.module:factory" in capsys.readouterr().err


READER = """
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.score = nn.Embedding(50, 4), nn.Linear(4, 1)
        self.eval()

    def forward(self, history, mask):
        total = (self.items(history) * mask.unsqueeze(-1)).sum(1)
        return torch.sigmoid(self.score(total)).squeeze(-1)
"""
OWN = ("net_of_mine:Net", "--weights", "net.safetensors", "--example", "example.npz")


@pytest.mark.parametrize(
    "source", [(*OWN, "--width-error", "0.2"), OWN, ("net.onnx",)], ids=["fitted", "module", "onnx"]
)
def test_a_module_or_onnx_file_is_calibrated_and_validated(
    net, source, tmp_path, monkeypatch, capsys
):
    folder, before = net
    monkeypatch.chdir(folder)
    options = ["--validation", "rows.npz", "--label", "clicked", "--dense", "q8"]
    options += ["--calibration", "rows.npz", "--tables", "q4", "--out", str(tmp_path)]
    assert main(["convert", *source, *options]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "model.report.json").read_text())
    assert report["source_auc"] == pytest.approx(before, abs=1e-4)
    rows = np.load("rows.npz")
    ids = {name: rows[name] for name in ("item", "price")}
    for target, item in report["targets"].items():
        scores = ondevice.load(tmp_path / f"model.{target}").predict(ids)
        assert item["auc"] == pytest.approx(roc_auc_score(rows["clicked"], scores), abs=1e-9)
    assert report["targets"]["onnx"]["layers"][0]["activations"] == "static"
    if "--width-error" in source:
        assert f"float32 torch {before:.4f}, with fitted tables" in printed
        assert report["fitted"][0]["mean_width"] < 4
        assert report["fitted"][0]["error"] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("source", "options", "fault"),
    [
        (OWN, ["--validation", "rows.csv"], "expected .npz"),
        (OWN, ["--validation", "nowhere.npz"], "nowhere.npz"),
        (OWN, ["--validation", "rows.npz"], "no array 'label' of labels; it holds item, price"),
        (OWN, ["--validation", "rows.npz", "--label", "item"], "labels must be a list of 0 and 1"),
        (OWN, ["--validation", "short.npz", "--label", "clicked"], "not one value per label"),
        (OWN, ["--validation", "wide.npz", "--label", "clicked"], "'price': expected shape"),
        (OWN, ["--validation", "high.npz", "--label", "clicked"], "validation: input 'item': ID"),
        (OWN, ["--validation", "nan.npz", "--label", "clicked"], "returns nan for row 1"),
        (OWN, ["--calibration", "none.npz", "--dense", "q8"], "calibration: input 'item': the b"),
        (OWN, ["--calibration", "high.npz", "--dense", "q8"], "calibration: input 'item': ID"),
        (OWN, ["--data", "synthetic"], "--data is for a checkpoint"),
        (("net.onnx",), ["--width-error", "0.1"], "an .onnx file has none"),
        (("net.onnx",), ["--validation", "wide.npz", "--label", "clicked"], "'price': expected"),
    ],
)
def test_faults_of_rows_in_arrays(net, tmp_path, monkeypatch, capsys, source, options, fault):
    folder, _ = net
    monkeypatch.chdir(folder)
    assert main(["convert", *source, "--out", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert fault in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def command(*arguments):
    return [sys.executable, "-m", "ondevice", "convert", *map(str, arguments)]


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_same_bytes_from_other_processes(folder, tmp_path):
    """Other hash seeds, numbers of threads and folders."""
    rows = str(folder / "rows.csv")
    runs = []
    for seed, threads in (("0", "1"), ("4711", "2")):
        where = tmp_path / seed
        where.mkdir()
        counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        environment = os.environ | counts | {"PYTHONHASHSEED": seed}
        options = ["--row-ratio", "2", "--width-error", "0.2", "--dense", "q8", "--tables", "q4"]
        options += ["--calibration", rows, "--validation", rows, "--label", "clicked"]
        arguments = command(folder / "checkpoint", "--out", where / f"out{seed}", *options)
        subprocess.run(arguments, cwd=where, env=environment, check=True, capture_output=True)
        runs.append(digests(where / f"out{seed}"))
    assert runs[0] == runs[1]
    suffixes = ("odm", "onnx", "onnx.data", "tflite", "report.json", "md")
    assert set(runs[0]) == {"manifest.json", *(f"model.{suffix}" for suffix in suffixes)}


def test_a_manifest_of_something_else_is_not_replaced_unasked(folder, tmp_path, capsys):
    foreign = tmp_path / "manifest.json"
    foreign.write_text('{"name": "an app of the web"}')
    arguments = ["convert", str(folder / "checkpoint"), "--out", str(tmp_path), "--targets", "odm"]
    assert main(arguments) == 1
    assert f"left {foreign};" in capsys.readouterr().err
    assert foreign.read_text() == '{"name": "an app of the web"}'
    assert main([*arguments, "--force"]) == 0
    assert read_manifest(foreign).model_set.version == 1
    assert main([*arguments, "--name", "other"]) == 0  # the manifest is ours now
    listed = read_manifest(foreign).model_set
    assert {"model.odm", "other.odm"} <= set(listed.files) and listed.version == 2


def test_a_file_of_an_earlier_conversion_is_named(folder, tmp_path, capsys):
    options = ("--out", str(tmp_path), "--force", "--targets")
    assert main(["convert", str(folder / "checkpoint"), *options, "odm", "onnx"]) == 0
    assert "earlier conversion" not in capsys.readouterr().out
    before = (tmp_path / "model.onnx").read_bytes()
    assert main(["convert", str(folder / "checkpoint"), *options, "odm", "--tables", "q4"]) == 0
    assert f"{tmp_path / 'model.onnx'} is of an earlier conversion" in capsys.readouterr().out
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert "model.onnx" not in (tmp_path / "model.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_the_files_of_an_earlier_run(folder, tmp_path, number):
    assert main(["convert", str(folder / "checkpoint"), "--out", str(tmp_path)]) == 0
    before = digests(tmp_path)
    words = ["convert", folder / "checkpoint", "--out", tmp_path, "--force", "--tables", "q4"]
    with stopped_command(tmp_path, ".ondevice-*/**/model.*", *words) as process:
        _, error = signalled(process, number)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert error.count("Traceback") == 0
    assert digests(tmp_path) == before


def test_tables_in_sections_each_by_its_field(folder, capsys):
    """The sections in the file are those that were asked for; the scores are the model's."""
    options = ["--tables", "q4", "--tables", "item=q8:100,q4x4:400,q2x2", "--force"]
    assert convert(folder, *options, "--targets", "odm", "onnx", "tflite") == 0
    assert "item q8:100,q4x4:400,q2x2" in capsys.readouterr().out
    for target in ("odm", "onnx", "tflite"):
        tables = inspect(folder / "out" / f"model.{target}").tables
        item = [
            (table.first_row, table.rows, table.codec, table.dim)
            for table in tables
            if table.name == "embeddings.item.weight"
        ]
        assert item == [(0, 100, "q8", 8), (100, 400, "q4", 4), (500, 600, "q2", 2)]
        assert {table.codec for table in tables if "user" in table.name} == {"q4"}
    assert main(["inspect", str(folder / "out" / "model.odm")]) == 0
    assert "embeddings.item.weight from row 500" in capsys.readouterr().out
    assert main(["verify", str(folder / "out" / "model.odm")]) == 0


@pytest.mark.parametrize(
    ("options", "status", "fault"),
    [
        (["q5"], 2, "unknown codec 'q5'; choose from f32, f16, q8, q4, q3, q2, q1, or sections"),
        (["item=q8:10,"], 2, "cannot read ''; expected CODEC"),
        (["=q8"], 2, "'=q8' lacks the field before ="),
        (["q8:5000,q4"], 1, "are for 5000 rows, the table has"),
        (["item=q8:100,q4:100"], 1, "are for 200 rows, the table has 1100"),
        (["shop=q4"], 1, "codecs for shop: no such table or input"),
        (["item=q4", "item=q8"], 1, "gives field 'item' two codecs"),
    ],
)
def test_faults_of_tables_are_named(folder, capsys, options, status, fault):
    arguments = [part for option in options for part in ("--tables", option)]
    try:
        assert convert(folder, *arguments, "--force") == status
    except SystemExit as error:
        assert error.code == status
    assert fault in capsys.readouterr().err
