"""`load(lock=True)`: the same scores from memory that stays, whatever happens to the file."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.attention import request, write_attention
from support.native import random_table, write_model
from support.runtime import write_small_model

import ondevice
from ondevice.cli import main
from ondevice.engines.native import is_compiled
from ondevice.errors import FileFormatError, InputError
from ondevice.odm import FULL_CHECK_BYTES
from ondevice.spec import full_spec

pytestmark = [
    pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled"),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is locked"),
]

SMALL = {name: np.array([1, 2, 0]) for name in ("user", "colour", "slot")}
LARGE_ROWS, HUGE_PAGE = 90_000, 1 << 21


def locked_bytes():
    """Locked memory of this process, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmLck"))) * 1024


@pytest.fixture
def small(tmp_path):
    write_small_model(tmp_path / "m.odm")
    return tmp_path / "m.odm"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file that is mapped without a lock, and a request for rows all over its table."""
    path = tmp_path_factory.mktemp("large") / "large.odm"
    spec = full_spec(LARGE_ROWS, 32)
    table = random_table(spec, "f32", np.random.default_rng(0), truncated=False)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    assert path.stat().st_size > FULL_CHECK_BYTES
    old = time.time() - 60  # a file that has just been written is copied, not mapped
    os.utime(path, (old, old))
    return path, {"a": np.random.default_rng(1).integers(0, LARGE_ROWS, 500)}


def test_the_whole_file_is_locked_and_released(small, large):
    before = locked_bytes()
    for file, ids in ((small, SMALL), large):
        expected = ondevice.load(file).predict(ids)
        model = ondevice.load(file, lock=True)
        size = file.stat().st_size
        assert before + size <= locked_bytes() < before + size + HUGE_PAGE
        np.testing.assert_array_equal(model.predict(ids), expected)
        del model
        assert locked_bytes() == before


def truncate(path):
    os.truncate(path, 4096)


def overwrite(path):
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize("change", [truncate, overwrite, Path.unlink])
@pytest.mark.parametrize("folder", [None, "/dev/shm"])  # noqa: S108 - a tmpfs
def test_the_file_may_change_afterwards(change, folder, large, tmp_path):
    """Without a lock, these are errors of the next request."""
    source, ids = large
    if folder and not os.access(folder, os.W_OK):
        pytest.skip(f"no {folder}")
    path = Path(folder or tmp_path) / f"ondevice-lock-{os.getpid()}.odm"
    shutil.copy2(source, path)
    try:
        model = ondevice.load(path, lock=True)
        expected = model.predict(ids)
        change(path)
        for _ in range(3):
            np.testing.assert_array_equal(model.predict(ids), expected)
    finally:
        path.unlink(missing_ok=True)


LIMITED = """
import resource, sys, numpy as np, ondevice
path, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
try:
    ondevice.load(path, lock=True)
except ondevice.OnDeviceError as error:
    print(type(error).__name__, error)
else:
    print("locked")
locked = next(line for line in open("/proc/self/status") if line.startswith("VmLck"))
assert limit or locked.split()[1] == "0", locked
print(ondevice.load(path).engine)
"""


def without_rights():
    """From the next exec on, root too may lock no more than the limit."""
    capability_bounding_set_drop, ipc_lock = 24, 14
    ctypes.CDLL(None).prctl(capability_bounding_set_drop, ipc_lock, 0, 0, 0)


@pytest.mark.parametrize(("limit", "locked"), [(0, False), (4096, False), (1 << 20, True)])
def test_what_the_system_refuses_is_an_error_with_the_limit(limit, locked, tmp_path):
    path = tmp_path / "m.odm"
    spec = full_spec(2000, 8)
    table = random_table(spec, "f32", np.random.default_rng(0), truncated=False)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path, str(limit)], preexec_fn=without_rights,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, engine = done.stdout.splitlines()
    assert engine == "native"
    if locked:
        assert said == "locked"
    else:
        assert said.startswith(f"LockError {path}: {path.stat().st_size} bytes cannot be locked")
        assert f"the limit is {limit} " in said


def test_a_damaged_file_leaves_nothing_locked(small):
    before = locked_bytes()
    data = bytearray(small.read_bytes())
    data[len(data) // 2] ^= 1
    small.write_bytes(data)
    with pytest.raises(FileFormatError):
        ondevice.load(small, lock=True)
    assert locked_bytes() == before


@pytest.mark.parametrize("engine", ["numpy", "onnx"])
def test_other_engines_refuse(engine, small):
    with pytest.raises(InputError, match=r"lock needs the native engine|cannot run"):
        ondevice.load(small, engine=engine, lock=True)
    other = small.with_suffix(".tflite")
    other.write_bytes(b"whatever")
    with pytest.raises(InputError, match="lock needs the native engine"):
        ondevice.load(other, lock=True)


def test_free_axes_share_the_locked_copy(tmp_path):
    path = tmp_path / "m.odm"
    write_attention(path)
    before = locked_bytes()
    model = ondevice.load(path, lock=True)
    once = locked_bytes()
    assert once >= before + path.stat().st_size
    plain = ondevice.load(path)
    for steps in (2, 5, 9):
        ids = request(3, steps)
        for name, scores in plain.predict(ids).items():
            np.testing.assert_array_equal(model.predict(ids)[name], scores)
    assert locked_bytes() == once


def test_threads_load_and_close_at_once(small, large):
    before, faults = locked_bytes(), []
    path, ids = large
    expected = ondevice.load(path).predict(ids)

    def work():
        try:
            for _ in range(5):
                ondevice.load(small, lock=True).predict(SMALL)
                np.testing.assert_array_equal(ondevice.load(path, lock=True).predict(ids), expected)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert locked_bytes() == before


FORKS = """
import os, sys, numpy as np, ondevice
def locked():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmLck"))
    return int(line.split()[1])
model = ondevice.load(sys.argv[1], lock=True)
ids = {"a": np.arange(0, 90000, 7)}
expected, before = model.predict(ids), locked()
child = os.fork()
if not child:
    assert locked() == 0
    assert (model.predict(ids) == expected).all()
    again = ondevice.load(sys.argv[1], lock=True)
    assert locked() == before and (again.predict(ids) == expected).all()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert locked() == before and (model.predict(ids) == expected).all()
print("fine")
"""


def test_a_child_after_fork_has_the_memory_without_the_lock(large):
    done = subprocess.run(
        [sys.executable, "-c", FORKS, large[0]], capture_output=True, text=True, check=False
    )
    assert done.stdout == "fine\n", done.stderr


def test_live_models_lock_too(small):
    live = ondevice.Live(small, check_seconds=None, lock=True)
    once = locked_bytes()
    expected = live.predict(SMALL)
    other = small.with_name("other.odm")
    shutil.copy(small, other)
    other.replace(small)
    assert live.refresh()
    np.testing.assert_array_equal(live.predict(SMALL), expected)
    assert locked_bytes() == once  # that of the old model was released


def test_bench_locks_native_files(small, tmp_path, capsys):
    report = tmp_path / "report.json"
    words = ["bench", small, "--lock", "--batch", 1, "--seconds", 0.02, "--gap-ms", 0,
             "--processes", 1, "--json", report]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    figures = json.loads(report.read_text())["latencies"]
    assert [item["runtime"].endswith(", locked") for item in figures] == [True]
