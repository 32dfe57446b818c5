"""Crafted .onnx and .tflite files end with a typed error or the right answer in any command."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the crafted files are written by the package onnx")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
pytest.importorskip("ai_edge_litert", reason="needs a TFLite runtime")

from support.crafted import HARMLESS, ONNX, write_onnx
from support.crafted_tflite import CODES, TFLITE, identity, write_tflite

from ondevice import child
from ondevice.cli import main
from ondevice.errors import FileFormatError
from ondevice.tflite_file import OPERATORS, check_structure, read_info

CHILD = Path(__file__).with_name("open_crafted.py")
MEMORY = 2**30
HANG = 3000  # seconds: whoever is not done by then is taken for one who never will be
TYPED = {"FileFormatError", "InputError", "SpecError", "UnsupportedError"}
RIGHT = {"load": "[0.0, 1.0, 2.0, 3.0]", "verify": "True", "convert": "('a',)"}
# Claims, nesting and loops: refused by what the file says, before a runtime sees it.
REFUSED = {
    "40 levels of doubling": "deeper than 32 levels",
    "16 levels of doubling": "196608 nodes, with every function in the place of its calls",
    "2,000 functions in a row": "deeper than 32 levels",
    "function calls itself": "call themselves",
    "functions in a circle": "call themselves",
    "graphs 90 levels deep": "deeper than 32 levels",
    "200,000 nodes": "the limit is 131072",
    "loop": "Loop",
    "loop in a function": "Loop",
    "scan": "Scan",
    "two graphs": "2 graphs",
    "2^62 values": "a tensor of 4611686018427387904 values",
    "2^124 values": "a tensor of 21267647932558653966460912964485513216 values",
    "2 GB of values": "a tensor of 536870912 values",
    "negative size": "a negative size",
    "claim in a constant": "a tensor of 1099511627776 values",
    "claim in a function": "a tensor of 1099511627776 values",
    "100,000 axes": "a tensor of more than 64 axes",
    "sparse": "a sparse tensor",
    "data outside": "is not beside it",
    "data in a constant": "is not beside it",
    "data too short": "claims 1099511627776 values in 'data', which has 16 bytes",
}
# Those that LiteRT sees: they end in its own errors, or in what it computes.
SEEN = {
    "Concatenation 40 times", "ExpandDims outside", "Fill", "Fill below 0", "Fill of 8 GB",
    "Fill past 2^63", "Gather below 0", "Gather outside", "Reshape", "Slice outside",
    "Transpose outside", "2^31 values held", "2^62 values held", "2^93 values held",
}  # fmt: skip


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory):
    """All crafted files of ONNX, by name."""
    folder = tmp_path_factory.mktemp("onnx")
    return {name: write_onnx(folder / str(i), name) for i, name in enumerate(ONNX)}


def opened(action, files):
    """How an action on each crafted file ended: kind, text and peak of memory."""
    done = subprocess.run(
        [sys.executable, CHILD, action, str(MEMORY), *files.values()],
        capture_output=True, text=True, timeout=HANG, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "Traceback" not in done.stderr
    return dict(zip(files, lines, strict=True))


@pytest.mark.parametrize("action", ["inspect", "load", "verify", "convert"])
def test_crafted_files_end_in_an_error_or_the_right_answer(action, onnx_files):
    if action == "convert":
        pytest.importorskip("torch", reason="needs the converter")
    for name, (kind, text, peak) in opened(action, onnx_files).items():
        assert kind in {*TYPED, "MemoryError", "answer"}, f"{name}: {kind}: {text}"
        if kind == "answer" and action in RIGHT:
            assert text == RIGHT[action], name
        if name in REFUSED:
            assert kind in ("FileFormatError", "UnsupportedError"), f"{name}: {kind}: {text}"
            assert REFUSED[name] in text
        assert peak < 2 * MEMORY, name


@pytest.fixture(scope="module")
def tflite_files(tmp_path_factory):
    """All crafted files of TFLite, and one that is no attack, by name."""
    folder = tmp_path_factory.mktemp("tflite")
    names = ["identity", *TFLITE]
    return {name: write_tflite(folder / f"{i}.tflite", name) for i, name in enumerate(names)}


@pytest.mark.parametrize("action", ["inspect", "load", "verify"])
def test_crafted_tflite_files_end_in_an_error_or_an_answer(action, tflite_files):
    results = opened(action, tflite_files)
    assert results.pop("identity")[0] == "answer"
    for name, (kind, text, peak) in results.items():
        assert kind in {*TYPED, "answer"}, f"{name}: {kind}: {text}"
        assert kind == "FileFormatError" or name in SEEN, f"{name}: {kind}: {text}"
        assert peak < MEMORY, name


def test_the_operators_are_those_of_the_converter():
    writer = pytest.importorskip("ondevice.converters.targets.tflite.writer")
    assert {name: getattr(CODES, name) for name in writer._OPTIONS} == OPERATORS


def test_every_changed_offset_is_followed_in_bounds(tmp_path):
    """Every word in turn: zero, itself, backwards, far away, 2^31 and more items."""
    path = tmp_path / "m.tflite"
    data = identity().bytes()
    refused = 0
    for place in range(0, len(data) - 4, 4):
        for word in (0, 1, 4, -4, -place, 2**31 - 1, -(2**31), -1):
            changed = data[:place] + word.to_bytes(4, "little", signed=True) + data[place + 4 :]
            try:
                read_info(path, changed)
                check_structure(path, changed)
            except FileFormatError:
                refused += 1
    assert refused > 1000


def words(command, path, folder):
    """A command line that opens a model file."""
    rows = folder / "rows.csv"
    rows.write_text("a\n5\n6\n")
    more = {
        "run": [rows, "--ids"],
        "bench": ["--processes", "1", "--requests", "2"],
        "convert": ["--out", folder / "out", "--targets", "odm"],
    }
    return [command, str(path), *map(str, more.get(command, []))]


@pytest.mark.parametrize("command", ["inspect", "verify", "run", "bench", "convert"])
def test_every_command_ends_in_one_line(command, tmp_path, capsys):
    if command == "convert":
        pytest.importorskip("torch", reason="needs the converter")
    path = write_onnx(tmp_path / "m", "40 levels of doubling")
    assert main(words(command, path, tmp_path)) == 1
    shown = capsys.readouterr().err
    assert shown == f"ondevice: {path}: {shown.partition(f'{path}: ')[2]}"
    assert shown.endswith(f"{REFUSED['40 levels of doubling']}, or call themselves\n")


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory elsewhere")
@pytest.mark.parametrize("command", ["verify", "run"])
def test_a_bomb_ends_at_the_limit_of_memory(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(child, "memory_limit", lambda models: MEMORY)
    path = write_onnx(tmp_path / "m", "Concat 40 times")
    assert main(words(command, path, tmp_path)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("ondevice: ")
    assert shown.count("\n") == 1


def test_run_reads_standard_input(tmp_path):
    path = write_onnx(tmp_path / "m", HARMLESS)
    command = [sys.executable, "-m", "ondevice", "run", path, "-", "--format", "csv", "--ids"]
    done = subprocess.run(command, input="a\n7\n", capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("score\n7\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="children are read from /proc")
def test_who_is_ended_ends_its_child(tmp_path):
    path = write_onnx(tmp_path / "m", HARMLESS)
    command = [sys.executable, "-m", "ondevice", "run", path, "-", "--format", "csv", "--ids"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (started := children.read_text().split()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=HANG)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in error
    assert not Path(f"/proc/{started[0]}").exists()
