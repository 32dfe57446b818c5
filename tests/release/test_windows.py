"""C programs for Windows in Wine: scores, the runner, long and foreign names, files in use."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.native import write_model
from support.runtime import small_ids, write_small_model
from support.wine import compile_for_windows, in_wine, needs_wine

from ondevice.codecs import quantise
from ondevice.spec import full_spec

pytestmark = needs_wine
SHARING_VIOLATION = 32
ROWS = {"read.odm": 50, "mapped.odm": 600_000}  # mapped from 8 MiB on
VALUES = np.random.default_rng(3).normal(size=(600_000, 4)).astype(np.float32)
FOREIGN = "Größe 模型 \U0001f600"


def write_vectors(path, rows):
    """A model that gives the row of a table."""
    table = quantise(VALUES[:rows], "f32")
    return write_model(path, {"a": full_spec(rows, 4)}, {"a": table}, [], {}, ["a.vector"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder of programs, whose `wine` is their system."""
    folder = tmp_path_factory.mktemp("windows")
    compile_for_windows(
        folder,
        {
            "predict.exe": ["examples/predict.c"],
            "runner.exe": ["runner/runner.c", "runner/windows.c"],
            "files.exe": [Path(__file__).parent / "files_in_use.c"],
            "live.exe": [Path(__file__).parent / "live_windows.c", "platform/live.c"],
        },
    )
    return folder


def test_the_engine_scores_as_here(built, tmp_path):
    """Small and mapped files, and files that are none."""
    for name, rows in ROWS.items():
        done = in_wine(built / "predict.exe", write_vectors(tmp_path / name, rows))
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"a\.vector \(\w+\): (\S+)\s+", done.stdout)[1] == f"{VALUES[1, 0]:.6f}"
    cut = tmp_path / "cut.odm"
    cut.write_bytes((tmp_path / "read.odm").read_bytes()[:-1])
    for path, said in ((cut, "bytes"), (tmp_path / "none.odm", "cannot be read"),
                       (tmp_path, "cannot be read")):  # fmt: skip
        done = in_wine(built / "predict.exe", path)
        assert done.returncode == 1
        assert said in done.stderr


@pytest.fixture
def measured(tmp_path):
    """A model and requests in a folder whose name no code page of Windows holds."""
    folder = tmp_path / FOREIGN
    folder.mkdir()
    write_small_model(folder / "model.odm")
    ids = small_ids(32)
    requests = [
        np.ascontiguousarray(ids[name][start : start + 4], "<i8").tobytes()
        for start in range(0, 32, 4)
        for name in ("user", "colour", "slot")
    ]
    (folder / "requests").write_bytes(b"".join(requests))
    return folder / "model.odm", folder / "requests"


def runner(built, task, model, requests, *, context="-", count=20, tolerance="1e-5"):
    words = [task, model, requests, 4, context, 0, 100_000_000, count, tolerance]
    done = in_wine(built / "runner.exe", *words)
    return done.returncode, json.loads(done.stdout)


def test_the_runner_does_every_task(built, measured):
    about = json.loads(in_wine(built / "runner.exe", "about").stdout)
    assert about == {"emulated": None}
    for context in ("-", "100"):
        status, said = runner(built, "latency", *measured, context=context)
        assert status == 0, said
        (worker,) = said["workers"]
        assert len(worker["times_ns"]) == sum(worker["counts"]) == 20
        assert all(0 < time < 60 * 10**9 for time in worker["times_ns"])
        assert said["cpu_ns"] >= 0 and said["affinity"]
        assert said["runtime"].startswith("native ")
    status, said = runner(built, "start", *measured)
    assert status == 0 and 0 < said["first_ns"] < said["start_ns"] < 60 * 10**9
    status, said = runner(built, "memory", *measured)
    assert status == 0 and said["memory"]["faults"] == {}
    assert 10**6 < said["memory"]["process"]["rss"] <= said["memory"]["process"]["peak"]
    status, said = runner(built, "profile", *measured)
    assert status == 0 and {len(item["times_ns"]) for item in said["operators"]} == {20}
    assert None in {item["node"] for item in said["operators"]}
    note = json.loads(in_wine(built / "runner.exe", "drop", measured[0]).stdout)["note"]
    assert "cannot drop" in note


def test_the_runner_refuses_what_is_wrong(built, measured, tmp_path):
    model, requests = measured
    short = tmp_path / "short"
    short.write_bytes(requests.read_bytes()[:-8])
    for words, kind in (((model, short), "InputError"), ((model, tmp_path / "none"), "InputError"),
                        ((tmp_path / "none", requests), "FileFormatError")):  # fmt: skip
        status, said = runner(built, "latency", *words)
        assert (status, said["error"]) == (1, kind), said
    bad = tmp_path / "bad"
    bad.write_bytes(np.full(12, 99, "<i8").tobytes())
    status, said = runner(built, "latency", model, bad)
    assert (status, said["error"]) == (1, "InputError") and "'slot'" in said["message"]


def test_names_longer_than_windows_takes_unasked(built, measured, tmp_path):
    deep = tmp_path.joinpath(*(f"{FOREIGN} {'x' * 60}" for _ in range(6)))
    deep.mkdir(parents=True)
    path = deep / "model.odm"
    path.write_bytes(measured[0].read_bytes())
    assert len(str(path)) > 400
    status, said = runner(built, "latency", path, measured[1])
    assert status == 0, said
    path.unlink()
    status, said = runner(built, "latency", path, measured[1])
    assert (status, said["error"]) == (1, "FileFormatError")


def test_a_file_in_use(built, tmp_path):
    """One that was read belongs to nobody; nobody can write into one that is mapped."""
    for name, rows in ROWS.items():
        path, other = write_vectors(tmp_path / name, rows), tmp_path / "other.odm"
        other.write_bytes(path.read_bytes())
        done = in_wine(built / "files.exe", path, other)
        assert done.returncode == 0, done.stderr
        said = dict(line.split() for line in done.stdout.splitlines())
        assert said["write"] == ("0" if name == "read.odm" else str(SHARING_VIOLATION)), said
        if name == "read.odm":
            assert said["replace"] == "0"
        assert said["closed"] == "0"


@pytest.mark.parametrize("rows", ROWS.values())
def test_a_file_is_replaced_while_it_serves(built, tmp_path, rows):
    """Large files too, which `od_open_path` would map; 4 threads get one version's scores."""
    first = write_vectors(tmp_path / "first.odm", rows)
    second = write_model(
        tmp_path / "second.odm",
        {"a": full_spec(rows, 4)},
        {"a": quantise(VALUES[:rows] + np.float32(1), "f32")},
        [],
        {},
        ["a.vector"],
    )
    switches = 200 if rows == ROWS["read.odm"] else 10
    done = in_wine(built / "live.exe", tmp_path / "model.odm", first, second, switches)
    assert done.returncode == 0, done.stderr
    assert min(map(int, done.stdout.split())) > 0
