"""A command with a terminal as standard error, interrupted once its progress is at a point."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

SECONDS = 300  # that anything may take, on a machine that does other things
# A shell's background jobs ignore Ctrl-C and would hand that down.
LISTEN = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def interrupted(words: list[object], progress: str) -> tuple[str, str]:
    """Standard output and error of a command that gets SIGINT, as its children do.

    Args:
        words: the command.
        progress: a regular expression of what it has said by then on its standard error.
    """
    command = [sys.executable, "-c", LISTEN, *map(str, words)]
    terminal, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=theirs, text=True, start_new_session=True
        ) as process:
            os.close(theirs)
            said = _until(process, terminal, progress)
            os.killpg(process.pid, signal.SIGINT)
            printed, _ = process.communicate(timeout=SECONDS)
        said += _rest(terminal)
    finally:
        os.close(terminal)
    assert process.returncode == 130, said
    return printed, said


def _until(process: subprocess.Popen[str], terminal: int, progress: str) -> str:
    """What a command says until it matches; fails if it ends before, or takes too long."""
    said, deadline = "", time.monotonic() + SECONDS
    while not re.search(progress, said, re.DOTALL):
        if process.poll() is not None or time.monotonic() > deadline:
            said += _rest(terminal)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"expected {progress} on standard error, got {said}")
        said += _rest(terminal, 0.1)
    return said


def _rest(terminal: int, seconds: float = 0) -> str:
    """What a terminal holds, or gets within so many seconds."""
    said = b""
    with contextlib.suppress(OSError):  # EIO: whoever wrote to it has ended
        while select.select([terminal], [], [], seconds)[0]:
            said += os.read(terminal, 65536)
            seconds = 0
    return said.decode(errors="replace")
