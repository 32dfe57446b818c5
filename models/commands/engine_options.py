"""Options of the commands that work on a log in parts: its files, and the engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.errors import InputError
from ondevice.models.data.chunks import BadRows
from ondevice.models.scale.engines import ENGINES, Engine, RayEngine, run_locally


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """LOG, --columns, --where and --bad-rows."""
    add_file_options(parser)
    parser.add_argument(
        "--columns", type=Path, required=True, help=".toml or .json file that describes columns"
    )
    parser.add_argument("--bad-rows", help="skip:N leaves out up to N rows that cannot be read")


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """LOG and --where."""
    parser.add_argument("log", nargs="+", metavar="LOG", help="files, folders, globs")
    parser.add_argument("--where", help="which folders, for example 'dt >= 2026-10-01'")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """--engine, --workers and --address."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="local: one file after the other in this process; ray: workers of a Ray cluster "
        "(default: local)",
    )
    parser.add_argument(
        "--workers", type=int, help="with --engine ray: tasks at a time (default: all CPUs)"
    )
    parser.add_argument(
        "--address",
        help="with --engine ray: of a running cluster, host:port or auto (default: RAY_ADDRESS, "
        "else a cluster on this machine that ends with the command)",
    )


def engine_of(args: argparse.Namespace) -> Engine:
    """The engine that the options name. Raises InputError for options of another one."""
    if args.engine == "ray":
        return RayEngine(args.workers, args.address)
    given = [f"--{name}" for name in ("workers", "address") if getattr(args, name) is not None]
    if given:
        raise InputError(f"{' and '.join(given)} need --engine ray")
    return run_locally


def most_bad_rows(args: argparse.Namespace) -> int:
    """How many rows may be refused. Raises InputError."""
    return 0 if args.bad_rows is None else BadRows.from_text(args.bad_rows).most
