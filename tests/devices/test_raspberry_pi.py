"""docs/devices/raspberry_pi.md is walked in an emulated Debian userland, command by command."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.pages import INPUTS, ROOT, blocks, commands, demo_scores, write_demo_model
from support.tools import missing, needs, require

RELEASE = ROOT / "release"
EMULATOR = "qemu-aarch64-static"
EXAMPLE = ROOT / "examples" / "raspberry_pi"
# What a test cannot do or must not: it installs nothing here, and no systemd runs.
NOT_RUN = ("sudo apt", "python3 -m pip install 'setuptools", "scp ", "sudo useradd",
           "sudo systemctl", "sudo usermod")  # fmt: skip
# The emulated processor is slow; and all folders lie in that of the test.
SHORTER = " --processes 1 --seconds 0.1 --requests 5 --gap-ms 0 --batch 1"
FOLDERS = ("/opt/ondevice", "/var/lib/ondevice", "/etc/systemd/system", "/run/ondevice")

pytestmark = needs(
    "" if EXAMPLE.is_dir() else "no examples beside the package",
    missing(EMULATOR, "aarch64-linux-gnu-gcc", "apt-get", "bash"),
)


@pytest.fixture(scope="module")
def userland():
    """The unpacked root of the userland, which tests/arm uses too."""
    sys.path.insert(0, str(RELEASE))
    try:
        spec = importlib.util.spec_from_file_location("userland", RELEASE / "userland.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(RELEASE))
    try:
        return module.unpack("arm64", ROOT / "build" / "arm" / "arm64")
    except module.UserlandError as error:
        return require(str(error))


class Board:
    """A home folder, and a `python3` before all others that is the userland's, emulated."""

    def __init__(self, root, home):
        self.home = home
        tools = home / "tools"
        tools.mkdir()
        libraries = root / "usr" / "lib" / "aarch64-linux-gnu"
        paths = ":".join(f"{libraries}/{name}" for name in ("blas", "lapack", ""))
        words = [EMULATOR, "-cpu", "cortex-a76", "-L", str(root), "-E", f"LD_LIBRARY_PATH={paths}"]
        python = str(root / "usr" / "bin" / "python3.11")
        # by the name it was called by, Python finds the environment it belongs to
        text = f'#!/bin/sh\nexec {shlex.join(words)} -0 "$0" {shlex.quote(python)} "$@"\n'
        (tools / "python3").write_text(text)
        (tools / "python3").chmod(0o755)
        self.environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(home), "USER": "pi"}

    def inside(self, text):
        """A text with the system's folders moved into this one."""
        for folder in FOLDERS:
            text = text.replace(folder, f"{self.home}{folder}")
        return text

    def start(self, command, **options):
        return subprocess.Popen(
            ["bash", "-c", self.inside(command)], cwd=self.home, env=self.environment, text=True,
            **options,
        )  # fmt: skip

    def run(self, command):
        """What a command says; it must succeed."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = process.communicate(timeout=3000)
        assert process.returncode == 0, f"{command}\n{said}"
        return said


@pytest.fixture
def board(userland):
    """Its path is short, as that of a socket must be."""
    home = Path(tempfile.mkdtemp(prefix="pi"))
    yield Board(userland, home)
    shutil.rmtree(home)


def copy_to(board, command, wheels, model):
    """What the page's scp does."""
    files = shlex.split(command)[1:-1]
    assert files == ["dist/ondevice_ctr-*_aarch64.whl", "demo-out/model.odm",
                     "examples/raspberry_pi/*"]  # fmt: skip
    for path in (*wheels.glob("ondevice_ctr-*_aarch64.whl"), model, *EXAMPLE.iterdir()):
        if path.is_file():
            shutil.copy(path, board.home)


def test_the_page(board, tmp_path):
    on_pc, on_board, service = [commands(text) for _, text in blocks("raspberry_pi.md", "sh")]
    (build,) = [line for line in on_pc if not line.startswith(NOT_RUN)]
    assert build == "python3 release/arm_wheels.py aarch64 dist"
    command = [sys.executable, *build.split()[1:-1], str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=3000)
    copy_to(board, on_pc[-1], tmp_path, write_demo_model(tmp_path / "model.odm"))

    said = {}
    for line in (line for line in on_board if not line.startswith(NOT_RUN)):
        said[line] = board.run(line.removeprefix("sudo ") + SHORTER * ("bench" in line))
    version, verify, bench, run = list(said.values())[-4:]
    assert version == "ondevice 0.1.0 (native engine: neon-dotprod)\n"
    assert "model.odm: ok: 8 test rows in native neon-dotprod" in verify
    assert "predict 1" in bench
    assert (board.home / "report.html").stat().st_size > 10_000
    values = dict(zip(INPUTS, [[1], [2], [3], [4], [5], [1]], strict=True))
    assert float(run.split()[-1]) == pytest.approx(demo_scores(values)[0], abs=1e-5)

    (board.home / "etc/systemd/system").mkdir(parents=True)
    (board.home / "run/ondevice").mkdir(parents=True)
    running = None
    try:
        for line in service:
            if line.startswith("sudo systemctl enable --now"):
                running = start_unit(board)
            elif not line.startswith(NOT_RUN):
                said = board.run(line.removeprefix("sudo "))
            if line.startswith("sudo install") and line.endswith(".service"):
                move_unit(board)
        check_answer(said, line)
    finally:
        if running is not None:
            running.terminate()
    assert running.wait(timeout=3000) == 0


def move_unit(board):
    """The installed unit names the folders of the test."""
    unit = board.home / "etc/systemd/system/ondevice-rank.service"
    unit.write_text(board.inside(unit.read_text()))


def start_unit(board):
    """Start the installed unit's command."""
    unit = (board.home / "etc/systemd/system/ondevice-rank.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    process = subprocess.Popen(
        shlex.split(command), cwd="/", env=board.environment, stderr=subprocess.PIPE, text=True
    )
    line = process.stderr.readline()
    assert " ranks at " in line, line + process.stderr.read()
    return process


def check_answer(said, command):
    """The page's last command got the scores of the request that it names."""
    request = json.loads(shlex.split(command)[-1])
    items = request["candidates"]
    count = len(items["item"])
    ids = {**{name: value * count for name, value in request["context"].items()}, **items}
    np.testing.assert_allclose(json.loads(said)["scores"], demo_scores(ids), atol=1e-5)
