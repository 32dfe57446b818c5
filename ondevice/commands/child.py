"""Runs a command in a process that may die: hostile files crash ONNX Runtime and LiteRT."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ondevice.errors import FileFormatError, writing
from ondevice.printable import printable

COMMANDS = ("inspect", "verify")  # that open files which somebody else may have written
MOST_SECONDS = 600  # a runtime may unfold a small file for ever
IN_CHILD = "ONDEVICE_IN_CHILD"  # in the environment of such a process


def needs_child(command: str, models: Sequence[str | Path]) -> bool:
    """Whether a command opens a file in a runtime that checks less than ondevice's own engines."""
    if command not in COMMANDS or IN_CHILD in os.environ:
        return False
    return any(Path(path).suffix.lower() in (".onnx", ".tflite") for path in models)


def run_in_child(words: Sequence[str], models: Sequence[Path]) -> int | None:
    """Run a command line of ondevice in another process; returns its exit code.

    None: this Python cannot start another one (in an emulator, in an app that contains it), so
    nothing has run.

    Raises:
        FileFormatError: the process crashed, or takes longer than MOST_SECONDS.
        OutputError: what it printed cannot be written.
    """
    names = ", ".join(map(str, models))
    # -P: the folder one stands in, which may be hostile too, is none to import from
    try:
        done = subprocess.run(  # noqa: S603 - no shell; the words are the user's own command line
            [sys.executable, "-P", "-m", "ondevice", *words],
            env={**os.environ, IN_CHILD: "1", "PYTHONIOENCODING": "utf-8:surrogateescape"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            timeout=MOST_SECONDS,
        )
    except OSError:
        return None
    except subprocess.TimeoutExpired as error:
        raise FileFormatError(
            f"{names}: opening it takes the runtime more than {MOST_SECONDS} s: a hostile file"
        ) from error
    if done.returncode < 0:
        raise FileFormatError(
            f"{names}: opening it crashed the runtime ({signal.Signals(-done.returncode).name}): "
            "a damaged or hostile file"
        )
    sys.stderr.write(printable(done.stderr))  # of the runtime too, which prints names of the file
    with writing("standard output"):
        sys.stdout.write(done.stdout)
    return done.returncode
