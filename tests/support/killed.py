"""Kill a process at every step it takes on files, by a real SIGKILL."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "open")


def killed_at_every_step(folder: Path, work: Callable[[], None], first: int = 1) -> Iterator[int]:
    """Run `work` in forked processes, each killed one step in `folder` later than the last.

    Yields:
        the step at which a process has just been killed; ends when one has finished.
    """
    step = first
    while True:
        child = os.fork()
        if child == 0:
            try:
                _kill_at(folder, step)
                work()
                os._exit(0)
            finally:  # whatever happened, it must not go on with the tests of its parent
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield step
        step += 1


def _kill_at(folder: Path, step: int) -> None:
    """Make this process kill itself at its step number `step` on anything in a folder."""
    count = 0

    def watch(event, arguments):
        nonlocal count
        if event in STEPS and isinstance(arguments[0], str | os.PathLike):
            path = Path(arguments[0])
            if path != folder and path.is_relative_to(folder):
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
