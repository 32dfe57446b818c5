"""Ranks candidates for whoever asks on a Unix socket: a small service.

python rank_service.py MODEL SOCKET

A request is one line of JSON, its answer one line too, in the order of the requests:

    {"context": {"user": [1], "hour": [21]}, "candidates": {"item": [4, 8]}}
    {"scores": [0.0312, 0.0127]}

The values are raw ones, as in the log that the model was trained on. A request that the model
refuses is answered by {"error": "..."}. MODEL may be replaced by a rename while the service runs.
Needs ondevice and Python's standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import ondevice
from ondevice.errors import InputError, OnDeviceError
from ondevice.strict_json import unique_keys

MOST_BYTES = 256 * 1024  # of a request: some thousand candidates
MOST_CONNECTIONS = 64
BACKLOG = 1024  # connections that wait to be accepted; one beyond fails at once
LINE_SECONDS = 30.0  # for a client to send a whole request, or to take its answer
STOP_SECONDS = 2.0  # for answers that are under way when the service is told to stop


class Service:
    """Answers the requests of any number of connections by one model."""

    def __init__(
        self, live: ondevice.Live, *, seconds: float = LINE_SECONDS, most: int = MOST_CONNECTIONS
    ) -> None:
        """A service.

        Args:
            live: the model.
            seconds: for a client to send a whole request, or to take its answer.
            most: connections at a time; further ones are refused.
        """
        self._live = live
        self._seconds = seconds
        self._most = most
        self._connections: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends, is too slow or breaks the rules."""
        task = asyncio.current_task()
        if task is None or len(self._connections) >= self._most:
            _send(writer, {"error": f"{self._most} connections are open; try again later"})
            writer.close()
            return
        self._connections.add(task)
        try:
            while line := await self._next_line(reader, writer):
                _send(writer, self.answer(line))
                async with asyncio.timeout(self._seconds):
                    await writer.drain()
        except (OSError, TimeoutError):  # the client went, or does not take its answers
            writer.transport.abort()
        except asyncio.CancelledError:  # the service stops
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(STOP_SECONDS):
                    await writer.wait_closed()
            writer.transport.abort()
            self._connections.discard(task)

    async def _next_line(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """The next request, or None where the connection has to be closed."""
        try:
            async with asyncio.timeout(self._seconds):
                return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None  # a rest without its end is no request
        except asyncio.LimitOverrunError:
            _send(writer, {"error": f"a request of more than {MOST_BYTES} bytes"})
            return None
        except TimeoutError:
            _send(writer, {"error": f"no request came within {self._seconds:g} s"})
            return None

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to a request: its scores, or why there are none."""
        try:
            context, candidates = _read_request(line)
            scores = self._live.rank(context, candidates, raw=True)
            if isinstance(scores, dict):  # a model of several outputs
                return {"scores": {name: values.tolist() for name, values in scores.items()}}
            return {"scores": scores.tolist()}
        except OnDeviceError as error:
            return {"error": str(error)}
        except Exception as error:  # a fault of this program must not end the service for others
            print(f"request of {len(line)} bytes: {error!r}", file=sys.stderr, flush=True)
            return {"error": "the service failed on this request; its log says how"}

    async def stop(self) -> None:
        """End all connections; answers that were begun are still sent, for STOP_SECONDS."""
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=STOP_SECONDS)


def _read_request(line: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Context and candidates of a request. Raises InputError."""
    try:
        request = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a request as one line of JSON: {error}") from error
    if not isinstance(request, dict) or set(request) != {"context", "candidates"}:
        raise InputError('expected {"context": {...}, "candidates": {...}}')
    for name, part in request.items():
        if not isinstance(part, dict) or not all(isinstance(v, list) for v in part.values()):
            raise InputError(f"{name}: expected lists of values by the names of inputs")
    return request["context"], request["candidates"]


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    """Put an answer into the connection's buffer; JSON has no NaN, which a score may be."""
    try:
        text = json.dumps(answer, allow_nan=False)
    except ValueError:
        text = '{"error": "a score is not a finite number"}'
    writer.write(text.encode() + b"\n")


def listen(path: Path) -> socket.socket:
    """A listening socket at a path, for the service's user and group.

    A socket that a killed service left behind is replaced.

    Raises:
        OSError: something else lies there, another service answers, or the path cannot be used.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError("something that is no socket lies there")
            if _answers(path):
                raise FileExistsError("another service answers there")
            path.unlink()
        before = os.umask(0o117)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True


def notify(state: str) -> None:
    """Tell systemd how the service is, where it asks for it (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect("\0" + address[1:] if address[0] == "@" else address)
            manager.send(state.encode())


async def run(model: Path, path: Path) -> None:
    """Serve until SIGTERM or SIGINT. Raises OnDeviceError, OSError: it cannot begin."""
    warnings.simplefilter("always")  # of a file that cannot serve, each time one comes
    service = Service(ondevice.Live(model))
    listening = listen(path)
    inode = path.stat().st_ino
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = await asyncio.start_unix_server(
        service.serve, sock=listening, limit=MOST_BYTES, backlog=BACKLOG
    )
    notify("READY=1")
    print(f"{model} ranks at {path}", file=sys.stderr, flush=True)
    await stopping.wait()
    notify("STOPPING=1")
    server.close()
    await service.stop()
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:  # not that of a service that was started meanwhile
            path.unlink()


def main(words: list[str]) -> int:
    """The command line."""
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        asyncio.run(run(Path(words[0]), Path(words[1])))
    except (OnDeviceError, OSError) as error:
        print(f"rank_service: {words[0]}, {words[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
