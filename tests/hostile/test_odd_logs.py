"""Odd logs that are accepted score in every written file as torch scores the same raw values.

A training, a conversion, and then logs of other types and layouts: their values are known before
they are written, and become IDs without ondevice (tests/support/odd_logs.py).
"""

import gzip
import os
import resource
import tomllib

import numpy as np
import pytest

pytest.importorskip("torch", reason="commands that read logs need the extra train")
pytest.importorskip("pyarrow", reason="commands that read logs need the extra train")
pytest.importorskip("xxhash", reason="an independent hash of the values")
import pyarrow.parquet as pq
import torch
from support.odd_logs import (
    COMPRESS,
    cells,
    delimited,
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
from ondevice.errors import DataError
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


BOMBS = {
    "line.csv": (b"click,user\n1,", b"x" * 2**20, "lines of up to 16,777,216 bytes"),
    "line.jsonl": (b'{"click":1,"user":"', b"x" * 2**20, "lines of up to 16,777,216 bytes"),
    "header.csv": (b"click,user", b"," * 2**20, "lines of up to 16,777,216 bytes"),
    "row.csv": (b"click,user\n1", b',"\n"' * 2**18, "rows of up to 16,777,216 characters"),
    "cell.csv": (b'click,user\n1,"', b"x\n" * 2**19, "cells of up to 131,072 characters"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_of_endless_rows_takes_little_memory(work, tmp_path, name, capsys):
    """A hundred kilobytes that hold 64 MB without the end of a row."""
    start, piece, reason = BOMBS[name]
    path = tmp_path / f"{name}.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(start)
        for _ in range(64):
            file.write(piece)
    description = LogDescription.from_dict(
        {"label": "click", "ignore": ["*"], "fields": {"user": "string"}}
    )
    with pytest.raises(DataError, match=f"{name}.gz.* line .*{reason}"):
        read_log(path, description)
    assert main(["run", str(work / "models" / "model.odm"), str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("may_raise", [True, False])
def test_a_log_of_more_columns_than_files_may_be_open(tmp_path, may_raise):
    """A column takes a temporary file; the limit is raised, or named in the error."""
    names = [f"c{number}" for number in range(300)]
    rows = [",".join(["click", *names]), *(",".join([f"{n % 2}"] * 301) for n in range(4))]
    (tmp_path / "wide.csv").write_text("\n".join(rows))
    fields = dict.fromkeys(names, "integer")
    description = LogDescription.from_dict({"label": "click", "fields": fields})
    child = os.fork()  # limits that were lowered stay
    if child == 0:
        status = 1
        try:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard if may_raise else 200))
            log = read_log(tmp_path / "wide.csv", description)
            status = 0 if may_raise and len(log.hashes) == 300 else 2
        except DataError as error:
            status = 0 if not may_raise and "ulimit -n" in str(error) else 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_missing_value_of_a_folder_is_no_text(work, tmp_path):
    """Training reads it as `score` does, also where "" is no marker."""
    folder = tmp_path / "dt=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir()
    pq.write_table(table(truth()).drop_columns(["text"]), folder / "a.parquet")
    settings = tomllib.loads(log_columns('missing = ["none"]'))
    settings["fields"]["text"] = {"kind": "string", "column": "dt"}
    log = read_log(folder, LogDescription.from_dict(settings))
    assert not log.hashes["text"].any()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("behind", ["cut", "garbage", "damaged stream", "cut stream"])
def test_no_row_behind_damage_is_lost_without_a_word(work, tmp_path, suffix, behind):
    data = COMPRESS[suffix](delimited(cells(truth())))
    ends = {
        "cut": data[:-5],
        "garbage": data + b"garbage!" * 10,
        "damaged stream": data + b"\1" + data[1:],
        "cut stream": data + data[:-5],
    }
    path = tmp_path / f"log.csv{suffix}"
    path.write_bytes(ends[behind])
    settings = tomllib.loads(log_columns())
    with pytest.raises(DataError, match=f"log.csv{suffix}: damaged or truncated after line"):
        read_log(path, LogDescription.from_dict(settings))
    assert main(["run", str(work / "models" / "model.odm"), str(path)]) == 1
