"""Serves the live page and collects the reports that browsers post: `ondevice bench --serve`.

Requests come from anybody who reaches the port. The page and the reports need the token of this
run, which only the printed address holds. Every request must name the server by an IP address or
as localhost: a page of another site can make a browser ask this server under a name of its own,
but not under these.
"""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import json
import os
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ondevice.atomic import make_folder
from ondevice.bench.report import Report, parse_report, write_report
from ondevice.bench.strict import one_line
from ondevice.errors import FileFormatError, InputError, OnDeviceError, writing

MAX_REPORT_BYTES = 2**20  # of a body; a page's report has 20 kB
MAX_REPORTS = 1000  # of one run, so that nobody who has the token fills the disk
MAX_CONNECTIONS = 32  # at once; more are closed at once
REQUEST_SECONDS = 20  # for a whole request to arrive, however slowly its pieces come
STALLED_SECONDS = 20  # for a piece of an answer to leave
LINGER_SECONDS = 5  # for a client to read why it was refused, before the rest of it is dropped
PIECE_BYTES = 1 << 16
TOKEN_HEADER = "X-Ondevice-Token"  # noqa: S105 (a header's name)
TOKEN_BYTES = 16


class PageServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves one page, and writes the reports that it posts into a folder."""

    daemon_threads = True
    # on Windows, another program could take the port of one that sets it
    allow_reuse_address = os.name != "nt"

    def __init__(
        self, page: str, host: str, port: int, folder: Path, say: Callable[[str], None]
    ) -> None:
        """Listen.

        Args:
            page: the HTML text.
            host: an IP address of this machine, or localhost.
            port: 0 for any that is free.
            folder: for the reports; it is created.
            say: is told what came.

        Raises:
            InputError: no such address, or the port is taken.
            OutputError: the folder cannot be created.
        """
        self.page = page.encode()
        self.folder = folder
        self.say = say
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self.reports = 0
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        with writing(folder):
            make_folder(folder)
        address = _address(host)
        self.address_family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        try:
            super().__init__((str(address), port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--host {host} --port {port}: {error}") from error

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, as the parent class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        address = ipaddress.ip_address(str(self.server_address[0]))
        if address.is_unspecified:
            address = _outward(address)
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"http://{host}:{self.server_port}/?token={self.token}"

    @property
    def reaches_others(self) -> bool:
        """Whether other machines may connect."""
        return not ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if not too many are busy."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._slots.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke or were too slow."""

    def keep(self, report: Report) -> str:
        """Write a report: the name of its file, which holds nothing that the client said.

        Raises:
            InputError: this run has taken as many as it may.
            OutputError: the file cannot be written.
        """
        with self._lock:
            if self.reports >= MAX_REPORTS:
                raise InputError(f"{MAX_REPORTS} reports have come; start again for more")
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            path = self.folder / f"{stamp}-{secrets.token_hex(4)}.json"
            with writing(path):
                write_report(report, path)
            self.reports += 1
        self.say(f"{path}: {_summary(report)}")
        return path.name


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request of a connection."""

    server: PageServer
    server_version = "ondevice"
    sys_version = ""
    timeout = STALLED_SECONDS

    def setup(self) -> None:
        """Start the clock: a request that is not complete in time ends the connection."""
        super().setup()
        self._clock = threading.Timer(REQUEST_SECONDS, self._hang_up)
        self._clock.daemon = True
        self._clock.start()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Send what is left of the answer, and stop the clock."""
        self._clock.cancel()
        with contextlib.suppress(OSError):
            super().finish()
            self._take_the_rest()

    def _take_the_rest(self) -> None:
        """Read what the client still sends, and drop it.

        A connection that is closed with unread bytes is reset: the client may then see a broken
        connection in place of the answer that refused it.
        """
        self.connection.shutdown(socket.SHUT_WR)
        left, end = MAX_REPORT_BYTES * 2, time.monotonic() + LINGER_SECONDS
        while left > 0 and (seconds := end - time.monotonic()) > 0:
            self.connection.settimeout(seconds)
            piece = self.connection.recv(PIECE_BYTES)
            if not piece:
                return
            left -= len(piece)

    def do_GET(self) -> None:
        """The page."""
        self._clock.cancel()
        if not self._names_an_address():
            return
        asked = urlsplit(self.path)
        if asked.path != "/":
            self._answer(HTTPStatus.NOT_FOUND, "there is only the page")
        elif not self._is_token(parse_qs(asked.query).get("token", [""])[0]):
            self._answer(
                HTTPStatus.FORBIDDEN, "open the whole address that `bench --serve` printed"
            )
        else:
            self._answer(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """A report."""
        if not (self._names_an_address() and self._may_post()):
            return
        size = self._body_size()
        if size is None:
            return
        body = self.rfile.read(size)
        self._clock.cancel()
        if len(body) < size:
            self.close_connection = True
            return
        try:
            name = self.server.keep(parse_report(body, "the report"))
        except (FileFormatError, InputError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, one_line(str(error)))
        except OnDeviceError as error:
            self.server.say(one_line(str(error)))
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the report could not be written")
        else:
            self._answer(HTTPStatus.CREATED, json.dumps({"file": name}), "application/json")

    def _names_an_address(self) -> bool:
        host = self.headers.get_all("Host", [])
        if len(host) == 1 and _is_literal(host[0], self.server.server_port):
            return True
        self._answer(HTTPStatus.MISDIRECTED_REQUEST, "open this server by its IP address")
        return False

    def _may_post(self) -> bool:
        """Whether a report may come: to the right place, with the token, from this page."""
        origin = self.headers.get("Origin")
        kind = self.headers.get_content_type() if "Content-Type" in self.headers else ""
        if self.path != "/report":
            self._answer(HTTPStatus.NOT_FOUND, "reports go to /report")
        elif not self._is_token(self.headers.get(TOKEN_HEADER, "")):
            self._answer(HTTPStatus.FORBIDDEN, "the token is not that of this run")
        elif origin is not None and origin != f"http://{self.headers['Host']}":
            self._answer(HTTPStatus.FORBIDDEN, "reports come from the page of this server")
        elif kind != "application/json":
            self._answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        else:
            return True
        return False

    def _body_size(self) -> int | None:
        """Bytes of the body; None: refused."""
        size = _whole(self.headers)
        if size is None:
            self._answer(HTTPStatus.LENGTH_REQUIRED, "expected one Content-Length, and no coding")
        elif size > MAX_REPORT_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_REPORT_BYTES} bytes")
            return None
        return size

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), self.server.token.encode())

    def _answer(self, status: HTTPStatus, body: bytes | str, kind: str = "text/plain") -> None:
        """Send an answer and end the connection."""
        content = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Connection": "close",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the parent class refuses, without repeating what was sent."""
        self._answer(HTTPStatus(code), HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: an address holds the token."""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InputError(
            "--host: expected an IP address of this machine, such as 127.0.0.1, or 0.0.0.0 "
            f"for all, got {host!r}"
        ) from None


def _outward(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """This machine's address towards the network; loopback, where there is none."""
    six = address.version == 6
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        # addresses of documentation; connecting a datagram socket sends nothing
        probe.connect(("2001:db8::1" if six else "192.0.2.1", 9))
        return ipaddress.ip_address(probe.getsockname()[0])
    return ipaddress.ip_address("::1" if six else "127.0.0.1")


def _is_literal(host: str, port: int) -> bool:
    """Whether a Host header is localhost or an IP address, with the port."""
    name, colon, after = host.rpartition(":")
    if not colon or after != str(port):
        return False
    if name == "localhost":
        return True
    try:
        if name.startswith("[") and name.endswith("]"):
            ipaddress.IPv6Address(name[1:-1])
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _whole(headers: Message) -> int | None:
    """The Content-Length of a body that is sent as it is; None where there is none, or several."""
    sizes = headers.get_all("Content-Length", [])
    if len(sizes) != 1 or "Transfer-Encoding" in headers or "Content-Encoding" in headers:
        return None
    size = sizes[0]
    return int(size) if size.isascii() and size.isdigit() and len(size) < 16 else None


def _summary(report: Report) -> str:
    """A line: what measured, and the median of each request."""
    figures = [
        f"{item.call} of {item.rows} {item.latency_us.p50:.4g} us"
        for item in report.latencies
        if item.latency_us is not None
    ]
    names = ", ".join(model.name for model in report.models)
    return one_line(f"{names}: {', '.join(figures) or 'no latency'}; {report.device.system}", 400)


@contextlib.contextmanager
def serving(
    page: str, host: str, port: int, folder: Path, say: Callable[[str], None]
) -> Iterator[PageServer]:
    """A server that answers in the background until the block ends; see PageServer."""
    with PageServer(page, host, port, folder, say) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
