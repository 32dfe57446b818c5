"""`ondevice convert`: write a model as .odm, .onnx and .tflite, each verified."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.atomic import atomic_path
from ondevice.codecs import CODECS
from ondevice.converters import convert
from ondevice.converters.convert import TARGETS
from ondevice.converters.report import ConversionReport, report_text
from ondevice.converters.user_module import example_tensors, load_arrays, load_module
from ondevice.converters.verification import Validation
from ondevice.dense import DENSE_CODECS
from ondevice.errors import FileFormatError, InputError
from ondevice.models.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from ondevice.models.commands.options import add_data_options, open_source, source_of
from ondevice.models.data import HashedLog, split
from ondevice.models.data.hashed import encoded
from ondevice.models.embeddings import row_counts
from ondevice.models.log import ClickLog
from ondevice.models.networks import ClickModel, module_key
from ondevice.models.recipe import Source
from ondevice.models.table_fitting import FittedTable, compress_embeddings
from ondevice.models.trainer import evaluate
from ondevice.models.validation import rows_from_file, validation_from_file, validation_from_log
from ondevice.text_table import size, table

IdArray = npt.NDArray[np.int64]
BEFORE = "AUC on the validation rows before tables were fitted"

EPILOG = """examples:
  ondevice convert checkpoint --out models
  ondevice convert checkpoint --out models --tables q4 --dense q8 --targets odm
  ondevice convert mine.onnx --out models
  ondevice convert mypackage.net:make --weights net.safetensors --example rows.npz --out models
  ondevice convert checkpoint --out models --dense q8 --float-layers network.4
  ondevice convert checkpoint --out models --dense q8 --calibration rows.csv
  ondevice convert checkpoint --out models --width-error 0.2 --data ml1m --path ml-1m
  ondevice convert checkpoint --out models --validation rows.csv --label clicked
  ondevice convert checkpoint --out models --data ml1m --path ml-1m

Every file is run in its engines on ordinary, unseen, padding and extreme IDs and compared with the
torch model before it gets its name; a file that differs is not left behind. Beside the files lie
the report (NAME.report.json) and a model card (NAME.md). With --validation, or --data for the
validation split of a data set, the AUC of every file is measured too."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model",
        help="a folder written by ondevice train, an .onnx file, or package.module:factory",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="the module's weights: .safetensors, or an index",
    )
    parser.add_argument(
        "--example", type=Path, metavar="FILE", help="a few rows of every input, .npz"
    )
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
        "--row-ratio",
        type=float,
        metavar="R",
        help="first fit binary-code tables with R times fewer rows to the trained ones",
    )
    parser.add_argument(
        "--width-error",
        type=float,
        metavar="E",
        help="first cut rows to the dimensions that keep a table's relative error within E",
    )
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
    if ":" in args.model or args.model.lower().endswith(".onnx"):
        return _finish(args, _other_model(args))
    folder = Path(args.model)
    if args.weights is not None or args.example is not None:
        raise InputError("--weights and --example go with package.module:factory or an .onnx file")
    checkpoint = load_checkpoint(folder)
    log = None if args.data is None else open_source(source_of(args, Source()))
    validation = validation_of(args, checkpoint, log)
    lines = about(checkpoint)
    model: nn.Module = checkpoint.model
    if args.row_ratio is not None or args.width_error is not None:
        model, fitted = compress_embeddings(
            checkpoint.model,
            row_ratio=args.row_ratio,
            width_error=args.width_error,
            counts=None if log is None else training_counts(log, checkpoint),
            codec=args.tables,
        )
        before = None if validation is None else auc_of(checkpoint.model, checkpoint, validation)
        lines |= fitted_lines(fitted, before)
        print(fitted_text(fitted))  # noqa: T201
        if before is not None:
            print(f"{BEFORE}: {before:.4f}")  # noqa: T201
    report = convert(
        model,
        (examples(checkpoint, folder),),
        args.out,
        targets=args.targets,
        tables=args.tables,
        dense=args.dense,
        float_layers=args.float_layers,
        calibration=calibration_of(args, checkpoint),
        features=checkpoint.features,
        name=args.name,
        validation=validation,
        about=lines,
        weights=folder / WEIGHTS if model is checkpoint.model else None,
    )
    return _finish(args, report)


def _other_model(args: argparse.Namespace) -> ConversionReport:
    """Convert an .onnx file, or a module of the user's own."""
    checkpoints = ("row_ratio", "width_error", "calibration", "validation", "data")
    given = [
        f"--{name.replace('_', '-')}" for name in checkpoints if getattr(args, name) is not None
    ]
    if given:
        raise InputError(f"{', '.join(given)}: for a checkpoint alone")
    module: nn.Module | Path = Path(args.model)
    arrays = None if args.example is None else load_arrays(args.example)
    inputs: Any = arrays
    if not args.model.lower().endswith(".onnx"):
        if arrays is None:
            raise InputError("a module needs --example FILE.npz: a few rows of its inputs, by name")
        module = load_module(args.model)
        inputs = example_tensors(module, arrays)
    elif args.weights is not None:
        raise InputError("--weights goes with package.module:factory; an .onnx file has its own")
    return convert(
        module,
        inputs,
        args.out,
        targets=args.targets,
        tables=args.tables,
        dense=args.dense,
        float_layers=args.float_layers,
        name=args.name,
        weights=args.weights,
    )


def _finish(args: argparse.Namespace, report: ConversionReport) -> int:
    print(report_text(report))  # noqa: T201
    if args.json is not None:
        with atomic_path(args.json) as temporary:
            temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return 0


def calibration_of(args: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, IdArray] | None:
    """IDs of the rows of --calibration."""
    if args.calibration is None:
        return None
    return rows_from_file(args.calibration, checkpoint.features)


def training_counts(log: HashedLog, checkpoint: Checkpoint) -> dict[str, IdArray]:
    """How often the training split of a data set reads each row, by path of the embedding."""
    part = encoded(split(log)[0], checkpoint.features)
    model = checkpoint.model
    return {
        f"embeddings.{module_key(name)}": row_counts(model.embedding(name).spec, part.ids[name])
        for name in model.fields
    }


def auc_of(model: ClickModel, checkpoint: Checkpoint, validation: Validation) -> float:
    """AUC of a model on the validation rows."""
    return evaluate(model, ClickLog(checkpoint.features, validation.inputs, validation.labels)).auc


def fitted_lines(fitted: list[FittedTable], before: float | None) -> dict[str, str]:
    """Lines for the model card on tables that were fitted after training."""
    lines = {
        f"Fitted table {item.path}": f"{item.method}, relative error {item.stored_error:.4f}"
        for item in fitted
    }
    return lines if before is None else {**lines, BEFORE: f"{before:.4f}"}


def fitted_text(fitted: list[FittedTable]) -> str:
    """The fitted tables for the terminal."""
    rows = [
        (
            item.path,
            f"{item.rows:,} x {item.dim}",
            item.method,
            size(item.bytes_before),
            size(item.bytes_after),
            f"{item.error:.4f}",
            f"{item.stored_error:.4f}",
        )
        for item in fitted
    ]
    header = ("table", "trained", "stored", "float32", "now", "error", "with codec")
    return table(header, rows)


def validation_of(
    args: argparse.Namespace, checkpoint: Checkpoint, log: HashedLog | None
) -> Validation | None:
    """The labelled rows that the options name: a file, or the validation split of a data set."""
    if args.validation is not None and args.data is not None:
        raise InputError("give --validation FILE or --data NAME, not both")
    if args.validation is not None:
        return validation_from_file(args.validation, checkpoint.features, args.label)
    return None if log is None else validation_from_log(log, checkpoint.features)


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
