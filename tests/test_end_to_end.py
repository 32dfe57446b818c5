"""The whole path as a user walks it: demo, train, convert, inspect, verify, run, bench."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import ondevice

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("ONDEVICE_DATA")


def call(*arguments, cwd, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "ondevice", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The README's demo on a small draw: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = call("demo", "--max-rows", 40_000, "--epochs", 1, "--seconds", 0.1, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_demo_prints_the_table(demo):
    _, done = demo
    lines = done.stdout.splitlines()
    for label in (
        "file",
        "times smaller",
        "  embedding tables",
        "  times smaller",
        "  map of raw values",
        "  network",
        "  description, test vectors",
        "test AUC",
        "share of float32 AUC",
        "largest difference from torch",
        "load",
        "memory (resident)",
        "batch 1 p50",
        "batch 1 p95",
        "batch 1 p99",
        "batch 128 p50",
        "batch 128 p95",
        "batch 128 p99",
        "one row every 100 ms, p50",
    ):
        assert any(line.startswith(label) for line in lines), label
    assert "best reachable AUC" in done.stdout
    assert "Traceback" not in done.stderr
    assert "epoch" not in done.stderr  # no progress bar when stderr is not a terminal


def test_demo_figures_hold(demo):
    folder, _ = demo
    data = json.loads((folder / "demo-out" / "demo.json").read_text())
    assert len(data["files"]) == 3
    for item in data["files"]:
        path = folder / item["path"]
        size = path.stat().st_size
        if path.suffix == ".onnx":
            size += path.with_name("model.onnx.data").stat().st_size
        assert item["file_bytes"] == size
        assert size < data["float32"]["bytes"] / 4
        assert sum(item["parts"].values()) == size
        assert item["max_difference"] <= 5e-4  # the network's weights are float16
        assert 0.5 < item["auc"] < 1
    report = json.loads((folder / "demo-out" / "bench.json").read_text())
    assert [model["name"] for model in report["models"]] == [
        Path(item["path"]).name for item in data["files"]
    ]
    assert "<svg" in (folder / "demo-out" / "bench.html").read_text()
    aucs = [item["auc"] for item in data["files"]]
    assert max(aucs) - min(aucs) < 1e-5  # three engines, one model


def test_files_of_the_demo_work(demo):
    folder, _ = demo
    files = [f"demo-out/model.{suffix}" for suffix in ("odm", "onnx", "tflite")]
    assert call("verify", *files, cwd=folder).returncode == 0
    assert call("inspect", *files, cwd=folder).returncode == 0
    raw = "user,item,seller,category,hour,device\n1,2,3,4,5,1\n,999999999,3,4,,0\n"
    scores = [
        call("run", file, "-", "--format", "csv", cwd=folder, stdin=raw).stdout for file in files
    ]
    values = [np.float64(text.split()[1:]) for text in scores]
    assert len(values[0]) == 2
    np.testing.assert_allclose(values[1], values[0], rtol=1e-4)
    np.testing.assert_allclose(values[2], values[0], rtol=1e-4)


def write_clicks(path, rows=6000):
    """A log whose clicks follow a taste of each user and film; missing genres among them."""
    rng = np.random.default_rng(0)
    taste, appeal = rng.normal(size=1500), rng.normal(size=60)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "film", "genre", "stars", "note"])
        for _ in range(rows):
            user, film = int(rng.integers(1500)), int(rng.integers(60))
            liked = rng.random() < 1 / (1 + np.exp(-2 * (taste[user] + appeal[film])))
            genre = "" if film % 7 == 0 else f"genre {film % 5}"
            writer.writerow([f"user-{user}", film, genre, 5 if liked else 2, "x"])


def test_train_convert_and_score_own_data(tmp_path):
    """Raw strings and integers in, the training split's pattern out, through every file."""
    write_clicks(tmp_path / "clicks.csv")
    (tmp_path / "columns.toml").write_text(
        'label = { column = "stars", at_least = 4 }\n'
        'ignore = ["note"]\n\n'
        '[fields]\nuser = "string"\nfilm = "integer"\ngenre = "string"\n'
    )
    data = ("--data", "csv", "--path", "clicks.csv", "--columns", "columns.toml")
    done = call("train", "--out", "checkpoint", *data, "--batch", 256, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    auc = float(re.search(r"test AUC ([\d.]+)", done.stdout)[1])
    assert auc > 0.7
    done = call("convert", "checkpoint", "--out", "models", "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["targets"]["odm"]["max_difference"] <= 1e-5
    for suffix in ("odm", "onnx", "tflite"):
        done = call("run", f"models/model.{suffix}", "clicks.csv", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        scores = np.float64(done.stdout.split()[1:])
        with (tmp_path / "clicks.csv").open(encoding="utf-8") as file:
            labels = [int(row["stars"]) >= 4 for row in csv.DictReader(file)]
        assert len(scores) == len(labels)
        assert roc_auc_score(labels, scores) > auc - 0.02  # most rows are training rows


def test_faults_are_one_line(tmp_path):
    write_clicks(tmp_path / "clicks.csv", rows=3)
    for arguments, fault in (
        (["train", "--out", "x", "--data", "ml1m"], "path"),
        (["train", "--out", "x", "--data", "ml1m", "--path", "nowhere"], "nowhere"),
        (["train", "--out", "x", "--data", "csv", "--path", "clicks.csv"], "description"),
        (["train", "--out", "x", "--ratio", "0"], "ratio"),
        (["convert", "nowhere", "--out", "x"], "nowhere"),
    ):
        done = call(*arguments, cwd=tmp_path)
        assert done.returncode == 1, arguments
        assert fault in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clicks.csv"]


@pytest.mark.skipif(not DATA, reason="ONDEVICE_DATA is unset: no real data here")
def test_demo_on_real_data(tmp_path):
    path = Path(str(DATA)).resolve() / "ml_latest_small"
    arguments = ("--data", "ml-latest-small", "--path", path, "--seconds", 0.1, "--out", "out")
    done = call("demo", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert data["float32"]["test"]["auc"] > 0.70
    for item in data["files"]:
        assert item["auc"] > 0.65
    model = ondevice.load(tmp_path / "out" / "model.odm")
    ranked = model.rank(
        {"user": [1], "hour": [18], "weekday": [4]},
        {
            "movie": [1, 2],
            "genres": ["Adventure|Animation|Children|Comedy|Fantasy"] * 2,
            "genre1": ["Adventure"] * 2,
            "year": [1995] * 2,
        },
        raw=True,
    )
    assert ranked.shape == (2,)


CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
# One walk from block to block each: tests/test_own_log.py, test_updates_page.py and
# tests/commands/test_signing.py.
ELSEWHERE = {"own_log.md", "signing.md", "updates.md"}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in ELSEWHERE),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_in_docs_run(demo, page):
    """Every `$ ondevice` or `$ printf` line and every Python block, where the demo has run."""
    folder, _ = demo
    text = page.read_text(encoding="utf-8")
    for block in CONSOLE.findall(text):
        for line in re.findall(r"^\$ ((?:ondevice|printf) .*)$", block, re.MULTILINE):
            ours = f"{sys.executable} -m ondevice "
            command = re.sub(r"^ondevice |(?<=\| )ondevice ", ours, line)
            done = subprocess.run(
                ["/bin/bash", "-c", command],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=3000,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    for block in PYTHON.findall(text):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, timeout=3000
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
