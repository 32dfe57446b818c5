"""`ondevice delta`: what changes between two model files, as a small file for devices."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.atomic import atomic_path
from ondevice.delta.create import create_delta
from ondevice.errors import writing
from ondevice.manifest import NAME as MANIFEST
from ondevice.text_table import size

EPILOG = """examples:
  ondevice delta yesterday/model.odm today/model.odm -o today.odd
  ondevice delta yesterday/model.odm today/model.odm --manifest today/manifest.json -o today.odd

The device applies it with `ondevice update MODEL today.odd`, and refuses it unless it has exactly
the old file. A manifest.json beside the new file travels along."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("old", type=Path, help="what devices have")
    parser.add_argument("new", type=Path, help="what they are to have")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .odd file to write")
    parser.add_argument(
        "--manifest",
        type=Path,
        help=f"manifest of the new file's set (default: {MANIFEST} beside it, if there is one)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the delta and say how large it is."""
    beside = args.new.parent / MANIFEST
    manifest = args.manifest or (beside if beside.is_file() else None)
    data = create_delta(args.old, args.new, manifest)
    with atomic_path(args.out) as path:
        path.write_bytes(data)
    share = len(data) / max(1, args.new.stat().st_size)
    with writing("standard output"):
        print(f"{args.out}: {size(len(data))}, {share:.1%} of {args.new}")  # noqa: T201
    return 0
