"""The scripts in examples/ run as a newcomer runs them, and print what they should."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ondevice
from ondevice.models.recipe import open_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, *arguments, cwd):
    """What a script prints; it must succeed."""
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_convert_my_model(tmp_path):
    text = run_example("convert_my_model.py", cwd=tmp_path)
    changes = [float(word) for word in re.findall(r"change of a score (\S+)", text)]
    sizes = [int(word.replace(",", "")) for word in re.findall(r"([\d,]+) bytes", text)]
    assert len(changes) == 3 and max(changes) < 0.01
    assert max(sizes[1:]) < sizes[0] / 3
    for suffix in ("odm", "onnx", "tflite"):
        assert (tmp_path / "converted" / f"model.{suffix}").exists()


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory):
    """The folder of train_on_my_log.py and what it printed."""
    folder = tmp_path_factory.mktemp("log")
    return folder, run_example("train_on_my_log.py", cwd=folder)


def test_train_on_my_log(log_folder):
    folder, text = log_folder
    scores = dict(re.findall(r"^(.*): (0\.\d{3})$", text, re.MULTILINE))
    assert len(scores) == 3
    assert float(scores["film-8"]) > float(scores["film-7"]) + 0.2  # as the log was drawn
    model = ondevice.load(folder / "my-log" / "models" / "model.odm", engine="numpy")
    again = model.rank({"user": ["user-4"], "hour": [20]}, {"film": ["film-8"]}, raw=True)
    assert float(again[0]) == pytest.approx(float(scores["film-8"]), abs=6e-4)


@pytest.mark.parametrize("network", ["dnn", "deepfm", "dcn", "dcn_v1"])
def test_recipes_of_the_public_yardstick(network, tmp_path):
    """Each trains, in the published setting, on files of the columns and names it describes."""
    draws = np.random.default_rng(0)
    names = ["user", "item", "daytime", "weekday", "isweekend", "homework", "cost"]
    names += ["weather", "country", "city"]
    for part, rows in (("train", 400), ("valid", 80), ("test", 80)):
        cells = [
            [int(draws.integers(100 * n, 100 * n + 20)) for n in range(10)] for _ in range(rows)
        ]
        lines = [",".join(map(str, [row[0] % 2, *row])) for row in cells]
        text = "\n".join([",".join(["label", *names]), *lines])
        (tmp_path / f"{part}.csv").write_text(text + "\n")
    recipe = EXAMPLES / "frappe_x1" / f"{network}.toml"
    command = [sys.executable, "-m", "ondevice", "train", recipe, "--path", "*.csv"]
    command += ["--epochs", "2", "--json", "figures.json", "--out", "checkpoint"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "training 400, validation 80, test 80" in done.stdout
    network_of = json.loads((tmp_path / "checkpoint" / "config.json").read_text())["model"][
        "network"
    ]
    assert (network_of["kind"], network_of["hidden"]) == (network, [400, 400, 400])
    assert network_of["batch_norm"] and network_of["dropout"] == 0.2
    experiment = open_recipe(str(recipe)).experiment
    assert (experiment.design.dim, experiment.training.batch) == (10, 4096)


def test_rank_candidates(tmp_path):
    """On a model like that of `make demo`, from fewer rows."""
    command = [sys.executable, "-m", "ondevice"]
    train = [*command, "train", "--max-rows", "3000", "--epochs", "1", "--out", "checkpoint"]
    subprocess.run(train, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    convert = [*command, "convert", "checkpoint", "--targets", "odm", "--out", "demo-out"]
    subprocess.run(convert, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    text = run_example("rank_candidates.py", cwd=tmp_path)
    ranked = [float(score) for score in re.findall(r"^item +\d+  (0\.\d{4})$", text, re.MULTILINE)]
    assert len(ranked) == 5
    assert ranked == sorted(ranked, reverse=True)
    median = re.search(r"^200 candidates: median (\d+) us$", text, re.MULTILINE)
    assert 0 < int(median[1]) < 1_000_000
