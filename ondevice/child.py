"""Runs a command in a process that may die: hostile files crash ONNX Runtime and LiteRT.

The process may take so much memory and no more (`ondevice.memory_limit`), so that a file which asks
for all there is ends it, not the machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ondevice.errors import FileFormatError, writing
from ondevice.memory_limit import limit_memory, memory_limit
from ondevice.printable import printable

# Commands that open files which somebody else may have written, and whether their streams are
# those of this process: they read standard input, or print while they work, for as long as it takes
COMMANDS = {"inspect": False, "verify": False, "run": True, "score": True, "convert": True}
SUFFIXES = (".onnx", ".tflite")  # of runtimes that check less than ondevice's engines
MOST_SECONDS = 600  # a runtime may unfold a small file for ever
IN_CHILD = "ONDEVICE_IN_CHILD"  # in the environment of such a process: the bytes that it may take
GRACE_SECONDS = 10  # for a process that was told to end
CTRL_C_SECONDS = 5  # for a process that a terminal told with this one: it may have much to remove
CTRL_C_CODE = 130  # of a command that Ctrl-C ended, and that has said so


def needs_child(command: str, words: Sequence[str | Path]) -> bool:
    """Whether a command with these words opens a file in a runtime that may crash over it."""
    if command not in COMMANDS or IN_CHILD in os.environ:
        return False
    return bool(opened_files(words))


def opened_files(words: Sequence[str | Path]) -> list[Path]:
    """The words of a command line that are files of those runtimes, by their suffix."""
    return [Path(word) for word in words if str(word).lower().endswith(SUFFIXES)]


def limit_this_process() -> None:
    """In a process that `run_in_child` started: take no more memory than it was told."""
    limit = os.environ.get(IN_CHILD, "")
    if limit.isdecimal():
        limit_memory(int(limit))


def run_in_child(words: Sequence[str], models: Sequence[Path]) -> int | None:
    """Run a command line of ondevice in another process; returns its exit code.

    None: this Python cannot start another one (in an emulator, in an app that contains it), so
    nothing has run.

    Raises:
        FileFormatError: the process crashed, or takes longer than MOST_SECONDS.
        OutputError: what it printed cannot be written.
    """
    names, limit = ", ".join(map(str, models)), memory_limit(models)
    streams = _streams(COMMANDS[words[0]])
    process = None
    try:  # around the start too: a signal may come just when it is held back no more
        with _later() as signals:
            process = _started(words, limit, streams)
        if process is None:
            return None
        for number in signals:
            signal.raise_signal(number)
        out, err = process.communicate(streams.given, timeout=streams.seconds)
    except subprocess.TimeoutExpired as error:
        raise FileFormatError(
            f"{names}: opening it takes the runtime more than {streams.seconds} s: a hostile file"
        ) from error
    except KeyboardInterrupt:
        if process is None or streams.errors == subprocess.PIPE:
            raise
        ended_itself = _ended_itself(process)
        _end(process)
        if process.returncode == CTRL_C_CODE or (ended_itself and process.returncode >= 0):
            return process.returncode  # it has said so
        raise
    finally:
        if process is not None:
            _end(process)
    if process.returncode < 0:
        raise FileFormatError(
            f"{names}: opening it crashed the runtime ({_signal(-process.returncode)}): a damaged "
            f"or hostile file, or one that takes more memory than {limit:,} bytes"
        )
    if err:  # of the runtime too, which prints names of the file
        sys.stderr.write(printable(err.decode("utf-8", "surrogateescape")))
    if out:
        with writing("standard output"):
            sys.stdout.write(out.decode("utf-8", "surrogateescape"))
    return process.returncode


def _started(words: Sequence[str], limit: int, streams: _Streams) -> subprocess.Popen[bytes] | None:
    """Start a command line; None where this Python cannot."""
    # -P: the folder one stands in, which may be hostile too, is none to import from
    try:
        return subprocess.Popen(  # noqa: S603 - no shell; the words are the user's own command line
            [sys.executable, "-P", "-m", "ondevice", *words],
            env={**os.environ, IN_CHILD: str(limit), **streams.environment},
            stdin=streams.input,
            stdout=streams.output,
            stderr=streams.errors,
        )
    except OSError:
        return None


@contextlib.contextmanager
def _later() -> Iterator[list[int]]:
    """Hold back SIGINT and SIGTERM inside the block; the numbers of those that came.

    An exception out of a handler while a process is being started would leave it running.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # handlers run elsewhere
        yield came
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda came_now, _: came.append(came_now))
    try:
        yield came
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


class _Streams:
    """What a child reads and writes.

    Attributes:
        input, output, errors: as `subprocess.Popen` takes them.
        given: what it reads, where its input is a pipe.
        seconds: how long it may take; None: as long as its work takes.
        environment: what its text streams need.
    """

    def __init__(self) -> None:
        self.input: Any = subprocess.DEVNULL
        self.output: Any = subprocess.PIPE
        self.errors: Any = subprocess.PIPE
        self.given: bytes | None = None
        self.seconds: float | None = MOST_SECONDS
        self.environment = {"PYTHONIOENCODING": "utf-8:surrogateescape"}


def _streams(shared: bool) -> _Streams:
    """The streams of this process where they are shared, and are files; otherwise pipes."""
    streams = _Streams()
    if not shared:
        return streams
    streams.seconds = None
    streams.output = _descriptor(sys.stdout, subprocess.PIPE)
    streams.errors = _descriptor(sys.stderr, subprocess.PIPE)
    if subprocess.PIPE not in (streams.output, streams.errors):
        streams.environment = {}  # the streams' own encoding
    streams.input = _descriptor(sys.stdin, subprocess.DEVNULL)
    if isinstance(sys.stdin, io.StringIO):
        streams.input, streams.given = subprocess.PIPE, sys.stdin.read().encode()
    return streams


def _descriptor(stream: Any, otherwise: int) -> Any:
    """A stream's file descriptor, with nothing left in the stream; `otherwise` where it has none.

    A stream that is closed in this process is one in the child too.
    """
    if stream is None:
        return None
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):  # io.UnsupportedOperation is both
        return otherwise


def _ended_itself(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process ends by the Ctrl-C that this one got, without being told to."""
    try:
        process.communicate(timeout=CTRL_C_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs as this one is interrupted: it removes its temporary files."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
