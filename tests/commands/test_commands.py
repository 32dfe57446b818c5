"""The runtime's commands, started as a user starts them."""

import hashlib
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.runtime import expected_probabilities, small_ids, write_small_model
from support.terminal import interrupted

import ondevice
from ondevice.cli import main

COMMANDS = ["inspect", "verify", "run", "bench"]


def call(*arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "ondevice", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "small.odm"
    write_small_model(path)
    return path


def test_help_lists_commands_and_each_has_an_example():
    done = call("--help")
    assert done.returncode == 0
    for name in [*COMMANDS, "demo", "train", "convert"]:
        assert f"    {name} " in done.stdout
    for name in COMMANDS:
        done = call(name, "--help")
        assert done.returncode == 0
        assert f"ondevice {name} " in done.stdout.split("example")[1]


def test_a_command_leaves_signals_as_its_caller_had_them():
    def handler(number, frame):
        """Somebody's own."""

    former = signal.signal(signal.SIGTERM, handler)
    try:
        assert main(["inspect", "nothing.odm"]) == 1
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, former)


def test_usage_errors_exit_with_2():
    assert call().returncode == 2
    assert call("fly").returncode == 2
    assert call("run").returncode == 2


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_errors_are_one_line_and_exit_with_1(command, tmp_path):
    done = call(command, tmp_path / "none.odm")
    assert done.returncode == 1
    assert done.stderr == f"ondevice: {tmp_path / 'none.odm'}: no such file\n"
    assert not done.stdout


@pytest.mark.parametrize("words", [["inspect"], ["verify"], ["bench"]])
def test_a_folder_is_no_model_file(words, tmp_path):
    done = call(*words, tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path}: a folder, not a model file" in done.stderr


def test_run_says_which_argument_is_the_model(path, tmp_path):
    (tmp_path / "rows.csv").write_text("a\n1\n")
    swapped = call("run", tmp_path / "rows.csv", path)
    assert swapped.returncode == 1
    assert f"{path}: a model file, not a file of rows" in swapped.stderr
    folder = call("run", path, tmp_path)
    assert folder.returncode == 1
    assert "a folder, not a file of rows; `ondevice score` reads" in folder.stderr


def test_verify(path, tmp_path):
    done = call("verify", path)
    assert done.returncode == 0
    assert re.search(r"ok: 32 test rows in (native|numpy)", done.stdout)
    result = json.loads(call("verify", path, "--json", "-").stdout)[0]
    assert result["passed"]
    assert result["max_difference"] < 1e-6
    damaged = tmp_path / "damaged.odm"
    data = bytearray(path.read_bytes())
    data[-100] ^= 255
    damaged.write_bytes(data)
    assert call("verify", damaged).returncode == 1


def test_inspect_counts_every_byte(path):
    result = json.loads(call("inspect", path, "--json", "-").stdout)[0]
    user = next(item for item in result["tables"] if item["name"] == "user")
    assert (user["rows"], user["dim"], user["codec"]) == (68, 4, "q8")
    assert user["payload"] == round(user["kept"] * 68)  # one byte a value, column scales
    assert user["widths"] == 3 * 12  # a group of 12 bytes for every 32 rows (width codes of 2 bits)
    assert user["scales"] == 4 * 4
    assert result["file_bytes"] == path.stat().st_size
    lookup = next(item for item in result["lookups"] if item["input"] == "user")
    assert lookup == {
        "input": "user",
        "table": "user",
        "scheme": "binary code",
        "rows_per_id": 3,
        "head": 0,
        "fuse": "sum",
        "pooling": "none",
        "padding_id": 0,
    }
    text = call("inspect", path).stdout
    assert result["sha256"] in text
    assert "payload B" in text


def test_run_ids_from_csv_and_json_lines(path, tmp_path):
    ids = small_ids(20)
    rows = [dict(zip(ids, map(int, row), strict=True)) for row in zip(*ids.values(), strict=True)]
    csv_text = "slot,note,colour,user\n" + "".join(
        f'{row["slot"]},"x, y",{row["colour"]},{row["user"]}\n' for row in rows
    )
    done = call("run", path, "-", "--format", "csv", "--ids", stdin=csv_text)
    header, *scores = done.stdout.splitlines()
    assert header == "score"
    np.testing.assert_allclose(np.float64(scores), expected_probabilities(ids), rtol=1e-5)
    requests = tmp_path / "requests.jsonl"
    requests.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    output = tmp_path / "scores.jsonl"
    assert call("run", path, requests, "--ids", "--output", output).returncode == 0
    scores = [json.loads(line)["score"] for line in output.read_text().splitlines()]
    np.testing.assert_allclose(scores, expected_probabilities(ids), rtol=1e-5)


def test_run_raw_values(path):
    done = call("run", path, "-", "--format", "csv", stdin="user,colour,slot\nanna,,3\n,5,0\n")
    raw = {"user": ["anna", None], "colour": [None, 5], "slot": [3, 0]}
    expected = ondevice.load(path).predict(raw, raw=True)
    np.testing.assert_allclose(np.float64(done.stdout.split()[1:]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("csv", "", "the CSV input is empty"),
        ("csv", "user,slot\n", "line 1: columns colour are missing"),
        ("csv", "user,colour,slot\na,1\n", "line 2: expected 3 cells, got 2"),
        (
            "csv",
            "user,colour,slot\na,1,2\na,x,2\n",
            "line 3: field 'colour': expected a signed 64-bit integer, got str 'x'",
        ),
        ("csv", 'user,colour,slot\n"a,1,2\n', "not valid CSV"),
        ("jsonl", "{", "line 1: not valid JSON"),
        ("jsonl", "[]\n", "line 1: expected a JSON object"),
        ("jsonl", '{"user": "a", "colour": 1}\n', "line 1: 'slot' is missing"),
        (
            "jsonl",
            '{"user": 1, "colour": 1, "slot": 1}\n',
            "line 1: field 'user': expected strings",
        ),
        ("jsonl", '{"user": "a", "colour": 1, "slot": 9}\n', "ID 9"),
    ],
)
def test_run_names_the_line_of_a_fault(path, kind, text, message):
    done = call("run", path, "-", "--format", kind, stdin=text)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_failed_run_leaves_no_output(path, tmp_path):
    output = tmp_path / "scores.csv"
    done = call("run", path, "-", "--format", "csv", "--output", output, stdin="user\n")
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_bench_measures(path, tmp_path):
    target = tmp_path / "bench.json"
    done = call("bench", path, "--batch", 1, 8, "--seconds", 0.1, "--gap-ms", 0, 5,
                "--processes", 2, "--json", target)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Latency, microseconds" in done.stdout
    assert done.stderr == ""  # no progress where nobody looks
    result = json.loads(target.read_text())
    (file,) = result["models"][0]["files"]
    assert file["bytes"] == path.stat().st_size
    assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    latencies = result["latencies"]
    assert [(item["rows"], item["gap_ms"]) for item in latencies] == [
        (1, 0),
        (1, 5),
        (8, 0),
        (8, 5),
    ]
    for item in latencies:
        spread = item["latency_us"]
        assert item["requests"] == spread["count"] > 5
        assert 0 < spread["min"] <= spread["p50"] <= spread["p95"] <= spread["p99"] <= spread["max"]
        assert len(item["bursts_us"]) == 2  # processes
    assert all(start["load_us"]["min"] > 0 for start in result["starts"])


def test_bench_refuses_nonsense(path):
    done = call("bench", path, "--batch", 0)
    assert done.returncode == 1
    assert "rows must be 1 to" in done.stderr


def test_bench_shows_what_was_measured_before_ctrl_c(path, tmp_path):
    words = [sys.executable, "-m", "ondevice", "bench", path, "--batch", "1", "--gap-ms", "0",
             "--seconds", "60", "--processes", "30", "--json", tmp_path / "part.json"]  # fmt: skip
    out, err = interrupted(words, r"predict 1\b.*predict 1\b")  # the second round
    assert "Traceback" not in err
    assert "interrupted" in err
    assert "predict 1" in out
    assert json.loads((tmp_path / "part.json").read_text())["interrupted"] is True
