"""Commands on files that crash a runtime or take all memory: an error, and the shell goes on."""

import os
import signal
import subprocess
import sys

import pytest

from ondevice import child
from ondevice.bench.measure.device import emulator
from ondevice.cli import main
from ondevice.errors import FileFormatError
from ondevice.limits import CHILD_BASE_BYTES, CHILD_BYTES_PER_BYTE
from ondevice.memory_limit import memory_limit

pytestmark = pytest.mark.skipif(
    emulator() is not None,
    reason="this Python cannot start another one: it runs in an emulator",
)


def crashing(folder, number=signal.SIGSEGV):
    """A sitecustomize by which the child dies as in a runtime that follows a bad offset."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    return str(folder)


@pytest.mark.parametrize("command", list(child.COMMANDS))
@pytest.mark.parametrize("name", ["a.onnx", "b.tflite", "C.TFLITE"])
def test_a_crash_is_an_error(command, name, tmp_path, monkeypatch, capsys):
    (tmp_path / name).write_bytes(b"x" * 100)
    monkeypatch.setenv("PYTHONPATH", crashing(tmp_path / "site"))
    assert main([command, str(tmp_path / name)]) == 1
    shown = capsys.readouterr().err
    assert "SIGSEGV" in shown
    assert name in shown


def test_what_the_child_says_is_passed_on(tmp_path, capsys):
    (tmp_path / "a.tflite").write_bytes(b"x" * 100)
    assert main(["inspect", str(tmp_path / "a.tflite")]) == 1
    passed_on = capsys.readouterr().err
    assert passed_on.startswith("ondevice: ")
    assert passed_on.count("\n") == 1
    done = subprocess.run(
        [sys.executable, "-m", "ondevice", "inspect", tmp_path / "a.tflite"],
        env={**os.environ, child.IN_CHILD: str(2**32)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, passed_on)


def test_the_folder_one_stands_in_is_not_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.tflite").write_bytes(b"x" * 100)
    (tmp_path / "argparse.py").write_text("raise SystemExit(77)\n")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "a.tflite"]) == 1
    assert "77" not in capsys.readouterr().err


def test_native_files_need_no_child(tmp_path):
    assert not child.needs_child("inspect", [tmp_path / "a.odm"])
    assert child.needs_child("verify", [tmp_path / "a.odm", tmp_path / "b.onnx"])
    assert not child.needs_child("bench", [tmp_path / "b.onnx"])


def test_the_signal_is_named(tmp_path, monkeypatch):
    site = crashing(tmp_path / "site", signal.SIGABRT)
    monkeypatch.setenv("PYTHONPATH", site)
    with pytest.raises(FileFormatError, match="SIGABRT"):
        child.run_in_child(["inspect", "a.onnx"], [tmp_path / "a.onnx"])


def test_where_no_process_can_be_started_the_command_runs_in_this_one(
    tmp_path, monkeypatch, capsys
):
    """As in an emulator, or in an app that contains Python."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    monkeypatch.delenv(child.IN_CHILD, raising=False)
    assert main(["inspect", str(tmp_path / "a.onnx")]) == 1
    assert "a.onnx: no such file" in capsys.readouterr().err


def test_a_child_that_does_not_end_is_given_up(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child, "MOST_SECONDS", 0.01)
    with pytest.raises(FileFormatError, match=r"a\.onnx: .*more than 0\.01 s"):
        child.run_in_child(["inspect", "a.onnx"], [tmp_path / "a.onnx"])


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
from ondevice import child
from ondevice.cli import main
child.CTRL_C_SECONDS = 0.1
os.environ["PYTHONPATH"] = sys.argv[1]
sys.exit(main(["run", "a.onnx", "-"]))
"""
TAKES_LONG = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getppid(), signal.SIGINT)
signal.sigwait([signal.SIGTERM])
sys.stderr.write("ondevice: interrupted\\n")
sys.stderr.flush()
os._exit(130)
"""


def test_ctrl_c_is_said_once_however_long_the_child_takes(tmp_path):
    """The child has much to remove, or little of the processor, and then says so itself."""
    (tmp_path / "sitecustomize.py").write_text(TAKES_LONG)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stderr) == (130, "ondevice: interrupted\n")


def test_the_limit_grows_with_the_file_and_its_data_up_to_what_the_machine_has(tmp_path):
    path = tmp_path / "a.onnx"
    for name, size in (("a.onnx", 1000), ("a.onnx.data", 500), ("a.onnx.other", 7)):
        (tmp_path / name).write_bytes(bytes(size))
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_limit([path]) == min(CHILD_BASE_BYTES + CHILD_BYTES_PER_BYTE * 1500, machine)
    assert memory_limit([tmp_path / "none", "a\0b"]) == min(CHILD_BASE_BYTES, machine)
    os.truncate(path, 2**42)
    assert memory_limit([path]) == machine


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory elsewhere")
def test_what_takes_more_memory_fails(tmp_path, monkeypatch, capsys):
    """numpy asks for 2 GiB where the child may take 1: one line, no traceback."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "numpy_bomb.py").write_text("import numpy\nnumpy.ones(2**28)\n")
    code = "from ondevice.memory_limit import limit_memory\nlimit_memory(2**30)\nimport numpy_bomb"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "MemoryError" in done.stderr
    (tmp_path / "a.onnx").write_bytes(b"x")
    monkeypatch.setattr(child, "memory_limit", lambda models: 2**20)  # less than Python needs
    assert main(["inspect", str(tmp_path / "a.onnx")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("ondevice: ") or "MemoryError" in shown
