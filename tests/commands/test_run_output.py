"""`ondevice run` writes: names of columns and keys, broken pipes, full disks, devices, links."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.native import random_table, write_model
from support.runtime import expected_probabilities, small_ids, write_small_model

import ondevice
from ondevice.plan import Node
from ondevice.scores import ScoreWriter
from ondevice.spec import full_spec

READER_GONE = 141  # 128 + SIGPIPE, as the shell says of `cat`
FULL = Path("/dev/full")


# argparse ignores a failed write; what it left in the buffer must not pass unnoticed
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def call(*arguments, stdin="", **options):
    words = [sys.executable, "-m", "ondevice", *map(str, arguments)]
    return subprocess.run(words, input=stdin, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "small.odm"
    write_small_model(path)
    return path


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """50,000 requests: their scores do not fit a pipe."""
    ids = small_ids(50_000)
    file = tmp_path_factory.mktemp("requests") / "requests.csv"
    lines = ("{},{},{}".format(*row) for row in zip(*ids.values(), strict=True))
    file.write_text(",".join(ids) + "\n" + "\n".join(lines) + "\n")
    return file


def model_with(path, outputs):
    """A model of one input; `outputs`: their widths by name, None for [batch]."""
    rng = np.random.default_rng(0)
    specs = {"item": full_spec(5, 3)}
    tables = {"item": random_table(specs["item"], "f32", rng, truncated=False)}
    weights, nodes = {"axes": np.array([1], np.int64)}, []
    for name, width in outputs.items():
        weights[f"{name}.w"] = rng.normal(size=(3, width or 1)).astype(np.float32)
        product = name if width else f"{name}.column"
        nodes.append(Node("MatMul", ("item.vector", f"{name}.w"), (product,), {}))
        if width is None:
            nodes.append(Node("Squeeze", (product, "axes"), (name,), {}))
    write_model(path, specs, tables, nodes, weights, list(outputs))
    rows = tables["item"].values
    return {name: rows @ weights[f"{name}.w"] for name in outputs}


def score(path, text_format, items):
    if text_format == "csv":
        stdin = "item\n" + "".join(f"{item}\n" for item in items)
    else:
        stdin = "".join(json.dumps({"item": item}) + "\n" for item in items)
    done = call("run", path, "-", "--format", text_format, "--ids", stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("width", [None, 1])
def test_one_value_per_request_is_the_score(tmp_path, width):
    expected = model_with(tmp_path / "m.odm", {"logit": width})["logit"].ravel()
    items = [3, 0, 4]
    header, *lines = score(tmp_path / "m.odm", "csv", items).splitlines()
    assert header == "score"
    np.testing.assert_allclose(np.float64(lines), expected[items], rtol=1e-5)
    rows = [json.loads(line) for line in score(tmp_path / "m.odm", "jsonl", items).splitlines()]
    assert [list(row) for row in rows] == [["score"]] * 3
    np.testing.assert_allclose([row["score"] for row in rows], expected[items], rtol=1e-5)


def test_several_outputs_have_their_names(tmp_path):
    tables = model_with(tmp_path / "m.odm", {"click, view": None, "buy": 1, "like": 3})
    items = [1, 4]
    lines = list(csv.reader(io.StringIO(score(tmp_path / "m.odm", "csv", items))))
    assert lines[0] == ["click, view", "buy", "like[0]", "like[1]", "like[2]"]
    expected = np.concatenate([table[items] for table in tables.values()], axis=1)
    np.testing.assert_allclose(np.float64(lines[1:]), expected, rtol=1e-5)
    rows = [json.loads(line) for line in score(tmp_path / "m.odm", "jsonl", items).splitlines()]
    for row, item in zip(rows, items, strict=True):
        assert list(row) == list(tables)
        np.testing.assert_allclose(row["buy"], tables["buy"][item, 0], rtol=1e-5)
        np.testing.assert_allclose(row["like"], tables["like"][item], rtol=1e-5)


def test_a_wide_output_has_a_column_each(tmp_path):
    model_with(tmp_path / "m.odm", {"topic": 2})
    assert score(tmp_path / "m.odm", "csv", [0]).splitlines()[0] == "topic[0],topic[1]"


@pytest.mark.parametrize("text_format", ["csv", "jsonl"])
def test_values_that_are_not_finite_and_matrices(text_format):
    sink = io.StringIO()
    values = np.array([[[1, np.nan], [np.inf, -np.inf]]], np.float32)
    ScoreWriter(sink, text_format).write({"m": values}, 1)
    expected = {
        "csv": "m[0][0],m[0][1],m[1][0],m[1][1]\n1,nan,inf,-inf\n",
        "jsonl": '{"m": [[1.0, null], [null, null]]}\n',
    }
    assert sink.getvalue() == expected[text_format]


def test_an_output_without_a_row_per_request_is_refused():
    with pytest.raises(ondevice.OnDeviceError, match=r"shape \[3\] for 2 requests"):
        ScoreWriter(io.StringIO(), "csv").write({"m": np.zeros(3, np.float32)}, 2)


def into_closed_pipe(*arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        words = [sys.executable, "-m", "ondevice", *map(str, arguments)]
        return subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    finally:
        os.close(write)


@pytest.mark.parametrize("command", ["run", "inspect", "verify", "--help"])
def test_a_reader_that_has_gone_ends_the_command_quietly(path, requests, command):
    words = {"run": ["run", path, requests, "--ids"], "--help": ["--help"]}
    done = into_closed_pipe(*words.get(command, [command, path]))
    assert done.stderr == ""
    assert done.returncode == READER_GONE


def test_head_gets_its_line(path, requests):
    script = f"'{sys.executable}' -m ondevice run '{path}' '{requests}' --ids | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout == "score\n"
    assert done.stderr == ""


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["run", "inspect", "verify", "--help", "--version"])
def test_a_full_disk_under_standard_output_is_one_line(path, requests, command):
    words = {"run": ["run", path, requests, "--ids"]}
    words |= {"--help": ["--help"], "--version": ["--version"]}
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ondevice", *map(str, words.get(command, [command, path]))],
            stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED,
        )  # fmt: skip
    assert done.returncode == 1
    fault = "No space left on device"
    assert done.stderr == f"ondevice: standard output: cannot be written: {fault}\n"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_device_as_output_stays_a_device(path, requests):
    done = call("run", path, requests, "--ids", "--output", FULL)
    assert done.returncode == 1
    assert done.stderr == f"ondevice: {FULL}: cannot be written: No space left on device\n"
    assert stat.S_ISCHR(FULL.stat().st_mode)


def test_dev_stdout_is_the_pipe(path):
    ids = small_ids(1)
    request = ",".join(ids) + "\n" + ",".join(str(int(v[0])) for v in ids.values()) + "\n"
    done = call("run", path, "-", "--format", "csv", "--ids", "--output", "/dev/stdout",
                stdin=request)  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(float(done.stdout.split()[1]), expected_probabilities(ids)[0], 1e-5)


def test_an_unreadable_input_names_the_input(path, tmp_path):
    done = call("run", path, tmp_path, "--format", "csv")
    assert done.stderr == f"ondevice: {tmp_path}: cannot be read: Is a directory\n"
    assert done.returncode == 1
