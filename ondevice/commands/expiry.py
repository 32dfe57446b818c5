"""The option --expires of commands that write signed documents."""

from __future__ import annotations

import argparse
from datetime import datetime

from ondevice.errors import FileFormatError
from ondevice.signed_json import read_expiry


def add_expires(parser: argparse.ArgumentParser) -> None:
    """Add --expires."""
    parser.add_argument(
        "--expires", type=_time, metavar="TIME", help="like 2027-01-01T00:00:00Z (default: never)"
    )


def _time(text: str) -> datetime | None:
    try:
        return read_expiry(text, "--expires")
    except FileFormatError as error:
        raise argparse.ArgumentTypeError(f"expected 2027-01-01T00:00:00Z, got {text!r}") from error
