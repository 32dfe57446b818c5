"""`ondevice encode`: hash a log once, into a file that training maps instead of reading the log."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ondevice.errors import InputError
from ondevice.models.commands.engine_options import (
    add_engine_options,
    add_log_options,
    engine_of,
    most_bad_rows,
)
from ondevice.models.commands.options import described
from ondevice.models.commands.outputs import check_writable
from ondevice.models.data.description import LogDescription
from ondevice.models.data.log_source import log_files, name_of_log
from ondevice.models.data.registry import split_rule
from ondevice.models.scale.jobs import cache_encoded_log

EPILOG = """examples:
  ondevice encode logs/ --columns columns.toml --out encoded --engine ray --workers 8
  ondevice train --data log --path logs/ --columns columns.toml --cache encoded --out checkpoint

--out is the folder that `train` is given as --cache, with the same log, columns, --where, --split
and --bad-rows. The file there is the same whatever the engine, byte by byte."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_log_options(parser)
    parser.add_argument(
        "--split",
        help="random, time, folders or hash:COLUMN (default: the description's, else time where "
        "the log has one, else random)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of encoded logs")
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, and print what the log holds."""
    engine = engine_of(args)
    check_writable("--out", args.out)
    description = LogDescription.from_file(args.columns)
    files = log_files(args.log, args.where)
    if not files:
        raise InputError("no files to encode")
    rule = split_rule(args.split, description, by_position=False)
    name = name_of_log(args.log)
    log = cache_encoded_log(args.out, name, files, description, rule, most_bad_rows(args), engine)
    print(described(log))  # noqa: T201
    given = f"--path {shlex.join(args.log)} --columns {args.columns} --cache {args.out}"
    print(f"encoded in {args.out}; next: ondevice train --data log {given} --out DIR")  # noqa: T201
    return 0
