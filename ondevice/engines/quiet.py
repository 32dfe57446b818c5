"""Holds back one line that LiteRT logs at every start, and no other."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

# Logged at level INFO by C++ code that has no switch for it in Python.
NOISE = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
STDERR = 2

_lock = threading.Lock()  # the descriptor is the process's: one caller at a time


@contextlib.contextmanager
def without_start_line() -> Iterator[None]:
    """Run the block; what it logs to the descriptor of standard error comes after it, less `NOISE`.

    Other threads' lines are held back until then too. Without a standard error, only the block.
    """
    with _lock, contextlib.ExitStack() as stack:
        try:
            saved = os.dup(STDERR)
        except OSError:  # closed
            yield
            return
        stack.callback(os.close, saved)
        logged = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(logged.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(saved, STDERR)
            logged.seek(0)
            for line in logged:
                if not line.startswith(NOISE):
                    os.write(STDERR, line)
