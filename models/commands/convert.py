"""`ondevice convert`: write a checkpoint as .odm, .onnx and .tflite, each verified."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ondevice.atomic import atomic_path
from ondevice.codecs import CODECS
from ondevice.converters import convert
from ondevice.converters.convert import TARGETS, ConversionReport
from ondevice.dense import DENSE_CODECS
from ondevice.errors import FileFormatError
from ondevice.models.checkpoint import Checkpoint, load_checkpoint
from ondevice.text_table import size, table

EPILOG = """examples:
  ondevice convert checkpoint --out models
  ondevice convert checkpoint --out models --tables q4 --dense q8 --targets odm

Every file is run in its engine on ordinary, unseen, padding and extreme IDs and compared with the
torch model before it gets its name; a file that differs is not left behind."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="folder written by ondevice train")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model files")
    parser.add_argument(
        "--tables", choices=CODECS, default="q8", help="codec of the tables (default: q8)"
    )
    parser.add_argument(
        "--dense",
        choices=DENSE_CODECS,
        default="f32",
        help="codec of the network's layers in the .odm file (default: f32)",
    )
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all"
    )
    parser.add_argument("--name", default="model", help="file name (default: model)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE too")


def run(args: argparse.Namespace) -> int:
    """Convert and print what was written."""
    checkpoint = load_checkpoint(args.checkpoint)
    report = convert(
        checkpoint.model,
        (examples(checkpoint, args.checkpoint),),
        args.out,
        targets=args.targets,
        tables=args.tables,
        dense=args.dense,
        features=checkpoint.features,
        name=args.name,
    )
    print(report_text(report))  # noqa: T201
    if args.json is not None:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return 0


def examples(checkpoint: Checkpoint, folder: Path) -> dict[str, torch.Tensor]:
    """The example IDs that a checkpoint carries. Raises FileFormatError when it has none."""
    stored: Any = checkpoint.extra.get("examples")
    try:
        return {
            name: torch.tensor(stored[name], dtype=torch.int64) for name in checkpoint.model.inputs
        }
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{folder}: the checkpoint's example IDs are damaged") from error


def report_text(report: ConversionReport) -> str:
    """The report as a table and a line about quantisation."""
    rows = [
        (
            str(item.path),
            size(item.bytes),
            item.runtime,
            str(item.checked_rows),
            f"{item.max_difference:.1e}",
        )
        for item in report.targets.values()
    ]
    header = ("file", "size", "verified in", "rows", "largest difference from torch")
    return (
        f"{table(header, rows)}\n"
        f"rounding the tables to {report.codec} moves a probability by at most "
        f"{report.quantisation_difference:.1e}"
    )
