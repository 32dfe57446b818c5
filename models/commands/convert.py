"""`ondevice convert`: write a checkpoint as .odm, .onnx and .tflite, each verified."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ondevice.atomic import atomic_path
from ondevice.codecs import CODECS
from ondevice.converters import convert
from ondevice.converters.convert import TARGETS
from ondevice.converters.report import report_text
from ondevice.converters.verification import Validation
from ondevice.dense import DENSE_CODECS
from ondevice.errors import FileFormatError, InputError
from ondevice.models.checkpoint import Checkpoint, load_checkpoint
from ondevice.models.commands.options import add_data_options, open_source, source_of
from ondevice.models.recipe import Source
from ondevice.models.validation import rows_from_file, validation_from_file, validation_from_log

EPILOG = """examples:
  ondevice convert checkpoint --out models
  ondevice convert checkpoint --out models --tables q4 --dense q8 --targets odm
  ondevice convert checkpoint --out models --dense q8 --float-layers network.4
  ondevice convert checkpoint --out models --dense q8 --calibration rows.csv
  ondevice convert checkpoint --out models --validation rows.csv --label clicked
  ondevice convert checkpoint --out models --data ml1m --path ml-1m

Every file is run in its engines on ordinary, unseen, padding and extreme IDs and compared with the
torch model before it gets its name; a file that differs is not left behind. Beside the files lie
the report (NAME.report.json) and a model card (NAME.md). With --validation, or --data for the
validation split of a data set, the AUC of every file is measured too."""


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
        help="codec of the network's layers (default: f32)",
    )
    parser.add_argument(
        "--float-layers",
        nargs="+",
        default=[],
        metavar="PATH",
        help="layers that stay float32, such as network.4",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="with --dense q8: raw values whose ranges fix how .onnx and .tflite quantise",
    )
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all"
    )
    parser.add_argument("--name", default="model", help="file name (default: model)")
    parser.add_argument(
        "--validation", type=Path, metavar="FILE", help="CSV or JSON lines of raw values and labels"
    )
    parser.add_argument(
        "--label", default="label", help="column of --validation that holds 0 or 1 (default: label)"
    )
    add_data_options(parser)
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
        float_layers=args.float_layers,
        calibration=calibration_of(args, checkpoint),
        features=checkpoint.features,
        name=args.name,
        validation=validation_of(args, checkpoint),
        about=about(checkpoint),
    )
    print(report_text(report))  # noqa: T201
    if args.json is not None:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return 0


def calibration_of(
    args: argparse.Namespace, checkpoint: Checkpoint
) -> dict[str, npt.NDArray[np.int64]] | None:
    """IDs of the rows of --calibration."""
    if args.calibration is None:
        return None
    return rows_from_file(args.calibration, checkpoint.features)


def validation_of(args: argparse.Namespace, checkpoint: Checkpoint) -> Validation | None:
    """The labelled rows that the options name: a file, or the validation split of a data set."""
    if args.validation is not None and args.data is not None:
        raise InputError("give --validation FILE or --data NAME, not both")
    if args.validation is not None:
        return validation_from_file(args.validation, checkpoint.features, args.label)
    if args.data is None:
        return None
    return validation_from_log(open_source(source_of(args, Source())), checkpoint.features)


def about(checkpoint: Checkpoint) -> dict[str, str]:
    """Lines for the model card: what the checkpoint says of its network, data and metrics."""
    lines: dict[str, str] = {"Network": checkpoint.model.settings.kind}
    data, test = checkpoint.extra.get("data"), checkpoint.extra.get("test")
    if isinstance(data, dict) and "name" in data and "rows" in data:
        lines["Training data"] = f"{data['name']}, {data['rows']} rows with validation and test"
    if isinstance(test, dict) and isinstance(test.get("auc"), float):
        lines["AUC on the test split, float32"] = f"{test['auc']:.4f}"
    return lines


def examples(checkpoint: Checkpoint, folder: Path) -> dict[str, torch.Tensor]:
    """The example IDs that a checkpoint carries. Raises FileFormatError when it has none."""
    stored: Any = checkpoint.extra.get("examples")
    try:
        return {
            name: torch.tensor(stored[name], dtype=torch.int64) for name in checkpoint.model.inputs
        }
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{folder}: the checkpoint's example IDs are damaged") from error
