"""Odd logs that are accepted score in every written file as torch scores the same raw values.

A training, a conversion, and then logs of other types and layouts: their values are known before
they are written, and become IDs without ondevice (tests/support/odd_logs.py).
"""

import tomllib

import numpy as np
import pytest

pytest.importorskip("torch", reason="commands that read logs need the extra train")
pytest.importorskip("pyarrow", reason="commands that read logs need the extra train")
pytest.importorskip("xxhash", reason="an independent hash of the values")
import pyarrow.parquet as pq
import torch
from support.odd_logs import (
    log_columns,
    odd_files,
    odd_tables,
    reference_ids,
    table,
    truth,
    write_parquet,
)

import ondevice
from ondevice.cli import main
from ondevice.models import load_checkpoint
from ondevice.models.data import LogDescription, read_log

FAST = ["--epochs", "4", "--hidden", "8", "--dim", "4", "--batch", "64", "--widths", "whole"]
FILES = {"model.odm": ("native", "numpy"), "model.onnx": ("onnx",), "model.tflite": ("tflite",)}
CONTEXT = ("text", "code", "seen_hour", "seen_weekday", "mobile")  # of `rank`


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def trained(folder, log, columns, targets=("odm", "onnx", "tflite")):
    """A folder with a checkpoint of a log and its files."""
    (folder / "columns.toml").write_text(columns, encoding="utf-8")
    options = ["--data", "log", "--path", log, "--columns", folder / "columns.toml"]
    run("train", *options, "--out", folder / "checkpoint", *FAST, "--learning-rate", "0.03", "-q")
    run(
        "convert",
        folder / "checkpoint",
        "--out",
        folder / "models",
        "--targets",
        *targets,
        "--tables",
        "f32",
        "-q",
    )
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    pq.write_table(table(truth(600)), folder / "log.parquet")
    return trained(folder, folder / "log.parquet", log_columns())


@pytest.fixture(scope="module")
def checkpoint(work):
    return load_checkpoint(work / "checkpoint")


@pytest.fixture(scope="module")
def models(work):
    """Each file in each engine that runs it, by name."""
    return {
        f"{name}, {engine}": ondevice.load(work / "models" / name, engine=engine)
        for name, engines in FILES.items()
        for engine in engines
    }


def torch_scores(checkpoint, ids):
    with torch.no_grad():
        return checkpoint.model({name: torch.from_numpy(i) for name, i in ids.items()}).numpy()


def raw_inputs(values):
    """The values as Python gives them to a model; of unsigned integers numpy's keep their bits."""
    codes = [np.uint64(v) if v is not None and v >= 2**63 else v for v in values["code"]]
    times = {"seen_hour": values["seen"], "seen_weekday": values["seen"]}
    plain = {name: values[name] for name in ("text", "hashed", "price", "mobile", "tags")}
    return {**plain, **times, "code": codes}


def check_files(work, models, checkpoint, log, values):
    """Every file, and every way to score these values, gives torch's scores."""
    expected = torch_scores(checkpoint, reference_ids(checkpoint.features.fields, values))
    out = log.parent / "scores.parquet"
    run("run", work / "models" / "model.odm", log, "--output", out, "-q")
    scores = {"run": pq.read_table(out).column("score").to_numpy()}
    if log.suffix == ".parquet":
        run("score", work / "models" / "model.odm", log, "--out", log.parent / "scores", "-q")
        scores["score"] = pq.read_table(log.parent / "scores").column("score").to_numpy()
    for name, model in models.items():
        scores[name] = model.predict(raw_inputs(values), raw=True)
    for name, found in scores.items():
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=name)


def check_training(work, checkpoint, log, values):
    """Training reads from the log the IDs of these values."""
    settings = tomllib.loads((work / "columns.toml").read_text(encoding="utf-8"))
    hashed = read_log(log, LogDescription.from_dict(settings))
    for field in checkpoint.features.fields:
        if field.kind == "number":
            right = np.array([np.nan if v is None else v for v in values[field.name]])
            np.testing.assert_array_equal(hashed.hashes[field.name].view(np.float64), right)
        else:
            right = reference_ids([hashed.features[field.name]], values)[field.name]
            np.testing.assert_array_equal(hashed.hashes[field.name], right)
    np.testing.assert_array_equal(hashed.labels, values["click"])


def test_the_reference_tells_values_apart(work, checkpoint):
    """A wrong value of any field would be seen: torch's scores change far more than is allowed."""
    values = truth()
    right = reference_ids(checkpoint.features.fields, values)
    for name, ids in right.items():
        moved = torch_scores(checkpoint, right | {name: np.roll(ids, 1, axis=0)})
        assert np.abs(moved - torch_scores(checkpoint, right)).max() > 1e-3, name
    boundaries = checkpoint.features["price"].boundaries
    assert {0.35, 0.57, 1.15} <= set(boundaries.tolist())  # which a price must not miss by a bit


@pytest.mark.parametrize("case", list(odd_tables()), ids=lambda case: case[0])
def test_an_odd_table_scores_as_torch(work, models, checkpoint, tmp_path, case):
    _, values, log = case
    write_parquet(tmp_path / "log.parquet", log)
    check_files(work, models, checkpoint, tmp_path / "log.parquet", values)
    check_training(work, checkpoint, tmp_path / "log.parquet", values)


@pytest.mark.parametrize("case", list(odd_files(truth())), ids=lambda case: case[0])
def test_an_odd_file_scores_as_torch(work, models, checkpoint, tmp_path, case):
    name, data = case
    (tmp_path / name).write_bytes(data)
    check_files(work, models, checkpoint, tmp_path / name, truth())
    check_training(work, checkpoint, tmp_path / name, truth())


def test_rank_scores_as_torch(models, checkpoint):
    """Each odd value as the context of all candidates."""
    values = truth()
    rows = raw_inputs(values)
    candidates = {name: column for name, column in rows.items() if name not in CONTEXT}
    for row in range(0, len(values["click"]), 3):
        context = {name: [rows[name][row]] for name in CONTEXT}
        same = {
            name: [values[name][row]] * len(values[name])
            for name in ("text", "code", "mobile", "seen")
        }
        ids = reference_ids(checkpoint.features.fields, {**values, **same})
        expected = torch_scores(checkpoint, ids)
        for name, model in models.items():
            scores = model.rank(context, candidates, raw=True)
            np.testing.assert_allclose(scores, expected, atol=2e-6, err_msg=name)
