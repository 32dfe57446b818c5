"""`ondevice update`: replace a model file by an update that works, or by the file before."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.errors import writing
from ondevice.text_table import size
from ondevice.update import rollback, update

EPILOG = """examples:
  ondevice update model.odm today.odd
  ondevice update model.odm new-model.odm
  ondevice update model.odm today.odd --key models.key.pub
  ondevice update --rollback model.odm
  ondevice update model.odm today.odd --again

The new file is complete and answers its test vectors before it gets the model's name; if anything
fails, the model stays. The file before is kept as MODEL.previous."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, help="the model file to update")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("new", type=Path, nargs="?", help=".odd file, or a whole model file")
    what.add_argument("--rollback", action="store_true", help="put MODEL.previous back")
    parser.add_argument(
        "--again", action="store_true", help="take the model that was rolled back last, too"
    )
    parser.add_argument("--engine", default="auto", help="engine to verify with (default: auto)")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="KEY",
        help="who must have signed the new set: a public key or a root (docs/signing.md)",
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="refuse versions older than this file remembers"
    )


def run(args: argparse.Namespace) -> int:
    """Update or roll back, and say what the model is now."""
    if args.rollback:
        result = rollback(args.model)
    else:
        result = update(
            args.model,
            args.new,
            engine=args.engine,
            keys=args.key,
            state=args.state,
            again=args.again,
        )
    with writing("standard output"):
        print(f"{args.model}: {size(result.length)}, sha256 {result.sha256}")  # noqa: T201
    return 0
