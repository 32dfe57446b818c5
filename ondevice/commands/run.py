"""`ondevice run`: score raw values from CSV, JSON lines or Parquet, one row of scores each."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, get_args

from ondevice.atomic import atomic_path
from ondevice.compression import SUFFIXES
from ondevice.errors import InputError, OutputError, writing
from ondevice.features import FeatureSpec
from ondevice.model import Model, load
from ondevice.requests import (
    ALL,
    Batch,
    Format,
    TextFormat,
    format_of,
    opened,
    read_requests,
    read_table,
    text_settings,
)
from ondevice.scores import ParquetScores, ScoreWriter

EPILOG = """input:
  CSV is read as the training log was: with its delimiter, quotes, encoding, column names and
  missing markers, so that the log itself can be scored; by default commas, a header and UTF-8.
  Columns that are no input, as the label, are ignored. A cell that training would refuse is an
  error. JSON lines are UTF-8: null and NaN are missing values, a text is read as a cell is.
  Files of text may be compressed (.gz, .xz, .bz2, .zst). Parquet, Feather and Arrow files are
  read through the package pyarrow, with their values as they are.

output:
  One line per request, in their order. A model with one value per request has the CSV column
  or JSON key "score". Otherwise every output has its own name: in CSV a column NAME, or
  NAME[0], NAME[1], ... where it has several values; in JSON lines a key with a number or a
  list. A value that is not finite is nan or inf in CSV, null in JSON. The format is that of the
  --output file's suffix, else the input's; of Parquet to stdout it is CSV. --keep puts columns
  of the input before the scores.

examples:
  ondevice run model.odm requests.csv
  ondevice run model.odm requests.jsonl --output scores.jsonl
  ondevice run model.odm day.parquet --keep user,item --output scores.parquet
  printf 'user,item\\nu1,i7\\n' | ondevice run model.odm - --format csv"""

BATCH = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help=".odm, .onnx or .tflite file")
    parser.add_argument("input", help="CSV, JSON lines, Parquet or Arrow file; - for stdin")
    parser.add_argument("--output", type=Path, help="file for the scores (default: stdout)")
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        help="format of the input (default: by its suffix)",
    )
    parser.add_argument(
        "--keep",
        metavar="COLUMNS",
        help="columns of the input to write before the scores: names with commas, or all",
    )
    parser.add_argument(
        "--ids", action="store_true", help="values are int64 IDs already, not raw values"
    )
    parser.add_argument("--engine", default="auto", help="engine to use (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Score all lines."""
    given: Format = args.format or format_of(args.input)
    wanted = _output_format(args.output, given)
    keep = ALL if args.keep == "all" else tuple(filter(None, (args.keep or "").split(",")))
    model = load(args.model, engine=args.engine)
    with _batches(args, given, model, keep) as batches, _writer(args.output, wanted) as scores:
        for batch in batches:
            outputs = model.predict(batch.ids)
            named = outputs if isinstance(outputs, dict) else {model.outputs[0]: outputs}
            with writing(args.output or "standard output"):
                scores.write(named, batch.rows, batch.kept)
    return 0


def _output_format(output: Path | None, given: Format) -> Format:
    """The format of the scores. Raises InputError for a name that says none."""
    if output is None or not output.suffix or str(output).startswith("/dev/"):
        return "jsonl" if given == "jsonl" else "csv"
    wanted = format_of(output.name)
    if wanted == "arrow" or output.suffix.lower() in SUFFIXES:
        raise InputError(f"--output {output}: scores are written as .csv, .jsonl or .parquet")
    return wanted


@contextlib.contextmanager
def _batches(
    args: argparse.Namespace, given: Format, model: Model, keep: Sequence[str]
) -> Iterator[Iterator[Batch]]:
    """The requests. Raises InputError where the file cannot be opened."""
    if given in ("parquet", "arrow"):
        path = Path(args.input)
        if args.input == "-" or not path.is_file():
            raise InputError(f"{args.input}: cannot be read: {given} is read from a file")
        yield read_table(path, given, model, args.ids, BATCH, keep)
        return
    text_format: TextFormat = "jsonl" if given == "jsonl" else "csv"
    features = None if args.ids else model.features
    with _source(args.input, text_format, features) as source:
        yield read_requests(source, text_format, model, args.ids, BATCH, keep, args.input)


@contextlib.contextmanager
def _writer(output: Path | None, wanted: Format) -> Iterator[ScoreWriter | ParquetScores]:
    """What writes the scores. Raises OutputError."""
    if wanted == "parquet":
        if output is None:
            raise OutputError("Parquet is written to a file: give --output")
        with atomic_path(output) as temporary, ParquetScores(temporary) as scores:
            yield scores
        return
    text_format: TextFormat = "jsonl" if wanted == "jsonl" else "csv"
    if output is None:
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        yield ScoreWriter(sys.stdout, text_format)
        return
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield ScoreWriter(file, text_format)


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
