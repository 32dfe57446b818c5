"""`ondevice compress`: find the best model within a budget of table bytes or of lost AUC."""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from ondevice.atomic import atomic_path
from ondevice.converters import convert
from ondevice.converters.report import report_text
from ondevice.errors import SpecError
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.models.commands.convert import examples
from ondevice.models.commands.options import (
    add_data_options,
    described,
    open_source,
    source_of,
    use_threads,
)
from ondevice.models.compression import TrialResult, folder_of, frontier, ladder, run_trial
from ondevice.models.recipe import Source
from ondevice.text_table import size, table

EPILOG = """examples:
  ondevice compress --budget 20KB --out small
  ondevice compress --data ml1m --path ml-1m --ratio 100 --out small

Trains a reference with whole float32 tables, then tables of 1, 2 and 4 dimensions in 4 bits where
values seen less often than a threshold share one row per field. Bytes are those of the tables in
the written .odm file, without the vocabulary that raw values need. Models are chosen by the
validation split. Finished trials stay in OUT/trials: the same command continues after Ctrl-C."""

UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "KIB": 1024, "MIB": 1024**2}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--budget", help="most bytes of all tables, such as 20KB or 1.5MiB")
    goal.add_argument("--ratio", type=float, help="tables this many times smaller")
    goal.add_argument("--max-auc-loss", type=float, help="validation AUC that may be lost")
    add_data_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--trials", type=int, help="at most this many trials, the reference first")
    parser.add_argument("--minutes", type=float, help="start no trial after this time")
    parser.add_argument(
        "--round-epochs",
        type=int,
        default=0,
        help="so many last epochs of a trial train with tables rounded to its codec (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all trials (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads for training (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the frontier to FILE too")


def run(args: argparse.Namespace) -> int:
    """Run the trials, print the frontier, write the best model."""
    budget = None if args.budget is None else parse_size(args.budget)
    _check(args)
    use_threads(args)
    log = open_source(source_of(args, Source()))
    print(described(log))  # noqa: T201
    planned = ladder(args.seed, args.round_epochs)[: args.trials]
    started = time.monotonic()
    results: list[TrialResult] = []
    try:
        for trial in tqdm(planned, desc="trials", disable=not sys.stderr.isatty()):
            if results and args.minutes and time.monotonic() - started > 60 * args.minutes:
                break
            results.append(run_trial(log, trial, args.out / "trials", progress=False))
    except KeyboardInterrupt:
        if not results:
            raise
        print("interrupted: the same command continues here", file=sys.stderr)  # noqa: T201
    points = frontier(results)
    reference = results[0]
    print(_text(points, reference))  # noqa: T201
    _write_csv(args.out / "frontier.csv", points, reference)
    best = choose(points, reference, budget, args.ratio, args.max_auc_loss)
    if args.json:
        _write_json(args.json, points, best)
    if best is None:
        smallest = size(points[0].table_bytes)
        raise SpecError(f"no trial meets the goal; the smallest tables take {smallest}")
    checkpoint_folder = folder_of(log, best.trial, args.out / "trials") / "checkpoint"
    checkpoint = load_checkpoint(checkpoint_folder)
    probe = examples(checkpoint, checkpoint_folder)
    save_checkpoint(
        args.out / "checkpoint", checkpoint.model, checkpoint.features, checkpoint.extra
    )
    report = convert(
        checkpoint.model,
        (probe,),
        args.out,
        tables=best.trial.codec,
        features=checkpoint.features,
    )
    print(f"\nbest: {size(best.table_bytes)} of tables, test AUC {best.test_auc:.4f}")  # noqa: T201
    print(report_text(report))  # noqa: T201
    return 0


def choose(
    points: list[TrialResult],
    reference: TrialResult,
    budget: int | None,
    ratio: float | None,
    loss: float | None,
) -> TrialResult | None:
    """The frontier point that meets the one goal given, or None.

    Of points within a budget or ratio the one of highest validation AUC; of those within a loss
    the smallest.
    """
    if loss is not None:
        lowest = reference.validation_auc - loss
        return next((point for point in points if point.validation_auc >= lowest), None)
    most = budget if budget is not None else reference.table_bytes / (ratio or 1)
    return next((point for point in reversed(points) if point.table_bytes <= most), None)


def parse_size(text: str) -> int:
    """Bytes of a size such as 20KB (1000) or 20KiB (1024). Raises SpecError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise SpecError(f"expected a size such as 20KB or 1.5MiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _check(args: argparse.Namespace) -> None:
    faults = []
    if args.trials is not None and args.trials < 1:
        faults.append(f"trials must be at least 1, got {args.trials}")
    if args.minutes is not None and not args.minutes > 0:
        faults.append(f"minutes must be positive, got {args.minutes}")
    if args.ratio is not None and not 1 <= args.ratio < math.inf:
        faults.append(f"ratio must be at least 1, got {args.ratio}")
    if args.max_auc_loss is not None and not 0 <= args.max_auc_loss < 1:
        faults.append(f"max-auc-loss must be 0 or more and below 1, got {args.max_auc_loss}")
    if faults:
        raise SpecError("compress: " + "; ".join(faults))


def _cells(point: TrialResult, reference: TrialResult) -> dict[str, str]:
    return {
        "dim": str(point.trial.dim),
        "min count": str(point.trial.min_count),
        "codec": point.trial.codec,
        "table bytes": str(point.table_bytes),
        "times smaller": f"{reference.table_bytes / point.table_bytes:.1f}",
        "vocabulary bytes": str(point.map_bytes),
        "validation AUC": f"{point.validation_auc:.5f}",
        "test AUC": f"{point.test_auc:.5f}",
    }


def _text(points: list[TrialResult], reference: TrialResult) -> str:
    rows = [_cells(point, reference) for point in points]
    return table(tuple(rows[0]), [tuple(row.values()) for row in rows])


def _write_csv(path: Path, points: list[TrialResult], reference: TrialResult) -> None:
    rows = [_cells(point, reference) for point in points]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, points: list[TrialResult], best: TrialResult | None) -> None:
    data = {
        "frontier": [asdict(point) for point in points],
        "best": None if best is None else asdict(best),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
