"""A board behind ssh: a real sshd on loopback with a throw-away key."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.runtime import write_small_model
from support.terminal import interrupted
from support.wheels import build_wheel

import ondevice
from ondevice.bench.targets import ssh
from ondevice.bench.targets.ssh import SshTarget, parse_target
from ondevice.errors import InputError, OnDeviceError

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
SECONDS = 300  # that anything may take, on a machine that does other things
TOOLS = SSHD and shutil.which("ssh") and shutil.which("ssh-keygen")
needs_sshd = pytest.mark.skipif(
    not TOOLS and not os.environ.get("CI"), reason="needs OpenSSH's server and client"
)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A server that knows one key, with a folder of its own for temporary files."""
    folder = tmp_path_factory.mktemp("board")
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                       check=True)  # fmt: skip
    (folder / "remote tmp").mkdir()
    # a Python with numpy and without this project, whose editable install would lend its engine:
    # the paths in a .pth file are not searched for further ones
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    (site / "numpy.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    shutil.copy(folder / "user.pub", folder / "authorized")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        f'PidFile none\nSetEnv "TMPDIR={folder}/remote tmp"\n'
    )
    (folder / "empty").write_text("")
    for name, key, known in (("good", "user", "known"), ("unknown", "user", "empty"),
                             ("refused", "stranger", "known")):  # fmt: skip
        (folder / name).write_text(
            f"Host *\n  IdentityFile {folder}/{key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/{known}\n  GlobalKnownHostsFile none\n"
            "  StrictHostKeyChecking yes\n"
        )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root sshd separates its privileges
    server, port = start_server(folder)
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    yield folder, f"ssh://127.0.0.1:{port}"
    server.terminate()
    server.wait(SECONDS)


def start_server(folder):
    """The server once it listens, and its port: another where somebody took the first one."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        port = free_port()
        server = subprocess.Popen([SSHD, "-D", "-e", "-p", str(port), "-f", folder / "sshd_config"],
                                  stderr=subprocess.DEVNULL)  # fmt: skip
        while server.poll() is None and time.monotonic() < deadline:
            if answers(port) and server.poll() is None:
                return server, port
            time.sleep(0.05)
    raise AssertionError("sshd does not listen")


def answers(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.odm"
    write_small_model(path)
    return path


def command(board, *arguments, config="good", python=None):
    folder, target = board
    python = python or str(folder / "venv" / "bin" / "python")
    return [sys.executable, "-m", "ondevice", "bench", "--target", target, "--ssh-config",
            str(folder / config), "--python", python, *map(str, arguments)]  # fmt: skip


def call(board, *arguments, **options):
    return subprocess.run(command(board, *arguments, **options), capture_output=True, text=True,
                          timeout=SECONDS)  # fmt: skip


def left(board):
    """What lies in the board's folder for temporary files, once its last process has ended."""
    files = []
    deadline = time.monotonic() + SECONDS
    while (files := list((board[0] / "remote tmp").iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return files


QUICK = ("--batch", 1, "--gap-ms", 0, "--seconds", 0.1, "--processes", 2)


@needs_sshd
def test_a_board_is_measured_and_left_as_it_was(board, small, tmp_path):
    target = tmp_path / "board.json"
    done = call(board, small, *QUICK, "--json", target)
    assert done.returncode == 0, done.stderr
    data = json.loads(target.read_text())
    assert data["device"]["versions"]["ondevice"] == ondevice.__version__
    (model,) = data["models"]
    assert model["name"] == "small.odm"
    assert data["latencies"][0]["latency_us"]["p50"] > 0
    assert left(board) == []


@needs_sshd
def test_a_wheel_is_shipped(board, small, tmp_path):
    """A pure wheel has no compiled engine: numpy is measured, and that is said."""
    wheel = build_wheel(tmp_path, {"ONDEVICE_PURE": "1"})
    done = call(board, small, *QUICK, "--wheel", wheel, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "numpy is measured" in done.stderr
    data = json.loads((tmp_path / "r.json").read_text())
    assert {item["engine"] for item in data["latencies"]} == {"numpy"}
    wheel.write_bytes(b"not a wheel")
    done = call(board, small, *QUICK, "--wheel", wheel)
    assert done.returncode == 1
    assert "not a wheel" in done.stderr
    assert left(board) == []


@needs_sshd
def test_names_reach_no_shell(board, small, tmp_path):
    odd = tmp_path / "$(touch pwned); 'a \" b\n.odm"
    shutil.copy(small, odd)
    done = call(board, odd, *QUICK)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("pwned"))
    assert left(board) == []


@needs_sshd
def test_a_damaged_model_is_refused_by_its_own_name(board, small, tmp_path):
    damaged = tmp_path / "damaged.odm"
    damaged.write_bytes(small.read_bytes()[:-100])
    done = call(board, damaged, *QUICK)
    assert done.returncode == 1
    assert f"{damaged}:" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(board) == []


@needs_sshd
def test_files_stay_when_asked(board, small):
    done = call(board, small, *QUICK, "--keep-remote")
    assert done.returncode == 0, done.stderr
    (folder,) = (board[0] / "remote tmp").iterdir()
    assert str(folder) in done.stderr
    assert (folder / "models" / "0" / "small.odm").read_bytes() == small.read_bytes()
    shutil.rmtree(folder)


@needs_sshd
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "unknown"}, "Host key verification failed"),
        ({"config": "refused"}, "Permission denied"),
        ({"python": "/nowhere/python3"}, "/nowhere/python3"),
        ({"python": "/bin/echo"}, "no answer"),
    ],
)
def test_what_fails_is_said(board, small, options, message):
    done = call(board, small, *QUICK, **options)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@needs_sshd
def test_ctrl_c_shows_what_was_measured(board, small, tmp_path):
    words = command(board, small, "--batch", 1, "--gap-ms", 0, "--seconds", 60, "--processes", 30,
                    "--json", tmp_path / "part.json")  # fmt: skip
    out, err = interrupted(words, r"predict 1\b.*predict 1\b")  # the second round
    assert "interrupted" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "part.json").read_text())["interrupted"] is True
    assert "small.odm" in out
    assert left(board) == []


HELLO = {"ondevice": ondevice.__version__, "compiled": True, "folder": "/somewhere"}
LIES = {
    "endless": "while True: sys.stdout.write('x' * 65536)",
    "silent": "time.sleep(600)",
    "escape": "print('\x1b[31m')",
    "stderr": "sys.stderr.write('\x1b[31m' * 10**6)",
    "list": "print('[]')",
    "deep": "print('[' * 10**5)",
    "version": "print(json.dumps({**HELLO, 'ondevice': '\x1b[31m'}))",
    "error": "print(json.dumps({'error': 'InputError', 'message': 'a\\n\x1b[31m'}))",
    "closed": "print(json.dumps(HELLO))",
    "nothing": "print(json.dumps(HELLO)); print('{}')",
    "device": "print(json.dumps(HELLO)); print(json.dumps({'result': {'name': '\x1b[31m'}}))",
    "twice": 'print(json.dumps(HELLO)); print(\'{"result": 1, "result": 2}\')',
}


@needs_sshd
@pytest.mark.parametrize("name", LIES)
def test_a_board_that_lies_ends_in_one_line(board, small, tmp_path, monkeypatch, name):
    """What stands for its Python answers something else, ever or never."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys, time\nHELLO = {HELLO!r}\n{LIES[name]}\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(ssh, "HELLO", 5)
    port = int(board[1].rsplit(":", 1)[1])
    target = SshTarget("127.0.0.1", None, port, str(program), board[0] / "good")
    begun = time.monotonic()
    with pytest.raises(OnDeviceError) as caught, ssh.connect(target, [small]) as machine:
        machine.device()
    assert str(caught.value).isprintable()
    assert 0 < len(str(caught.value)) < 500
    assert time.monotonic() - begun < SECONDS  # they sleep for 600


@pytest.mark.parametrize(
    "text",
    ["pi@board", "ssh://", "ssh://-oProxyCommand=x", "ssh://a:b@c", "ssh://a/b", "ssh://a:x",
     "ssh://-l@a", "http://a", "ssh://a b", "ssh://a;b", "ssh://[::1"],
)  # fmt: skip
def test_other_targets_are_refused(text):
    with pytest.raises(InputError, match="expected a target"):
        parse_target(text)


def test_the_command_quotes_for_the_boards_shell():
    words = SshTarget("board", "pi", 2222, python="/opt/my python").command()
    assert words[-2] == "board"
    assert words[words.index("-l") + 1] == "pi"
    assert words[-1].startswith("'/opt/my python' -c ")
