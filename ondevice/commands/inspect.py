"""`ondevice inspect`: what a model file holds, byte by byte."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.commands.json_output import add_json_option, write_json
from ondevice.errors import writing
from ondevice.inspection import inspect
from ondevice.printable import printable

EPILOG = "example:\n  ondevice inspect model.odm"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, nargs="+", help=".odm, .onnx or .tflite file")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Inspect every file."""
    results = [inspect(path) for path in args.model]
    with writing("standard output"):
        print(printable("\n\n".join(map(str, results))))  # noqa: T201
    if args.json is not None:
        write_json([result.to_json() for result in results], args.json)
    return 0
