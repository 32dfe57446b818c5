"""`ondevice run`: score raw values from CSV or JSON lines, one score per input line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ondevice.atomic import atomic_path
from ondevice.errors import InputError
from ondevice.model import load
from ondevice.requests import kind_of, read_requests, write_scores

EPILOG = """examples:
  ondevice run model.odm requests.csv
  ondevice run model.odm requests.jsonl --output scores.jsonl
  printf 'user,item\\nu1,i7\\n' | ondevice run model.odm - --format csv"""

BATCH = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help=".odm, .onnx or .tflite file")
    parser.add_argument("input", help="CSV file with a header, or JSON lines; - for stdin")
    parser.add_argument("--output", type=Path, help="file for the scores (default: stdout)")
    parser.add_argument(
        "--format",
        choices=("csv", "jsonl"),
        help="format of input and output (default: by the input's suffix)",
    )
    parser.add_argument(
        "--ids", action="store_true", help="values are int64 IDs already, not raw values"
    )
    parser.add_argument("--engine", default="auto", help="engine to use (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Score all lines."""
    kind = args.format or kind_of(args.input)
    model = load(args.model, engine=args.engine)
    with _opened(args.input) as source, _target(args.output) as sink:
        for number, batch in enumerate(read_requests(source, kind, model, args.ids, BATCH)):
            write_scores(sink, kind, model.predict(batch), first=number == 0)
    return 0


@contextlib.contextmanager
def _opened(name: str) -> Iterator[IO[str]]:
    if name == "-":
        yield sys.stdin
        return
    try:
        with Path(name).open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _target(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
