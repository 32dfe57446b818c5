"""Reads the pipes of a program that is not trusted, and ends one: bounded in bytes and time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO

from ondevice.errors import OnDeviceError

MAX_TAIL = 4096  # bytes of what a program says of its faults: only the end is shown
PIECE = 1 << 16
TAIL_SECONDS = 10  # for the rest of it, once the program has ended: the machine may be busy


class Tail:
    """Drains a pipe in a thread of its own and keeps the end of what came."""

    def __init__(self, pipe: IO[bytes]) -> None:
        """Begin to read; the pipe is closed at its end."""
        self._pipe, self._last = pipe, b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with suppress(OSError, ValueError), self._pipe as pipe:  # closed by who started it
            while piece := pipe.read1(PIECE):  # type: ignore[attr-defined]
                self._last = (self._last + piece)[-MAX_TAIL:]

    def text(self) -> str:
        """The end of what came, once the program has ended.

        It waits for the pipe's end, which whoever inherited the pipe may put off: not for ever.
        """
        self._thread.join(TAIL_SECONDS)
        return self._last.decode("utf-8", "replace")


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started in a session of its own, with what it started."""
    with suppress(OSError):  # it has ended
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def expiry(seconds: float, end: Callable[[], None], error: OnDeviceError) -> Iterator[None]:
    """Call `end`, in another thread, if the block takes longer; `error` is raised then."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        end()

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if expired.is_set():
        raise error


def deadline(process: subprocess.Popen[bytes], seconds: float) -> AbstractContextManager[None]:
    """Kill the process if the block takes longer: it raises an OnDeviceError then."""
    error = OnDeviceError(f"the device gave no answer for {seconds:.0f} s")
    return expiry(seconds, lambda: kill(process), error)


def read_line(process: subprocess.Popen[bytes], most: int, seconds: float) -> bytes:
    """The next line of a process's output; empty at its end.

    Raises:
        OnDeviceError: it is longer than `most` bytes, or did not come in time: the process is
            killed.
    """
    if process.stdout is None:
        return b""
    with deadline(process, seconds):
        line = process.stdout.readline(most + 1)
    if len(line) > most:
        kill(process)
        raise OnDeviceError(f"the device's answer is longer than {most} bytes")
    return line


def run(command: Sequence[str], most: int, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program without input: its output, and the end of what it says of faults.

    Raises:
        FileNotFoundError: there is no such program.
        OnDeviceError: it printed more than `most` bytes, or took too long: it is killed.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(  # noqa: S603 - arguments, no shell
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
    )
    if process.stdout is None or process.stderr is None:
        raise OnDeviceError(f"{command[0]}: started without pipes")
    faults = Tail(process.stderr)
    try:
        with process.stdout as output, deadline(process, seconds):
            out = output.read(most + 1)
            if len(out) <= most:
                process.wait()
    finally:
        if process.poll() is None:
            kill(process)
        code = process.wait()
    if len(out) > most:
        raise OnDeviceError(f"the device's answer is longer than {most} bytes")
    text = out.decode("utf-8", "replace")
    return subprocess.CompletedProcess(list(command), code, text, faults.text())
