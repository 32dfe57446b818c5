"""Runs a tool of the build, and tells a missing one from one that fails."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UnavailableError(RuntimeError):
    """A tool or a package cannot be had on this machine: what needs it is skipped."""


class ToolError(RuntimeError):
    """A tool says that something is wrong; the text is all of its complaint."""


def run_tool(command: list[str], cwd: Path | None = None) -> str:
    """Standard output of a command.

    Raises:
        UnavailableError: it is not installed.
        ToolError: it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    except FileNotFoundError as error:
        raise UnavailableError(f"not installed: {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise ToolError(error.stderr + error.stdout) from error
    return done.stdout


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that build into the same folder waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
