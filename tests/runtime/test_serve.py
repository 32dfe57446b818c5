"""`ondevice bench --serve`: the page and the reports, and what must not be answered."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.random_plans import random_plan

from ondevice.bench import serve
from ondevice.bench.report import read_report
from ondevice.bench.serve import MAX_REPORT_BYTES, TOKEN_HEADER, serving
from ondevice.errors import InputError, OutputError
from ondevice.web import build, live
from ondevice.web.live import MARK

PAGE = f"<!doctype html>{MARK}<p>é"


def documented_report():
    """The complete report that docs/bench.md gives as an example."""
    page = (serve.Path(__file__).parents[2] / "docs" / "bench.md").read_text("utf-8")
    return re.search(r"```json\n(.*?)```", page, re.DOTALL)[1].encode()


REPORT = documented_report()


@pytest.fixture
def server(tmp_path):
    said = []
    with serving(PAGE, "127.0.0.1", 0, tmp_path / "reports", said.append) as running:
        running.said = said
        yield running


def ask(server, method, path, body=None, **headers):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=600)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def post(server, body=REPORT, path="/report", **changes):
    """The status of a report that is posted as the page does, but for `changes`."""
    headers = {TOKEN_HEADER: server.token, "Content-Type": "application/json",
               "Origin": f"http://127.0.0.1:{server.server_port}"}  # fmt: skip
    headers |= changes
    return ask(server, "POST", path, body, **{n: v for n, v in headers.items() if v is not None})[0]


def raw(server, text, wait=120):
    """What comes back for bytes as they are, until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=wait) as connection:
        connection.sendall(text)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def files(server):
    return sorted(server.folder.iterdir())


def test_page_and_report(server, tmp_path):
    path = server.url.removeprefix(f"http://127.0.0.1:{server.server_port}")
    status, headers, text = ask(server, "GET", path)
    assert (status, text) == (200, PAGE)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert post(server) == 201
    assert post(server, **{"Content-Type": "application/json; charset=utf-8"}) == 201
    assert post(server, Origin=None) == 201  # not a browser
    assert [read_report(file).device.name for file in files(server)] == ["Example board"] * 3
    assert server.reports == 3
    assert len(server.said) == 3
    assert "model.odm: predict of 1 11.28 us" in server.said[0]


def test_other_pages_and_strangers_get_nothing(server):
    port, token = server.server_port, server.token
    for path in ("/", "/?token=", "/?token=x", f"/?token={token[:-1]}", f"/?token={token}x",
                 f"/?token=x&token={token}"):  # fmt: skip
        assert ask(server, "GET", path)[0] == 403, path
    for path in (f"/../etc/passwd?token={token}", f"/report?token={token}", f"/x?token={token}",
                 f"/%2e%2e/secret?token={token}", f"/live.html?token={token}"):  # fmt: skip
        assert ask(server, "GET", path)[0] == 404, path
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}",
                 "127.0.0.1", f"127.0.0.1:{port + 1}", f"[::1:{port}", "", f"2130706433:{port}",
                 f"localhost.:{port}", f"user@127.0.0.1:{port}"):  # fmt: skip
        assert ask(server, "GET", f"/?token={token}", Host=host)[0] == 421, host
        assert post(server, Host=host) == 421, host
    for host in (f"localhost:{port}", f"[::1]:{port}", f"192.168.1.5:{port}"):
        assert ask(server, "GET", f"/?token={token}", Host=host)[0] == 200, host
    for origin in ("null", "http://evil.example", f"https://127.0.0.1:{port}", "http://127.0.0.1"):
        assert post(server, Origin=origin) == 403, origin
    for wrong in (None, "", "x", token + "x", token.swapcase()):
        assert post(server, **{TOKEN_HEADER: wrong}) == 403, wrong
    assert token not in "".join(server.said)
    assert files(server) == []


def test_no_method_but_two(server):
    for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH"):
        status, headers, _ = ask(server, method, f"/?token={server.token}")
        assert status == 501, method
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", b"null", b"[" * 500_000, b'{"a":' * 100_000, b"\xff\xfe", b"9" * 5000,
    REPORT.replace(b'"Example board"', b'"\\u001b[2J"'), REPORT.replace(b"11.28,", b"NaN,"),
    REPORT.replace(b'"version": 1', b'"version": 2'), REPORT[:-3], REPORT + b"x",
    REPORT.replace(b'"name": "Example board"', b'"name": 1, "name": "Example board"'),
], ids=lambda body: f"{len(body)} {body[:6]!r}")  # fmt: skip
def test_bodies_that_are_no_reports(server, body):
    assert post(server, body) == 400
    assert files(server) == []
    assert post(server) == 201  # it goes on


def test_types_and_lengths(server):
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                 "application/json5", "text/json"):  # fmt: skip
        assert post(server, **{"Content-Type": kind}) == 415, kind
    head = (f"POST /report HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n{TOKEN_HEADER}: "
            f"{server.token}\r\nContent-Type: application/json\r\n").encode()  # fmt: skip
    for lines, status in ((b"", 411), (b"Content-Length: -1\r\n", 411),
                          (b"Content-Length: 1e3\r\n", 411), (b"Content-Length: +5\r\n", 411),
                          (b"Content-Length: 5\r\nContent-Length: 6\r\n", 411),
                          (b"Transfer-Encoding: chunked\r\n", 411),
                          (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 411),
                          (b"Content-Length: 2\r\nContent-Encoding: gzip\r\n", 411),
                          (b"Content-Length: %d\r\n" % (MAX_REPORT_BYTES + 1), 413),
                          (b"Content-Length: 999999999999999\r\n", 413)):  # fmt: skip
        assert raw(server, head + lines + b"\r\n").startswith(b"HTTP/1.0 %d " % status), lines
    assert post(server, REPORT + b" " * (MAX_REPORT_BYTES - len(REPORT))) == 201
    assert len(files(server)) == 1


def test_who_is_refused_is_told_why_however_much_it_sends(server):
    """Bytes that nobody reads would reset the connection, at times before the answer was read."""
    for _ in range(20):
        assert post(server, b"x" * (MAX_REPORT_BYTES + 1)) == 413
        assert post(server, b"x" * (MAX_REPORT_BYTES - 1), **{TOKEN_HEADER: "x"}) == 403


def test_who_is_refused_does_not_send_for_ever(server):
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=600) as connection:
        connection.sendall(head)
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(b"x" * 65536)
    assert post(server) == 201


def test_what_is_no_request(server):
    for text in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"\r\n\r\n",
                 b"GET\r\n\r\n",
                 b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
                 b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
                 b"GET <script> HTTP/1.1\r\n\r\n"):  # fmt: skip
        with contextlib.suppress(ConnectionError):
            assert b"<script>" not in raw(server, text)
    assert post(server) == 201


def test_a_slow_request_ends(server, monkeypatch):
    """One that sends a byte every now and then, which no timeout of a read would notice."""
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 1.5)
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=600) as connection:
        with contextlib.suppress(ConnectionError):
            for letter in b"POST /report HTTP/1.1\r\nHost: " * 5:
                connection.sendall(bytes([letter]))
                time.sleep(0.1)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
    assert time.monotonic() - begun < 100  # else until the client gives up
    assert post(server) == 201


def is_answered(server):
    try:
        return raw(server, b"GET / HTTP/1.1\r\n\r\n") != b""
    except ConnectionError:
        return False


def test_a_crowd_of_idle_connections_is_bounded(server, monkeypatch):
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 600)  # the idle ones stay
    deadline = time.monotonic() + 500
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
                for _ in range(serve.MAX_CONNECTIONS)]  # fmt: skip
        assert len(idle) == serve.MAX_CONNECTIONS
        while is_answered(server):  # the system may hand some of the idle ones over later
            assert time.monotonic() < deadline
            time.sleep(0.1)
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            assert post(server) == 201
            return
    pytest.fail("no answer once the crowd had gone")


def test_only_so_many_reports(server, monkeypatch):
    monkeypatch.setattr(serve, "MAX_REPORTS", 2)
    assert [post(server) for _ in range(4)] == [201, 201, 400, 400]
    assert len(files(server)) == 2


def test_a_folder_that_has_gone(server):
    server.folder.rmdir()
    server.folder.write_text("a file in its place")
    assert post(server) == 500
    assert "cannot be written" in server.said[0]
    server.folder.unlink()
    assert post(server) == 201


def test_addresses(tmp_path):
    for host in ("example.org", "", "300.1.1.1", "http://127.0.0.1", "203.0.113.7"):
        with pytest.raises(InputError, match="--host"), serving(PAGE, host, 0, tmp_path, print):
            pass
    for port in (-1, 65536, 99999999999999999999):
        with pytest.raises(InputError, match="--port"), serving(PAGE, "127.0.0.1", port, tmp_path,
                                                                print):  # fmt: skip
            pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError), serving(PAGE, "127.0.0.1", 0, tmp_path / "file" / "x", print):
        pass
    with serving(PAGE, "0.0.0.0", 0, tmp_path / "all", print) as everybody:  # noqa: S104
        assert everybody.reaches_others
        assert "0.0.0.0" not in everybody.url  # noqa: S104
        with (
            pytest.raises(InputError, match="in use"),
            serving(
                PAGE,
                "0.0.0.0",  # noqa: S104
                everybody.server_port,
                tmp_path / "all",
                print,
            ),
        ):
            pass
    with serving(PAGE, "localhost", 0, tmp_path / "all", print) as local:
        assert not local.reaches_others
        assert local.token != everybody.token


def test_the_command(tmp_path):
    """Serves a page that was written before, until Ctrl-C."""
    page = tmp_path / "live.html"
    page.write_text(PAGE, "utf-8")
    command = [sys.executable, "-m", "ondevice", "bench", "--serve", str(page), "--reports",
               str(tmp_path / "got")]  # fmt: skip
    try:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    except OSError:
        pytest.skip("this Python cannot start another one: it runs in an emulator")
    with (
        started as running,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(running.kill)
        port, token = re.search(r":(\d+)/\?token=(\S+)$", running.stdout.readline()).groups()
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=600)
        connection.request("POST", "/report", REPORT,
                           {TOKEN_HEADER: token, "Content-Type": "application/json"})  # fmt: skip
        answer = connection.getresponse()
        assert answer.status == 201
        name = json.loads(answer.read())["file"]
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=600)[0]
    assert running.returncode == 0
    assert "1 reports came" in said
    assert f"{name}: model.odm: predict of 1 11.28 us" in said
    assert read_report(tmp_path / "got" / name).device.name == "Example board"
    compare = [
        sys.executable,
        "-m",
        "ondevice",
        "bench",
        "compare",
        *[str(tmp_path / "got" / name)] * 2,
    ]
    assert "predict" in subprocess.run(compare, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("arguments", "said"), [
    (["--serve", "no.odm"], "no.odm"),
    (["--serve", "a.odm", "b.odm"], "got 2 files"),
    (["--serve", "a.odm", "--json", "x.json"], "got --json"),
    (["--serve", "other.html"], "not a live page"),
    (["--serve", "none.html"], "cannot be read"),
])  # fmt: skip
def test_the_command_refuses(arguments, said, tmp_path, monkeypatch, capsys):
    from ondevice.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.html").write_text("<p>other")
    assert main(["bench", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ondevice: ")
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "bench-reports").exists()


def test_without_a_compiler_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    from ondevice.cli import main

    live._module.cache_clear()  # another test of this process may have built the engine
    plan = random_plan(3, "q8").write(tmp_path / "model.odm")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "--serve", str(plan)]) == 1
    said = capsys.readouterr().err
    assert "model.odm: the live page needs clang with wasm-ld" in said
    assert "bench --serve live.html" in said
