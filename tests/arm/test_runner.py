"""The static runner under emulation, and the protocol to a device, recorded by a fake adb."""

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.faulty import copy_with_wrong_rank
from support.runtime import write_small_model
from support.tools import cannot_link, missing, needs

from ondevice.bench.targets.adb import parse_target
from ondevice.errors import InputError

ROOT = Path(__file__).parents[2]
COMPILERS = {"arm64": "aarch64-linux-gnu-gcc", "armv7": "arm-linux-gnueabihf-gcc"}
EMULATORS = {"arm64": "qemu-aarch64-static", "armv7": "qemu-arm-static"}
TOOLS = ["make", *COMPILERS.values(), *EMULATORS.values()]
pytestmark = needs(
    missing(*TOOLS), *(cannot_link(compiler, "-static") for compiler in COMPILERS.values())
)


@pytest.fixture(scope="module")
def runners(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runners")
    subprocess.run(
        ["make", "-s", "runners", f"RUNNERS={folder}"], cwd=ROOT, check=True, timeout=3000
    )
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.odm"
    write_small_model(path)
    return path


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A folder that plays a phone; its log."""
    device, tools = tmp_path / "device", tmp_path / "tools"
    device.mkdir()
    tools.mkdir()
    adb = tools / "adb"
    adb.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' '{Path(__file__).parent / 'fake_adb.py'}' \"$@\"\n"
    )
    adb.chmod(adb.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB_DEVICE", str(device))
    monkeypatch.setenv("FAKE_ADB_LOG", str(tmp_path / "log"))
    return device, tmp_path / "log"


def call(*words):
    command = [sys.executable, "-m", "ondevice", "bench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=3000)


@pytest.mark.parametrize("name", COMPILERS)
def test_the_runner_needs_nothing_of_the_system(runners, name):
    """Static: no interpreter, no shared library."""
    prefix = COMPILERS[name].removesuffix("gcc")
    shown = subprocess.run([f"{prefix}readelf", "-ld", runners / f"ondevice-runner-{name}"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert "INTERP" not in shown
    assert "NEEDED" not in shown


@pytest.mark.parametrize(("name", "abi"), [("arm64", "arm64-v8a"), ("armv7", "armeabi-v7a")])
def test_a_phone_is_measured_and_left_as_it_was(
    runners, small, phone, tmp_path, monkeypatch, name, abi
):
    monkeypatch.setenv("FAKE_ADB_ABI", abi)
    device, log = phone
    odd = tmp_path / "$(touch pwned) a'b.odm"
    shutil.copy(small, odd)
    done = call(odd, "--target", "adb:serial-1", "--runner", runners, "--batch", 1, 8, "--rank", 4,
                "--processes", 2, "--seconds", 0.1, "--profile", "--json", tmp_path / "r.json",
                "--html", tmp_path / "r.html")  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["tool"].startswith("ondevice runner ")
    assert data["device"]["name"] == "Example Phone 1"
    assert data["device"]["system"] == "Android 14"
    assert data["device"]["emulated"] == EMULATORS[name]
    assert {item["rows"] for item in data["latencies"]} == {1, 4, 8}
    for item in data["latencies"]:  # emulated time is never shown
        assert item["latency_us"] is None
        assert item["requests"] > 10
    assert data["profiles"]
    assert data["profiles"][0]["operators"][0]["us"] is None
    assert data["memories"][0]["process"]["rss"]["p50"] > 100_000
    assert list(device.iterdir()) == []
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(words[:2] == ["-s", "serial-1"] for words in calls)
    shells = [words[3] for words in calls if words[2] == "shell"]
    assert not any("pwned" in program for program in shells)
    assert shells[0] == "getprop ro.product.cpu.abi"
    assert shells[1].startswith("mkdir /data/local/tmp/ondevice-bench-")
    assert shells[-1] == shells[1].replace("mkdir", "rm -rf")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs a program for x86-64")
def test_times_of_a_real_processor_are_shown(small, phone, tmp_path, monkeypatch):
    """The same program compiled for this machine: every figure is there."""
    monkeypatch.setenv("FAKE_ADB_ABI", "x86_64")
    subprocess.run(["make", "-s", "runner-here", f"RUNNERS={tmp_path}"], cwd=ROOT, check=True)
    runner = tmp_path / "ondevice-runner-x86_64"
    done = call(small, "--target", "adb", "--runner", runner, "--batch", 4, "--gap-ms", 0, 5,
                "--processes", 2, "--seconds", 0.2, "--profile",
                "--json", tmp_path / "r.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "r.json").read_text())
    back, paced = data["latencies"]
    assert (back["gap_ms"], paced["gap_ms"]) == (0, 5)
    assert 0 < back["latency_us"]["p50"] < 50_000
    total = sum(one["us"]["p50"] for one in data["profiles"][0]["operators"])
    # one request's time, not a sum over thousands; neighbours on the machine slow either
    assert 0.02 < total / back["latency_us"]["p50"] < 50
    for start in data["starts"]:
        assert start["start_us"]["min"] > start["load_us"]["min"] > 0


@pytest.fixture(scope="module")
def wrong_runner(tmp_path_factory):
    """The folder of this machine's runner, of an engine whose rank is wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    native = copy_with_wrong_rank(folder)
    subprocess.run(["make", "-s", "runner-here", f"RUNNERS={folder}", f"NATIVE={native}"],
                   cwd=ROOT, check=True)  # fmt: skip
    return folder


@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs a program for x86-64")
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_wrong_rank_is_not_measured(wrong_runner, phone, tmp_path, monkeypatch, rows, vectors):
    """A runner of an engine whose rank is wrong measures predict only."""
    monkeypatch.setenv("FAKE_ADB_ABI", "x86_64")
    write_small_model(tmp_path / "m.odm", vectors=vectors)
    words = [tmp_path / "m.odm", "--target", "adb", "--runner", wrong_runner, "--batch", 4,
             "--gap-ms", 0, "--processes", 1, "--seconds", 0.01]  # fmt: skip
    assert call(*words).returncode == 0
    done = call(*words, "--rank", rows)
    assert done.returncode == 1
    assert "rank differs from predict: by 0." in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "adb:other", "--runner", "."], "device 'other' not found"),
        (["--target", "adb", "--runner", "nowhere"], "make runners"),
        (["--target", "adb"], "--runner"),
        (["--target", "adb;x", "--runner", "."], "expected a target"),
    ],
)
def test_what_fails_is_said(small, phone, words, message):
    done = call(small, *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


ESCAPE = "\x1b[31m"
OBSERVATION = {"engine": "native", "runtime": ESCAPE, "emulated": None, "affinity": None}


@pytest.mark.parametrize(
    ("part", "answer", "code"),
    [
        ("ro.product.model", f"{ESCAPE}\nX\u202e", 0),
        ("uname -m", f"{ESCAPE}x", 0),
        ("nproc", "9" * 5000, 0),
        ("/proc/cpuinfo", "@@@/proc/cpuinfo\nCPU part\t: 0x" + "f" * 5000, 0),
        ("/proc/cpuinfo", f"@@@/proc/meminfo\nMemTotal: {'9' * 5000} kB", 0),
        ("policy", f"@@@/sys/policy{'9' * 5000}/affected_cpus\n\u00b2 {'9' * 5000}\n", 0),
        ("runner about", ESCAPE, 1),
        ("runner about", "[" * 100_000, 1),
        ("runner about", json.dumps({"emulated": ESCAPE}), 0),
        ("runner drop", json.dumps({"note": f"{ESCAPE}\n" * 1000}), 0),
        ("runner start", json.dumps(OBSERVATION), 1),
        ("runner start", json.dumps({"error": "InputError", "message": f"a\n{ESCAPE}"}), 1),
        ("runner latency", "x" * 1000, 1),
        ("runner memory", json.dumps(OBSERVATION | {"runtime": "x", "memory": {ESCAPE: {}}}), 1),
        ("getprop ro.product.cpu.abi", ESCAPE, 1),
    ],
)  # fmt: skip
def test_a_device_that_lies_ends_in_one_line(
    runners, small, phone, monkeypatch, part, answer, code
):
    times = 10_000 if part == "runner latency" else 1  # more than bench reads
    monkeypatch.setenv("FAKE_ADB_LIES", json.dumps({part: (answer, times)}))
    done = call(small, "--target", "adb", "--runner", runners, "--batch", 1, "--gap-ms", 0,
                "--processes", 1, "--seconds", 0.01)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stdout.replace("\n", "").isprintable()
    assert done.stderr.count("\n") == code
    assert done.stderr.strip().isprintable() or not code
    assert len(done.stderr) < 1000


def test_no_adb_is_said(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call(small, "--target", "adb", "--runner", tmp_path)
    assert done.returncode == 1
    assert "this machine has no adb" in done.stderr


@pytest.mark.parametrize("name", COMPILERS)
@pytest.mark.parametrize(
    "words",
    [
        ["latency", "MODEL", "REQUESTS", "0", "-", "0", "1", "0", "0"],
        ["latency", "MODEL", "REQUESTS", "3", "-", "0", "1", "0", "0"],
        ["latency", "MODEL", "REQUESTS", "4", "1", "0", "1", "0", "0"],
        ["latency", "MODEL", "REQUESTS", "4", "-", "x", "1", "0", "0"],
        ["latency", "MODEL", "REQUESTS", "4", "-", "0", "1", "99999999999999999999", "0"],
        ["latency", "REQUESTS", "REQUESTS", "4", "-", "0", "1", "0", "0"],
        ["latency", "nowhere", "REQUESTS", "4", "-", "0", "1", "0", "0"],
        ["latency", "MODEL", "nowhere", "4", "-", "0", "1", "0", "0"],
        ["latency", "MODEL", "REQUESTS", "4", "100", "0", "1", "1", "nan"],
        ["latency", "MODEL", "REQUESTS", "4", "100", "0", "1", "1", "-1"],
        ["latency", "MODEL", "REQUESTS", "4", "100", "0", "1", "1", "1x"],
        ["latency", "MODEL", "REQUESTS", "4", "100", "0", "1", "1"],
        ["dance", "MODEL", "REQUESTS", "4", "-", "0", "1", "0", "0"],
        ["drop", "nowhere"],
        [],
    ],
)
def test_the_runner_refuses_nonsense(runners, small, tmp_path, name, words):
    requests = tmp_path / "requests"
    requests.write_bytes(np.zeros((1, 3, 4), "<i8").tobytes())
    known = {"MODEL": str(small), "REQUESTS": str(requests)}
    command = [EMULATORS[name], runners / f"ondevice-runner-{name}",
               *(known.get(word, word) for word in words)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["error"].endswith("Error")
    assert answer["message"]


@pytest.mark.parametrize("text", ["adb:", "adb:-s", "adb:a b", "usb", "adb:a;b"])
def test_other_targets_are_refused(text):
    with pytest.raises(InputError, match="expected a target"):
        parse_target(text)
