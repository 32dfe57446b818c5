"""`ondevice stats`: exact counts and quantiles of a log's fields."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ondevice.atomic import atomic_path
from ondevice.models.commands.engine_options import (
    add_engine_options,
    add_log_options,
    engine_of,
    most_bad_rows,
)
from ondevice.models.commands.outputs import check_writable
from ondevice.models.data.description import LogDescription
from ondevice.models.data.log_source import log_files
from ondevice.models.scale.jobs import statistics
from ondevice.printable import printable

EPILOG = """examples:
  ondevice stats clicks.csv --columns columns.toml
  ondevice stats logs/ --columns columns.toml --where 'dt >= 2026-10-01' --json stats.json
  ondevice stats logs/ --columns columns.toml --engine ray --workers 8

Of each field: distinct values, values that occur once, the share of rows without a value, and of
numbers the quantiles. All are exact, and the same whatever the engine and the order of files."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_log_options(parser)
    parser.add_argument("--json", type=Path, help="file for the statistics as JSON")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    engine = engine_of(args)
    if args.json is not None:
        check_writable("--json", args.json.parent)
    description = LogDescription.from_file(args.columns)
    files = log_files(args.log, args.where)
    counted = statistics(files, description, most_bad_rows(args), engine)
    if args.json is not None:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(counted.to_json(), indent=1) + "\n", "utf-8")
    print(printable(counted.text()))  # noqa: T201
    return 0
