"""The option --json, the same in every command: a file for the results, or - to print them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from ondevice.errors import writing
from ondevice.json_file import json_text, write_json_file

PRINT = Path("-")
# Where JSON is printed while the texts of a command go to standard error.
_printed: ContextVar[TextIO | None] = ContextVar("printed", default=None)


def add_json_option(parser: argparse._ActionsContainer, what: str = "the results") -> None:
    """Add --json FILE; `what` it writes stands in the help."""
    parser.add_argument(
        "--json",
        type=_target,
        metavar="FILE",
        help=f"write {what} as JSON to FILE (.json); with - print it, and the text to stderr",
    )


def _target(text: str) -> Path:
    """The file, whose name must say that it is JSON, so that no model file is replaced by it."""
    path = Path(text)
    if path == PRINT or path.suffix.lower() == ".json" or (path.exists() and not path.is_file()):
        return path
    raise argparse.ArgumentTypeError(f"expected a file that ends in .json, or -, got {text}")


@contextlib.contextmanager
def text_aside(target: Path | None) -> Iterator[None]:
    """Print to standard error inside the block, if --json is to be printed."""
    if target != PRINT:
        yield
        return
    token = _printed.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _printed.reset(token)


def write_json(data: Any, target: Path) -> None:
    """Write what --json asks for, or print it.

    Raises:
        OutputError: it cannot be written.
    """
    if target == PRINT:
        with writing("standard output"):
            output = _printed.get() or sys.stdout
            output.write(json_text(data))
            output.flush()
        return
    write_json_file(data, target)
