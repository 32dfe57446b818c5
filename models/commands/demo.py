"""`ondevice demo`: the whole path on one screen: train, compress, convert, run, measure."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.atomic import atomic_path
from ondevice.bench import bench
from ondevice.codecs import CODECS
from ondevice.converters import ConversionReport, convert
from ondevice.inspection import inspect
from ondevice.measure import Measurement
from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.commands.convert import report_text
from ondevice.models.commands.options import (
    add_data_options,
    add_training_options,
    described,
    open_source,
    recipe_of,
    use_threads,
)
from ondevice.models.experiment import (
    Trained,
    checkpoint_extra,
    example_ids,
    train_compressed,
    train_full,
)
from ondevice.models.log import ClickLog
from ondevice.text_table import size, table

EPILOG = """examples:
  ondevice demo
  ondevice demo --data ml1m --path ml-1m --out demo-ml1m

Trains an uncompressed float32 reference and a model with binary-code hash embeddings and adaptive
masks, converts the latter to .odm, .onnx and .tflite, runs each file in its engine over the test
split, measures it, and prints one table."""

SCORE_BATCH = 8192


@dataclass(frozen=True)
class Scored:
    """One model file: bytes of its tables, its AUC on the test split, its measurement."""

    target: str
    table_bytes: int
    auc: float
    max_difference: float
    measurement: Measurement


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_data_options(parser)
    add_training_options(parser)
    parser.add_argument(
        "--tables", choices=CODECS, default="q4", help="codec of the tables (default: q4)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder (default: demo-out)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="measuring time per batch size (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Run all stations and print the table."""
    started = time.monotonic()
    use_threads(args)
    recipe = recipe_of(args)
    experiment = recipe.experiment
    log = open_source(recipe.source)
    _say(started, described(log))
    full = train_full(log, experiment)
    _say(
        started,
        f"uncompressed float32 model: test AUC {full.test.auc:.4f}, {size(full.parameter_bytes)}",
    )
    small = train_compressed(log, experiment)
    _say(started, f"compressed model: test AUC {small.test.auc:.4f}\n{_tables_text(small)}")
    args.out.mkdir(parents=True, exist_ok=True)
    features = small.splits.train.features
    save_checkpoint(args.out / "checkpoint", small.model, features, checkpoint_extra(small, log))
    examples = {name: torch.from_numpy(ids) for name, ids in example_ids(small.splits.test).items()}
    report = convert(small.model, (examples,), args.out, tables=args.tables, features=features)
    _say(started, f"converted and verified:\n{report_text(report)}")
    scored = [_scored(target, report, small.splits.test, args.seconds) for target in report.targets]
    _say(started, "measured every file in a process of its own, one thread\n")
    print(comparison(full, scored))  # noqa: T201
    _write_json(args.out / "demo.json", full, small, report, scored)
    model = args.out / "model.odm"
    print(  # noqa: T201
        f"\nfiles and all figures: {args.out}/ (demo.json)\n"
        f"next: ondevice inspect {model}; ondevice verify {model}; ondevice bench {model}"
    )
    return 0


def comparison(full: Trained, scored: list[Scored]) -> str:
    """The table: the float32 reference beside every file."""
    header = ["", "float32, torch", *(f"model.{item.target}" for item in scored)]
    sizes = [full.parameter_bytes, *(item.measurement.file_bytes for item in scored)]
    tables = [full.table_bytes, *(item.table_bytes for item in scored)]
    aucs = [full.test.auc, *(item.auc for item in scored)]
    rows = [
        ["engine", "-", *(item.measurement.runtime for item in scored)],
        ["size", *(size(count) for count in sizes)],
        ["times smaller", *(f"{sizes[0] / count:.1f}x" for count in sizes)],
        ["embedding tables", *(size(count) for count in tables)],
        ["tables, times smaller", *(f"{tables[0] / count:.1f}x" for count in tables)],
        ["test AUC", *(f"{auc:.4f}" for auc in aucs)],
        ["share of float32 AUC", *(f"{auc / aucs[0]:.2%}" for auc in aucs)],
        ["largest difference from torch", "-", *(f"{i.max_difference:.0e}" for i in scored)],
        ["load", "-", *(f"{item.measurement.load_us / 1000:.2f} ms" for item in scored)],
        ["memory (resident)", "-", *(_memory(item.measurement) for item in scored)],
    ]
    for number, latency in enumerate(scored[0].measurement.latencies):
        for name in ("p50", "p95", "p99"):
            values = [getattr(i.measurement.latencies[number], name) for i in scored]
            rows.append([f"batch {latency.batch} {name}", "-", *map(_microseconds, values)])
    return table(header, rows)


def _scored(target: str, report: ConversionReport, test: ClickLog, seconds: float) -> Scored:
    item = report.targets[target]
    model = ondevice.load(item.path)
    scores = [
        model.predict({name: ids[start : start + SCORE_BATCH] for name, ids in test.ids.items()})
        for start in range(0, len(test), SCORE_BATCH)
    ]
    auc = float(roc_auc_score(test.labels, np.concatenate(scores)))
    tables = sum(table.total for table in inspect(item.path).tables)
    return Scored(target, tables, auc, item.max_difference, bench(item.path, seconds=seconds))


def _tables_text(trained: Trained) -> str:
    header = ("field", "scheme", "rows", "rows per ID", "kept of dim")
    rows = []
    for name in trained.model.fields:
        embedding = trained.model.embedding(name)
        spec = embedding.spec
        kept = spec.row_dim if embedding.mask is None else embedding.mask.widths().float().mean()
        cells = (spec.scheme, str(spec.rows), str(spec.rows_per_id), f"{kept:.1f} of {spec.dim}")
        rows.append((name, *cells))
    return table(header, rows)


def _memory(measurement: Measurement) -> str:
    return "-" if measurement.memory is None else size(measurement.memory["rss"])


def _microseconds(value: float) -> str:
    return f"{value:.1f} us" if value < 10 else f"{value:.0f} us"


def _say(started: float, text: str) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)  # noqa: T201


def _write_json(
    path: Path, full: Trained, small: Trained, report: ConversionReport, scored: list[Scored]
) -> None:
    data = {
        "float32": {"bytes": full.parameter_bytes, "test": asdict(full.test)},
        "compressed": {"bytes": small.parameter_bytes, "test": asdict(small.test)},
        "conversion": report.to_json(),
        "files": [asdict(item) for item in scored],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
