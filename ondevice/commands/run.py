"""`ondevice run`: score raw values from CSV or JSON lines, one line of scores per request."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, get_args

from ondevice.atomic import atomic_path
from ondevice.errors import InputError, OutputError, writing
from ondevice.features import FeatureSpec
from ondevice.model import load
from ondevice.requests import TextFormat, format_of, opened, read_requests, text_settings
from ondevice.scores import ScoreWriter

EPILOG = """input:
  CSV is read as the training log was: with its delimiter, quotes, encoding, column names and
  missing markers, so that the log itself can be scored; by default commas, a header and UTF-8.
  Columns that are no input, as the label, are ignored. A cell that training would refuse is an
  error. JSON lines are UTF-8: null and NaN are missing values, a text is read as a cell is.
  Files may be compressed (.gz, .xz).

output:
  One line per request, in their order. A model with one value per request has the CSV column
  or JSON key "score". Otherwise every output has its own name: in CSV a column NAME, or
  NAME[0], NAME[1], ... where it has several values; in JSON lines a key with a number or a
  list. A value that is not finite is nan or inf in CSV, null in JSON.

examples:
  ondevice run model.odm requests.csv
  ondevice run model.odm requests.jsonl --output scores.jsonl
  printf 'user,item\\nu1,i7\\n' | ondevice run model.odm - --format csv"""

BATCH = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help=".odm, .onnx or .tflite file")
    parser.add_argument("input", help="CSV file, or JSON lines; - for stdin")
    parser.add_argument("--output", type=Path, help="file for the scores (default: stdout)")
    parser.add_argument(
        "--format",
        choices=get_args(TextFormat),
        help="format of input and output (default: by the input's suffix)",
    )
    parser.add_argument(
        "--ids", action="store_true", help="values are int64 IDs already, not raw values"
    )
    parser.add_argument("--engine", default="auto", help="engine to use (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Score all lines."""
    text_format = args.format or format_of(args.input)
    model = load(args.model, engine=args.engine)
    features = None if args.ids else model.features
    with _source(args.input, text_format, features) as source, _sink(args.output) as (sink, name):
        scores = ScoreWriter(sink, text_format)
        for batch in read_requests(source, text_format, model, args.ids, BATCH):
            outputs = model.predict(batch)
            named = outputs if isinstance(outputs, dict) else {model.outputs[0]: outputs}
            with writing(name):
                scores.write(named, len(next(iter(batch.values()))))
    return 0


@contextlib.contextmanager
def _source(name: str, text_format: TextFormat, features: FeatureSpec | None) -> Iterator[IO[str]]:
    """The requests as text. Raises InputError where the file cannot be opened."""
    if name == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed")
        if isinstance(sys.stdin, io.TextIOWrapper):  # as a file is read, whatever the locale
            sys.stdin.reconfigure(**text_settings(text_format, features))
        yield sys.stdin
        return
    try:
        file = opened(Path(name), text_format, features)
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        fault = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name}: cannot be read: {fault}") from error
    with file:
        yield file


@contextlib.contextmanager
def _sink(path: Path | None) -> Iterator[tuple[IO[str], str]]:
    """Where scores go, and its name in messages. Raises OutputError."""
    if path is None:
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        yield sys.stdout, "standard output"
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file, str(path)
