"""`ondevice convert`: write a model as .odm, .onnx and .tflite, each verified."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice import manifest
from ondevice.codecs import DENSE_CODECS, Codec
from ondevice.commands.json_output import add_json_option, write_json
from ondevice.converters import convert
from ondevice.converters.convert import TARGETS
from ondevice.converters.phases import seconds_line
from ondevice.converters.pipeline import INPUT_FORMS
from ondevice.converters.source.arguments import DynamicAxes
from ondevice.converters.source.user_module import example_tensors, load_arrays, load_module
from ondevice.converters.tables.like import SLACK
from ondevice.converters.tables.pack import OTHERS
from ondevice.converters.tables.weights import Weights
from ondevice.converters.verify.report import ConversionReport, FittedTable
from ondevice.converters.verify.requests import VECTOR_ROWS
from ondevice.converters.verify.verification import Validation
from ondevice.errors import FileFormatError, InputError, SpecError
from ondevice.features import FeatureSpec
from ondevice.model import sha256
from ondevice.models.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from ondevice.models.commands.map_option import add_map_option, without_map
from ondevice.models.commands.options import add_data_options, open_source, source_of
from ondevice.models.commands.outputs import add_output_options, check_output
from ondevice.models.commands.runtimes import check_runtimes
from ondevice.models.commands.table_codecs import add_tables_option, tables_of
from ondevice.models.data import HashedLog, split
from ondevice.models.data.hashed import encoded
from ondevice.models.layers.row_index import row_counts
from ondevice.models.networks import module_key
from ondevice.models.recipe import Source
from ondevice.models.retrieval import HashedModel
from ondevice.models.shrink import compress_embeddings
from ondevice.models.validation import (
    rows_from_file,
    validation_from_arrays,
    validation_from_file,
    validation_from_log,
)
from ondevice.sections import TableCodec, table_codec

REPORT = "report.json"  # beside the model files

Array = npt.NDArray[Any]
IdArray = npt.NDArray[np.int64]

EPILOG = """examples:
  ondevice convert checkpoint --out models
  ondevice convert checkpoint --out models --tables q4 --dense q8 --targets odm
  ondevice convert checkpoint --out models --tables q4 --map retrieval:4
  ondevice convert mine.onnx --out models
  ondevice convert mypackage.net:make --weights net.safetensors --example rows.npz --out models
  ondevice convert net:make --example rows.npz --dynamic history:1=steps --out models
  ondevice convert checkpoint --out models --dense q8 --float-layers network.4
  ondevice convert next --out tomorrow --tables q4 --targets odm --like models/model.odm
  ondevice convert checkpoint --out models --dense q8 --calibration rows.csv
  ondevice convert checkpoint --out models --width-error 0.2 --data ml1m --path ml-1m
  ondevice convert checkpoint --out models --validation rows.csv --label clicked
  ondevice convert checkpoint --out models --data ml1m --path ml-1m
  ondevice convert mine.onnx --out models --validation rows.npz --label clicked

Every file is run in its engines on ordinary, unseen, padding and extreme IDs and compared with the
torch model before it gets its name. If one differs, the command fails, none of the new files stays,
and those of an earlier run are as they were. Beside the files lie the report (NAME.report.json) and
a model card (NAME.md; with --card README.md the folder is a repository for the Hugging Face Hub).

Rows of --validation and --calibration are, for a checkpoint, a .csv with a header or a .jsonl with
an object a line: a column for every input, raw values as the checkpoint's features read them. For a
module or an .onnx file they are an .npz like --example: an array [rows, ...] for every input. The
labels, 0 or 1, are one more column or array, named by --label. With --validation, or --data for the
validation split of a data set, the AUC of the model as trained and of every file is measured."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _add_source_options(parser)
    add_output_options(parser, "folder for the model files", required=True)
    parser.add_argument("--name", default="model", help="file name (default: model)")
    parser.add_argument("--card", metavar="NAME", help="name of the model card (default: NAME.md)")
    _add_storage_options(parser)
    _add_fitting_options(parser)
    _add_validation_options(parser)
    add_json_option(parser, "the report")


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the model and describe a module's inputs."""
    parser.add_argument(
        "model",
        help="a folder written by ondevice train, an .onnx file, or package.module:factory",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights of package.module:factory: .safetensors, or an index",
    )
    parser.add_argument(
        "--example",
        type=Path,
        metavar="FILE",
        help="for a module or an .onnx file: a few ordinary rows of every input, .npz",
    )
    parser.add_argument(
        "--dynamic",
        nargs="+",
        default=[],
        metavar="INPUT:AXIS=NAME",
        help="for a module: axes of free size beside the batch, such as history:1=steps; axes of "
        "one name have one size",
    )


def _add_storage_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the targets and say how they store tables and layers."""
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all"
    )
    add_tables_option(parser, "q8")
    add_map_option(parser)
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
        "--vectors",
        type=int,
        default=VECTOR_ROWS,
        metavar="ROWS",
        help="rows of test vectors in every file, for ondevice verify; 0: none "
        f"(default: {VECTOR_ROWS})",
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="OLD.odm",
        help="keep the scales, levels and codes of the file that devices have, where they are "
        "still good: an update is then small (docs/updates.md)",
    )
    parser.add_argument(
        "--slack",
        type=float,
        default=SLACK,
        metavar="S",
        help="with --like: how much larger than need be the error of a value may become, in steps "
        f"of its code, so that its code stays (0 to 1, default: {SLACK})",
    )
    parser.add_argument(
        "--input",
        choices=INPUT_FORMS,
        default="named",
        help="matrix: the IDs of .onnx and .tflite are the columns of one input, 'ids' "
        "[batch, fields], which stock runtimes read faster; words: in .onnx the two 32-bit words "
        "of each ID, for OpenVINO (default: named)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="with --dense q8: a thousand ordinary rows or more, whose ranges fix how .onnx and "
        ".tflite quantise activations",
    )


def _add_fitting_options(parser: argparse.ArgumentParser) -> None:
    """Whether smaller tables are fitted to the trained ones first."""
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


def _add_validation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the AUC is measured on."""
    parser.add_argument(
        "--validation", type=Path, metavar="FILE", help="rows with labels, to measure the AUC on"
    )
    parser.add_argument(
        "--label", default="label", help="name of the labels in --validation (default: label)"
    )
    add_data_options(
        parser,
        "for a checkpoint: measure the AUC on this data set's validation split, and weigh fitted "
        "rows by how often its training split reads them",
    )


@dataclass(frozen=True)
class _Request:
    """The model to convert, whatever its form; see `convert`."""

    module: nn.Module | Path
    example: Any
    weights: Path | None = None
    features: FeatureSpec | None = None
    validation: Validation | None = None
    calibration: Mapping[str, Array] | None = None
    counts: dict[str, IdArray] | None = None
    about: dict[str, str] = field(default_factory=dict)
    dynamic_axes: DynamicAxes | None = None
    codecs: Mapping[str, TableCodec] = field(default_factory=dict)  # of single inputs' tables
    original: nn.Module | None = None  # with the tables before they were rounded


def run(args: argparse.Namespace) -> int:
    """Convert and print what was written."""
    card = args.card or f"{args.name}.md"
    written = [*args.targets, REPORT, *(["onnx.data"] if "onnx" in args.targets else [])]
    results = [*(args.out / f"{args.name}.{suffix}" for suffix in written), args.out / card]
    results += _foreign_manifest(args.out)
    check_output(args.out, results, force=args.force, json=args.json)
    _check_source(args.model)
    check_runtimes(args.targets, choosable=True)
    if args.model.lower().endswith(".onnx"):
        request = _onnx_file(args)
    elif ":" in args.model:
        request = _user_module(args)
    else:
        request = _checkpoint(args)
    tables = tables_of(args, request.codecs)
    module, original, weights = request.module, request.original, request.weights
    fitted: list[FittedTable] = []
    if isinstance(module, nn.Module) and _fits_tables(args):
        original = module if weights is None else Weights(weights).filled(module)
        weights = None
        module, fitted = compress_embeddings(
            original,
            row_ratio=args.row_ratio,
            width_error=args.width_error,
            counts=request.counts,
            codec=_only_codec(tables),
        )
    before = time.process_time()
    report = convert(
        module,
        request.example,
        args.out,
        targets=args.targets,
        tables=tables,
        dense=args.dense,
        float_layers=args.float_layers,
        calibration=request.calibration,
        features=request.features,
        dynamic_axes=request.dynamic_axes,
        name=args.name,
        validation=request.validation,
        about=request.about,
        weights=weights,
        original=original,
        fitted=fitted,
        vectors=args.vectors,
        like=args.like,
        slack=args.slack,
        inputs=args.input,
        card=args.card,
    )
    return _finish(args, replace(report, seconds={"imports": before, **report.seconds}))


def _foreign_manifest(out: Path) -> list[Path]:
    """A manifest.json that is something else than a manifest of model files, if there is one."""
    path = out / manifest.NAME
    try:
        if path.exists():
            manifest.read_manifest(path)
    except FileFormatError:
        return [path]
    return []


def _check_source(model: str) -> None:
    """Refuse a model that is none of the three kinds, and say what it is. Raises InputError."""
    path = Path(model)
    if ":" in model or path.suffix.lower() == ".onnx" or path.is_dir():
        return
    expected = (
        "expected a folder written by ondevice train, an .onnx file, or package.module:factory"
    )
    if not path.exists():
        raise InputError(f"{model}: {expected}; there is no such folder")
    if path.suffix.lower() in (".odm", ".tflite"):
        raise InputError(
            f"{model}: {expected}; a {path.suffix} file is converted already: give the checkpoint "
            "or .onnx file it was made from"
        )
    raise InputError(f"{model}: {expected}; it is a file of another kind")


def _only_codec(tables: TableCodec | Mapping[str, TableCodec]) -> Codec:
    """The codec of tables that are fitted: one for all rows. Raises InputError."""
    codec = tables[OTHERS] if isinstance(tables, Mapping) else tables
    if not isinstance(codec, str):
        raise InputError("--row-ratio and --width-error take one codec for all tables, no sections")
    return codec


def _fits_tables(args: argparse.Namespace) -> bool:
    return args.row_ratio is not None or args.width_error is not None


def _checkpoint(args: argparse.Namespace) -> _Request:
    """A folder that `ondevice train` wrote."""
    folder = Path(args.model)
    _no_dynamic_axes(args)
    if args.weights is not None or args.example is not None:
        raise InputError("--weights and --example go with package.module:factory or an .onnx file")
    checkpoint = load_checkpoint(folder)
    weights: Path | None = folder / WEIGHTS
    codecs = _described_codecs(checkpoint, folder)
    original = None
    if args.map is not None:
        if _fits_tables(args):
            raise InputError(
                "--map retrieval stores trained rows; --row-ratio and --width-error fit others"
            )
        trained = checkpoint
        checkpoint, weights = without_map(trained, args.map, tables_of(args, codecs)), None
        original = HashedModel(trained.model, trained.features, checkpoint.features)
    log = None if args.data is None else open_source(source_of(args, Source()))
    rows = args.calibration
    counted = log is not None and _fits_tables(args)
    return _Request(
        checkpoint.model,
        (examples(checkpoint, folder),),
        weights,
        checkpoint.features,
        validation_of(args, checkpoint, log),
        None if rows is None else rows_from_file(rows, checkpoint.features),
        training_counts(log, checkpoint) if log is not None and counted else None,
        about(checkpoint),
        codecs=codecs,
        original=original,
    )


def _described_codecs(checkpoint: Checkpoint, folder: Path) -> dict[str, TableCodec]:
    """The codecs that the log's description asks of single fields. Raises FileFormatError."""
    codecs = checkpoint.extra.get("table_codecs", {})
    try:
        return {name: table_codec(str(codec)) for name, codec in codecs.items()}
    except (SpecError, AttributeError) as error:
        raise FileFormatError(
            f"{folder}: table_codecs must be codecs by field, got {codecs!r}: {error}"
        ) from error


def _user_module(args: argparse.Namespace) -> _Request:
    """A module of the user's own: package.module:factory."""
    _no_data_set(args)
    _no_map(args)
    if args.example is None:
        raise InputError("a module needs --example FILE.npz: a few rows of its inputs, by name")
    module = load_module(args.model)
    return _Request(
        module,
        example_tensors(module, load_arrays(args.example)),
        args.weights,
        validation=_array_validation(args),
        calibration=None if args.calibration is None else load_arrays(args.calibration),
        dynamic_axes=dynamic_axes(args.dynamic),
        about={"Module": args.model}
        | ({} if args.weights is None or args.weights.is_dir() else _hashed(args.weights)),
    )


def _onnx_file(args: argparse.Namespace) -> _Request:
    """An .onnx file from elsewhere."""
    _no_data_set(args)
    _no_map(args)
    _no_dynamic_axes(args)
    if args.weights is not None:
        raise InputError("--weights goes with package.module:factory; an .onnx file has its own")
    if _fits_tables(args):
        raise InputError(
            "--row-ratio and --width-error swap modules; an .onnx file has none: give the torch "
            "module it was made from"
        )
    return _Request(
        Path(args.model),
        None if args.example is None else load_arrays(args.example),
        validation=_array_validation(args),
        calibration=None if args.calibration is None else load_arrays(args.calibration),
        about=_hashed(Path(args.model)),
    )


def dynamic_axes(texts: Sequence[str]) -> dict[str, dict[int, str]]:
    """Free axes by input, of texts such as "history:1=steps". Raises InputError."""
    axes: dict[str, dict[int, str]] = {}
    for text in texts:
        match = re.fullmatch(r"(.+):([0-9]{1,2})=(.+)", text)
        if match is None:
            raise InputError(f"--dynamic: expected INPUT:AXIS=NAME, got {text!r}")
        axes.setdefault(match[1], {})[int(match[2])] = match[3]
    return axes


def _no_dynamic_axes(args: argparse.Namespace) -> None:
    if args.dynamic:
        raise InputError(
            "--dynamic is for package.module:factory; a checkpoint and an .onnx file "
            "say themselves which sizes are free"
        )


def _no_map(args: argparse.Namespace) -> None:
    if args.map is not None:
        raise InputError("--map retrieval is for a checkpoint, which knows its vocabularies")


def _no_data_set(args: argparse.Namespace) -> None:
    if args.data is not None:
        raise InputError("--data is for a checkpoint; give rows with --validation FILE.npz")


def _array_validation(args: argparse.Namespace) -> Validation | None:
    return None if args.validation is None else validation_from_arrays(args.validation, args.label)


def _hashed(path: Path) -> dict[str, str]:
    """A line for the model card that says which file was converted."""
    return {f"SHA-256 of {path.name}": sha256(path)} if path.is_file() else {}


def _finish(args: argparse.Namespace, report: ConversionReport) -> int:
    print(report)  # noqa: T201
    print(seconds_line(report.seconds))  # noqa: T201
    for target in [item for item in TARGETS if item not in report.targets]:
        if (older := args.out / f"{args.name}.{target}").exists():
            print(f"{older} is of an earlier conversion; the card does not describe it")  # noqa: T201
    if args.json is not None:
        write_json(report.to_json(), args.json)
    return 0


def training_counts(log: HashedLog, checkpoint: Checkpoint) -> dict[str, IdArray]:
    """How often the training split of a data set reads each row, by path of the embedding."""
    part = encoded(split(log)[0], checkpoint.features)
    model = checkpoint.model
    return {
        f"embeddings.{module_key(name)}": row_counts(model.embedding(name).spec, part.ids[name])
        for name in model.fields
    }


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
    return {**lines, f"SHA-256 of {WEIGHTS}": checkpoint.weights_sha256}


def examples(checkpoint: Checkpoint, folder: Path) -> dict[str, torch.Tensor]:
    """The example IDs that a checkpoint carries. Raises FileFormatError when it has none."""
    stored: Any = checkpoint.extra.get("examples")
    try:
        return {
            name: torch.tensor(stored[name], dtype=torch.int64) for name in checkpoint.model.inputs
        }
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{folder}: the checkpoint's example IDs are damaged") from error
