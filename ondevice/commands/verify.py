"""`ondevice verify`: check a file's bytes, and its test vectors in the engine of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.codecs import DENSE_ARITHMETICS
from ondevice.commands.json_output import add_json_option, write_json
from ondevice.errors import writing
from ondevice.printable import printable
from ondevice.verify import verify

EPILOG = "examples:\n  ondevice verify model.odm\n  ondevice verify model.odm --key models.key.pub"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, nargs="+", help=".odm, .onnx or .tflite file")
    parser.add_argument("--engine", default="auto", help="engine to use (default: auto)")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="who must have signed: a public key or a root (docs/signing.md)",
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="refuse versions older than this file remembers"
    )
    parser.add_argument(
        "--dense",
        choices=DENSE_ARITHMETICS,
        help="compute dense layers of an .odm file in bfloat16 (docs/native.md)",
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Verify every file; 1 if any differs from its test vectors."""
    results = [
        verify(path, engine=args.engine, keys=args.key, state=args.state, dense=args.dense)
        for path in args.model
    ]
    with writing("standard output"):
        print(printable("\n".join(map(str, results))))  # noqa: T201
    if args.json is not None:
        write_json([result.to_json() for result in results], args.json)
    return 0 if all(result.passed for result in results) else 1
