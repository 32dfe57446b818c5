"""`ondevice bench`: latency, load time and memory of model files on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ondevice.atomic import atomic_path
from ondevice.bench import bench, bench_table

EPILOG = """examples:
  ondevice bench model.odm model.onnx model.tflite
  ondevice bench model.odm --batch 1 100 --seconds 5 --json result.json

Each file is measured in a process of its own. Times are whole calls of Model.predict in Python;
memory is what the process grew by, the runtime's library included."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, nargs="+", help=".odm, .onnx or .tflite file")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128], help="batch sizes")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time for each batch size (default: 1)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads a request (default: 1)")
    parser.add_argument("--engine", default="auto", help="engine to use (default: auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE too")


def run(args: argparse.Namespace) -> int:
    """Measure all files and print one table."""
    measurements = []
    for path in args.model:
        if sys.stderr.isatty():
            print(f"measuring {path} ...", file=sys.stderr)  # noqa: T201
        measurements.append(
            bench(
                path,
                engine=args.engine,
                threads=args.threads,
                batches=args.batch,
                seconds=args.seconds,
            )
        )
    print(bench_table(measurements))  # noqa: T201
    if args.json is not None:
        with atomic_path(args.json) as temporary:
            text = json.dumps([item.to_json() for item in measurements], indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
    return 0
