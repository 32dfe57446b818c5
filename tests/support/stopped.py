"""A command in a process that stops itself at a known step, so that a signal meets it there."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.killed import STEPS

SECONDS = 300  # until a command is at its step: a machine may be busy with ten other things
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from support.stopped import run
del sys.path[0]
run(sys.argv[2:])
"""


@contextlib.contextmanager
def stopped_command(
    folder: Path, pattern: str, *words: object, **options: object
) -> Iterator[subprocess.Popen[str]]:
    """An `ondevice` command that has just stopped itself; SIGCONT lets it go on.

    It stops at its first step on files under `folder` at which a file there matches: the next one
    that it opens, renames or removes. It takes SIGINT, which a shell's background jobs ignore. A
    signal sent to it is taken when it goes on, before anything else.

    Args:
        folder: an existing folder.
        pattern: of a file in it, as `Path.glob` takes it.
        words: of the command line, without the program's name.
        options: of Popen.

    Yields:
        the process, with its standard output and error as text in pipes.
    """
    command = [sys.executable, "-c", PROGRAM, Path(__file__).parents[1], folder, pattern, *words]
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            _wait_until_stopped(process, pattern)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def signalled(process: subprocess.Popen[str], number: int) -> tuple[str, str]:
    """What a stopped process prints, on standard output and error, once it got a signal."""
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    return process.communicate(timeout=SECONDS)


def _wait_until_stopped(process: subprocess.Popen[str], pattern: str) -> None:
    """Until the system says that a child is stopped. One that ends or takes too long is told of."""
    deadline = time.monotonic() + SECONDS
    events = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (seen := os.waitid(os.P_PID, process.pid, events)) is None:
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no {pattern} in {SECONDS} s: {process.communicate()}")
        time.sleep(0.01)
    if seen.si_code != os.CLD_STOPPED:
        raise AssertionError(f"ended before {pattern} was there: {process.communicate()}")


def run(arguments: list[str]) -> None:
    """In the process: a folder, a pattern and the words of the command."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _stop_once(Path(arguments[0]), arguments[1])
    from ondevice.cli import main  # after the hook is there

    sys.exit(main(arguments[2:]))


def _stop_once(folder: Path, pattern: str) -> None:
    """Let this process stop at its first step in a folder at which a file there matches."""
    done = False

    def watch(event, arguments):
        nonlocal done
        if done or event not in STEPS or not isinstance(arguments[0], str | os.PathLike):
            return
        if Path(arguments[0]).is_relative_to(folder) and any(folder.glob(pattern)):
            done = True
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(watch)
