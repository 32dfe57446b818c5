"""examples/raspberry_pi: the ranking service as its unit starts it, hostile clients, its end."""

import contextlib
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.runtime import write_small_model
from support.tools import missing, needs

import ondevice

EXAMPLE = Path(__file__).parents[2] / "examples" / "raspberry_pi"
PROGRAM = EXAMPLE / "rank_service.py"
UNIT = EXAMPLE / "ondevice-rank.service"
SECONDS = 300  # that anything may take, on a machine that does other things
CONTEXT, CANDIDATES = {"user": ["u"], "colour": [7]}, {"slot": [1, 2, 3]}
LIMIT = "s.Service.__init__.__kwdefaults__['seconds'] = {}"  # of a request
REQUEST = json.dumps({"context": CONTEXT, "candidates": CANDIDATES}).encode() + b"\n"

pytestmark = needs("" if PROGRAM.is_file() else "no examples beside the package")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.odm"
    write_small_model(path)
    return path


def start(model, path, *, settings="", **options):
    """The service's process, once it says that it is ready; `settings` change its limits."""
    words = [str(PROGRAM)]
    if settings:
        code = f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import rank_service as s; "
        words = ["-c", f"{code}{settings}; sys.exit(s.main(sys.argv[1:]))"]
    process = subprocess.Popen(
        [sys.executable, *words, str(model), str(path)],
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    line = process.stderr.readline()
    assert line == f"{model} ranks at {path}\n", line + process.stderr.read()
    process.sockets_at_start = sockets_of(process)
    return process


@pytest.fixture
def service(model, tmp_path):
    """The socket of a running service, and its process; it must end well, without a word."""
    path = tmp_path / "s"
    process = start(model, path)
    yield path, process
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=SECONDS) == 0
    assert process.stderr.read() == ""
    assert not path.exists()


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.settimeout(SECONDS)
    return client


def ask(path, line=REQUEST):
    with connect(path) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        return json.loads(client.makefile("rb").readline())


def wait_for_scores(path):
    """Until the service has noticed that the connections before have gone.

    One that it refuses may be closed before it has asked.
    """
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, json.JSONDecodeError):
            if "scores" in ask(path):
                return
    pytest.fail("no scores once the connections before have gone")


def sockets_of(process):
    """How many sockets a process has open."""
    count = 0
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(link.readlink()).startswith("socket:")
    return count


def wait_until_alone(process):
    """Until a service has closed its end of every connection: what it has before the first one."""
    deadline = time.monotonic() + SECONDS
    while sockets_of(process) > process.sockets_at_start:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def expected(model):
    scores = ondevice.load(model, engine="numpy").rank(CONTEXT, CANDIDATES, raw=True)
    return np.asarray(scores, float)


def test_a_thousand_requests_score_as_the_model_does(service, model):
    path, _ = service
    want = expected(model)
    assert len(set(want)) == 3
    with connect(path) as client, client.makefile("rb") as answers:
        sender = threading.Thread(target=client.sendall, args=(REQUEST * 1000,))  # all at once
        sender.start()
        for _ in range(1000):
            np.testing.assert_allclose(json.loads(answers.readline())["scores"], want, atol=1e-6)
        sender.join()
    command = [sys.executable, EXAMPLE / "ask.py", path, REQUEST]
    said = subprocess.run(command, capture_output=True, check=True, timeout=SECONDS).stdout
    np.testing.assert_allclose(json.loads(said)["scores"], want, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"\n", "one line of JSON"),
        (b"{\n", "one line of JSON"),
        (b"\xff\xfe\n", "one line of JSON"),
        (b"[" * 100_000 + b"\n", "one line of JSON"),
        (b'{"context": {"user": [NaN]}, "candidates": {}}\n', "NaN is not JSON"),
        (b'{"context": {"user": [' + b"9" * 5000 + b']}, "candidates": {}}\n', "one line of JSON"),
        (b"17\n", "expected {"),
        (b'{"context": {}, "candidates": {}, "more": 1}\n', "expected {"),
        (b'{"context": [], "candidates": {}}\n', "context: expected lists"),
        (b'{"context": {"user": "u"}, "candidates": {}}\n', "context: expected lists"),
        (b'{"context": {}, "candidates": {}}\n', ""),
        (REQUEST.replace(b'"user"', b'"user": ["other"], "user"'), "a name occurs twice"),
        (REQUEST.replace(b"user", b"nobody"), "nobody"),
        (REQUEST.replace(b"[1, 2, 3]", b"[1, 99]"), "slot"),
        (REQUEST.replace(b"[7]", b"[7, 7]"), "colour"),
        (REQUEST.replace(b"[1, 2, 3]", b'[{"a": 1}]'), "slot"),
        (REQUEST.replace(b"[1, 2, 3]", b"[[[3]]]"), "slot"),
        (REQUEST.replace(b"[1, 2, 3]", b"[1e999]"), "slot"),
        (REQUEST.replace(b"[1, 2, 3]", b"[18446744073709551616]"), "slot"),
        (REQUEST.replace(b'["u"]', rb'["\ud800"]'), "user"),
        (REQUEST.replace(b"[1, 2, 3]", b"[]"), ""),
    ],
)
def test_a_wrong_request_is_answered_by_what_is_wrong(service, model, line, said):
    path, _ = service
    with connect(path) as client, client.makefile("rb") as answers:
        client.sendall(line + REQUEST)
        answer = json.loads(answers.readline())
        assert list(answer) == ["error"] or answer == {"scores": []}, answer
        assert said in answer.get("error", "") and "its log says" not in str(answer), answer
        again = json.loads(answers.readline())["scores"]  # the connection goes on
        np.testing.assert_allclose(again, expected(model), atol=1e-6)


def test_hostile_clients_take_nothing_from_others(model, tmp_path):
    """Endless lines, clients that go or never read, more connections than are allowed."""
    path = tmp_path / "s"
    # nobody is sent away for being slow: the machine may be
    process = start(model, path, settings=LIMIT.format(SECONDS))
    with connect(path) as client, pytest.raises(ConnectionError):  # a line without an end
        while True:
            client.sendall(b" " * 100_000)
    with connect(path) as client:
        with contextlib.suppress(BrokenPipeError):  # it need not be read to its end
            client.sendall(b'"' + b"x" * 300_000 + b'"\n')
        assert b"more than 262144 bytes" in client.makefile("rb").readline()
    with connect(path) as client:  # goes without a full line
        client.sendall(REQUEST[:-1])
    for _ in range(100):  # goes before the answer
        with connect(path) as client:
            client.sendall(REQUEST * 10)
    wait_for_scores(path)
    wait_until_alone(process)  # else those that are on their way out count against the crowd
    deaf = connect(path)  # never reads; the service stops reading from it
    deaf.settimeout(1)
    with pytest.raises(TimeoutError):
        while True:
            deaf.sendall(REQUEST * 100)
    crowd = [connect(path) for _ in range(150)]
    refused, deadline = set(), time.monotonic() + SECONDS
    while len(refused) < 150 - 63 and time.monotonic() < deadline:  # 63 and the deaf one are served
        for client in select.select([c for c in crowd if c not in refused], [], [], 1)[0]:
            assert b"connections are open" in client.recv(1000)
            refused.add(client)
    assert len(refused) == 150 - 63
    for client in (*crowd, deaf):
        client.close()
    wait_for_scores(path)
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 250_000  # the unit's MemoryMax
    process.terminate()
    assert process.wait(timeout=SECONDS) == 0
    assert process.stderr.read() == ""


def test_slow_clients_are_sent_away(model, tmp_path):
    """A request has to come whole within the limit, however often a byte of it comes."""
    path = tmp_path / "s"
    process = start(model, path, settings=LIMIT.format(1.0))
    began = time.monotonic()
    silent, slow, deaf = connect(path), connect(path), connect(path)
    deaf.setblocking(False)
    with pytest.raises((BlockingIOError, ConnectionError)):  # sent away already, on a busy machine
        while True:
            deaf.send(REQUEST * 100)
    with contextlib.suppress(OSError):
        while time.monotonic() < began + SECONDS:
            slow.send(b" ")
            time.sleep(0.1)
    assert 0.5 < time.monotonic() - began < SECONDS
    assert b"within 1 s" in silent.makefile("rb").readline()
    wait_for_scores(path)  # on a busy machine a request may take longer than the limit
    deaf.setblocking(True)
    deaf.settimeout(SECONDS)
    with pytest.raises(ConnectionError):
        while True:
            deaf.sendall(REQUEST * 100)
    process.terminate()
    assert process.wait(timeout=SECONDS) == 0


def test_the_model_is_replaced_while_it_serves(service, model, tmp_path):
    path, process = service
    before = ask(path)["scores"]
    new = tmp_path / "new.odm"
    damaged = model.read_bytes()[:-100]
    for _ in range(2):  # the old one goes on; the log says so each time
        new.write_bytes(damaged)
        new.replace(model)
        time.sleep(1.1)
        assert ask(path)["scores"] == before
        assert "the model in use stays" in process.stderr.readline()
        process.stderr.readline()  # the line of source that warnings shows
    write_small_model(new, vectors=False)
    new.replace(model)
    time.sleep(1.1)
    assert ask(path)["scores"] == pytest.approx(expected(model), abs=1e-6)


def test_the_end_of_the_service(model, tmp_path):
    """SIGTERM with clients connected: what was asked is answered, the socket goes."""
    path = tmp_path / "s"
    process = start(model, path)
    idle, asked = connect(path), connect(path)
    asked.sendall(REQUEST)
    answers = asked.makefile("rb")
    first = answers.readline()
    process.terminate()
    assert process.wait(timeout=SECONDS) == 0
    assert "scores" in json.loads(first)
    assert idle.recv(10) == answers.read() == b""
    assert not path.exists()
    assert process.stderr.read() == ""


def test_paths_that_cannot_be_used(model, tmp_path):
    def fails(model, path):
        command = [sys.executable, str(PROGRAM), str(model), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "too long" in fails(model, tmp_path / ("x" * 120))
    assert "No such file" in fails(model, tmp_path / "none" / "s")
    other = tmp_path / "other"
    other.write_text("precious")
    assert "no socket" in fails(model, other)
    assert other.read_text() == "precious"
    assert "none.odm" in fails(tmp_path / "none.odm", tmp_path / "s")
    path = tmp_path / "s"
    process = start(model, path)
    assert "another service" in fails(model, path)
    assert "scores" in ask(path)
    process.kill()  # leaves the socket there
    process.wait()
    assert path.exists()
    process = start(model, path)
    assert "scores" in ask(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    process.terminate()
    assert process.wait(timeout=SECONDS) == 0


def test_systemd_is_told(model, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = start(model, tmp_path / "s", env=environment)
        assert manager.recv(100) == b"READY=1"
        process.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        assert process.wait(timeout=SECONDS) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_as_a_user_without_rights(model, tmp_path):
    """As the unit runs it: another user and group, a folder of its own, a model it cannot write."""
    nobody = pwd.getpwnam("nobody")
    shared = Path(tempfile.mkdtemp())  # not below tmp_path, which nobody else may enter
    shared.chmod(0o755)
    runtime = shared / "run"
    runtime.mkdir()
    try:
        os.chown(runtime, nobody.pw_uid, nobody.pw_gid)
        runtime.chmod(0o750)
        readable = shared / "model.odm"
        readable.write_bytes(model.read_bytes())
        readable.chmod(0o644)

        # becomes that user after its imports: this Python may lie where only root reads
        settings = (
            "import os, resource; resource.setrlimit(resource.RLIMIT_NPROC, (16, 16)); "
            f"os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
        )
        process = start(readable, runtime / "s", settings=settings, umask=0o077)
        about = (runtime / "s").stat()
        assert (about.st_uid, about.st_gid) == (nobody.pw_uid, nobody.pw_gid)
        assert stat.S_IMODE(about.st_mode) == 0o660
        assert "scores" in ask(runtime / "s")
        code = (
            "import os, socket, sys; os.setgroups([]); os.setgid(1234); os.setuid(1234); "
            "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        )
        done = subprocess.run([sys.executable, "-c", code, runtime / "s"], capture_output=True)
        assert b"PermissionError" in done.stderr
        process.terminate()
        assert process.wait(timeout=SECONDS) == 0
    finally:
        shutil.rmtree(shared)


@needs(missing("systemd-analyze"))
def test_the_unit(tmp_path):
    """systemd takes every line of it; here the command is any program that exists."""
    text = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=(\S+)(.*)$", text, re.MULTILINE)
    assert command[1].split()[:2] == ["-P", "/opt/ondevice/rank_service.py"]
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(command[0], sys.executable).replace(
        "/opt/ondevice/rank_service.py", str(PROGRAM)))  # fmt: skip
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    misspelled = tmp_path / "misspelled.service"
    misspelled.write_text(unit.read_text().replace("NoNewPrivileges=", "NoNewPrivilege="))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", misspelled], capture_output=True, text=True
    )
    assert "NoNewPrivilege" in done.stderr
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=11", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]
