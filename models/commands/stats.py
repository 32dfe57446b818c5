"""`ondevice stats`: exact counts and quantiles of a log's fields."""

from __future__ import annotations

import argparse

from ondevice.commands.json_output import add_json_option, write_json
from ondevice.models.commands.engine_options import (
    add_engine_options,
    add_log_options,
    engine_of,
    most_bad_rows,
)
from ondevice.models.commands.outputs import check_json
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
    add_json_option(parser, "the statistics")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    engine = engine_of(args)
    check_json(args.json)
    description = LogDescription.from_file(args.columns)
    files = log_files(args.log, args.where)
    counted = statistics(files, description, most_bad_rows(args), engine)
    if args.json is not None:
        write_json(counted.to_json(), args.json)
    print(printable(counted.text()))  # noqa: T201
    return 0
