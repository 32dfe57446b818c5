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
from ondevice.bench.measure.plan import Plan
from ondevice.bench.measure.rounds import run_plan
from ondevice.bench.report import Report, Spread, write_report
from ondevice.bench.show.page import page
from ondevice.bench.show.tables import microseconds
from ondevice.bench.targets.local import LocalMachine
from ondevice.codecs import DENSE_CODECS
from ondevice.converters import ConversionReport, convert
from ondevice.converters.convert import TARGETS
from ondevice.errors import InputError, writing
from ondevice.inspection import FileParts
from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.click_log import ClickLog
from ondevice.models.commands.export_android import catalogue_of, synthetic_rows
from ondevice.models.commands.options import (
    add_data_options,
    add_training_options,
    described,
    open_source,
    recipe_of,
    use_threads,
)
from ondevice.models.commands.outputs import add_output_options, check_output
from ondevice.models.commands.runtimes import check_runtimes
from ondevice.models.commands.table_codecs import add_tables_option, tables_of
from ondevice.models.training.experiment import (
    Trained,
    checkpoint_extra,
    example_ids,
    history_in,
    train_compressed,
    train_full,
)
from ondevice.text_table import size, table
from ondevice.web.build import NoCompilerError
from ondevice.web.live import live_page

EPILOG = """examples:
  ondevice demo
  ondevice demo --data ml1m --path ml-1m --out demo-ml1m

Trains an uncompressed float32 reference and a model with binary-code hash embeddings and adaptive
masks, converts the latter to .odm, .onnx and .tflite, runs each file in its engine over the test
split, measures it, prints one table, and writes a page with all figures (bench.html)."""

SCORE_BATCH = 8192
# What tells that a folder's results are a demo's: a demo may replace those of an earlier one.
FINISHED, UNFINISHED = "demo.json", "demo.unfinished"
LIVE = "live.html"
CANDIDATES = 100  # on the live page
RESULTS = ("model.odm", "model.onnx", "model.tflite", "bench.json", "bench.html", LIVE)


@dataclass(frozen=True)
class Scored:
    """One model file: what its bytes are for, its AUC on the test split."""

    target: str
    path: str
    file_bytes: int
    parts: FileParts
    auc: float
    max_difference: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_data_options(parser)
    add_training_options(parser)
    add_tables_option(parser, "q4")
    parser.add_argument(
        "--dense",
        choices=DENSE_CODECS,
        default="f16",
        help="codec of the network's layers (default: f16)",
    )
    add_output_options(parser, "folder (default: demo-out)", default=Path("demo-out"))
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="measuring time per batch size (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Run all stations and print the table."""
    started = time.monotonic()
    _check_out(args)
    check_runtimes(TARGETS)
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
    _mark_unfinished(args.out)
    features = small.splits.train.features
    save_checkpoint(
        args.out / "checkpoint",
        small.model,
        features,
        checkpoint_extra(
            small, log, history=history_in(log, experiment), rounding=experiment.rounding
        ),
        counts=small.fitted.counts,
    )
    examples = {name: torch.from_numpy(ids) for name, ids in example_ids(small.splits.test).items()}
    report = convert(
        small.model,
        (examples,),
        args.out,
        tables=tables_of(args),
        dense=args.dense,
        features=features,
    )
    _say(started, f"converted and verified:\n{report}")
    scored = [_scored(target, report, small.splits.test) for target in report.targets]
    measured = _measured(scored, args.seconds)
    _say(started, "measured every file in processes of its own, one thread\n")
    print(comparison(full, scored, measured))  # noqa: T201
    write_report(measured, args.out / "bench.json")
    with atomic_path(args.out / "bench.html") as temporary:
        temporary.write_text(page([measured]), encoding="utf-8")
    _write_json(args.out / FINISHED, full, small, report, scored)
    with writing(args.out / UNFINISHED):
        (args.out / UNFINISHED).unlink(missing_ok=True)
    model = args.out / "model.odm"
    print(  # noqa: T201
        f"\nall measurements as a page: {(args.out / 'bench.html').resolve()}\n"
        f"{_live(args.out, small)}\n"
        f"files and all figures: {args.out}/ (demo.json, bench.json)\n"
        f"next: ondevice inspect {model}; ondevice verify {model}; ondevice bench {model}"
    )
    return 0


def _check_out(args: argparse.Namespace) -> None:
    """Refuse a folder whose results are of another command, before any training."""
    repeated = any((args.out / name).is_file() for name in (FINISHED, UNFINISHED))
    results = [args.out / name for name in RESULTS]
    force = args.force or repeated
    check_output(args.out, results, force=force, checkpoint=args.out / "checkpoint")


def _mark_unfinished(out: Path) -> None:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / FINISHED).exists():
            (out / UNFINISHED).touch()


def comparison(full: Trained, scored: list[Scored], measured: Report) -> str:
    """The table: the float32 reference beside every file, in the order of the report's models."""
    header = ["", "float32, torch", *(f"model.{item.target}" for item in scored)]
    sizes = [full.parameter_bytes, *(item.file_bytes for item in scored)]
    tables = [full.table_bytes, *(item.parts.tables for item in scored)]
    networks = [full.parameter_bytes - full.table_bytes, *(item.parts.network for item in scored)]
    rest = [item.parts.description + item.parts.vectors + item.parts.padding for item in scored]
    aucs = [full.test.auc, *(item.auc for item in scored)]
    rows = [
        ["engine", "-", *(item.runtime for item in measured.memories)],
        ["file", *(size(count) for count in sizes)],
        ["times smaller", *(f"{sizes[0] / count:.1f}x" for count in sizes)],
        ["  embedding tables", *(size(count) for count in tables)],
        ["  times smaller", *(f"{tables[0] / count:.1f}x" for count in tables)],
        ["  map of raw values", "-", *(size(item.parts.map) for item in scored)],
        ["  network", *(size(count) for count in networks)],
        ["  description, test vectors", "-", *(size(count) for count in rest)],
        ["test AUC", *(f"{auc:.4f}" for auc in aucs)],
        ["share of float32 AUC", *(f"{auc / aucs[0]:.2%}" for auc in aucs)],
        ["largest difference from torch", "-", *(f"{i.max_difference:.0e}" for i in scored)],
        ["load", "-", *(_p50(i.load_us, 1000, "ms") for i in measured.starts if i.is_warm)],
        [
            "memory (resident)",
            "-",
            *(_memory(item.growth.get("rss")) for item in measured.memories),
        ],
    ]
    warm = [item for item in measured.latencies if not item.gap_ms]
    for batch in dict.fromkeys(item.rows for item in warm):
        for name in ("p50", "p95", "p99"):
            times = [item.latency_us for item in warm if item.rows == batch]
            cells = ["-" if t is None else f"{microseconds(getattr(t, name))} us" for t in times]
            rows.append([f"batch {batch} {name}", "-", *cells])
    every = [item for item in measured.latencies if item.gap_ms and item.rows == 1]
    label = f"one row every {every[0].gap_ms:g} ms, p50"
    rows.append([label, "-", *(_p50(item.latency_us, 1, "us") for item in every)])
    return table(header, rows)


def _scored(target: str, report: ConversionReport, test: ClickLog) -> Scored:
    item = report.targets[target]
    model = ondevice.load(item.path)
    scores = []
    for start in range(0, len(test), SCORE_BATCH):
        rows = slice(start, start + SCORE_BATCH)
        score = model.predict({name: ids[rows] for name, ids in test.ids.items()})
        scores.append(score[model.outputs[0]] if isinstance(score, dict) else score)
    labels = test.labels.reshape(len(test), -1)[:, 0]
    auc = float(roc_auc_score(labels, np.concatenate(scores), sample_weight=test.weights))
    return Scored(target, str(item.path), item.bytes, item.parts, auc, item.max_difference)


def _measured(scored: list[Scored], seconds: float) -> Report:
    """Latency, load time and memory of every file; `seconds` a batch size."""
    plan = Plan(
        models=tuple(Path(item.path) for item in scored),
        seconds=seconds,
        profile=True,
        accuracy={Path(item.path).name: {"AUC": item.auc} for item in scored},
    )
    return run_plan(plan, LocalMachine())


def _live(out: Path, small: Trained) -> str:
    """Write the live page where that is possible, and say what came of it."""
    counts = {f"embeddings.{name}.weight": rows for name, rows in small.fitted.counts.items()}
    model = out / "model.odm"
    opened = ondevice.load(model)
    try:
        catalogue = catalogue_of(opened, *synthetic_rows(opened, 0, CANDIDATES))
    except InputError:  # another log, whose users and items have no names: the page draws some
        catalogue = None
    try:
        text = live_page(model, catalogue, counts)
    except NoCompilerError as error:
        return f"no live page ({LIVE}): it needs {error}"
    with atomic_path(out / LIVE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return f"the model in a page, ranking as you type: {(out / LIVE).resolve()}"


def _tables_text(trained: Trained) -> str:
    header = ("field", "scheme", "rows", "rows per ID", "kept of dim")
    rows = []
    for name in trained.model.fields:
        embedding = trained.model.embedding(name)
        spec = embedding.spec
        width = spec.row_dim if embedding.mask is None else embedding.mask.widths().float().mean()
        cells = (spec.kind, str(spec.rows), str(spec.rows_per_id), f"{width:.1f} of {spec.dim}")
        rows.append((name, *cells))
    return table(header, rows)


def _memory(spread: Spread | None) -> str:
    return "-" if spread is None else size(spread.p50)


def _p50(spread: Spread | None, scale: float, unit: str) -> str:
    return "-" if spread is None else f"{microseconds(spread.p50 / scale)} {unit}"


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
