"""`ondevice verify`: check a file's bytes, and its test vectors in the engine of this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ondevice.errors import writing
from ondevice.printable import printable
from ondevice.verify import Verification, verify

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
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Verify every file; 1 if any differs from its test vectors."""
    results = [
        verify(path, engine=args.engine, keys=args.key, state=args.state) for path in args.model
    ]
    if args.json:
        text = json.dumps([result.to_json() for result in results], indent=2)
    else:
        text = "\n".join(map(_text, results))
    with writing("standard output"):
        print(printable(text))  # noqa: T201
    return 0 if all(result.passed for result in results) else 1


def _text(result: Verification) -> str:
    return (
        f"{result.path}: {'ok' if result.passed else 'FAILED'}: {result.rows} test rows in "
        f"{result.runtime}, largest difference {result.max_difference:.2g}, "
        f"of rank from predict {result.rank_difference:.2g} "
        f"(tolerance {result.tolerance:g})"
    )
