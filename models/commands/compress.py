"""`ondevice compress`: find the best model within a budget of table bytes or of lost AUC."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from ondevice.atomic import atomic_path
from ondevice.converters import convert
from ondevice.converters.convert import TARGETS
from ondevice.converters.verify.report import report_text
from ondevice.errors import InputError, ParityError, SpecError, UnsupportedError
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.models.commands.convert import examples
from ondevice.models.commands.options import (
    add_data_options,
    described,
    open_source,
    source_of,
    use_threads,
)
from ondevice.models.commands.outputs import add_output_options, check_output
from ondevice.models.commands.runtimes import check_runtimes
from ondevice.models.recipe import Source
from ondevice.models.search.frontier import Frontier
from ondevice.models.search.run_trial import folder_of
from ondevice.models.search.search import Goal, Search
from ondevice.models.search.state import SearchState, read_state
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import TrialData, prepare
from ondevice.models.training.refit import Refit
from ondevice.text_table import size

EPILOG = """examples:
  ondevice compress --budget 20KB --out small
  ondevice compress --data ml1m --path ml-1m --ratio 100 --out small
  ondevice compress --data epinions --path epinions --max-auc-loss 0.002 --out small

Trains whole tables of 16, 4, 2 and 1 dimensions, finds for each which rows and bits of which field
cost the least AUC, then trains, writes and measures the most promising designs: how many values of
a field own a row, how many dimensions and bits it has, and what the other values read (one shared
row, hashed rows, or the rows of a binary code). Bytes are those of the tables in the written .odm
file, without the vocabulary that raw values need. Models are chosen by the validation split.

OUT gets the best model (model.odm, .onnx, .tflite, checkpoint), frontier.csv, frontier.png, and
trials/ with all that was trained: after Ctrl-C the same command continues there. A finished search
keeps its results; another one in that folder needs --force."""

# On epinions one dimension a value reaches 0.7476 with it (before the refit), 0.7431 with batches
# of 4096: rows of rare values need the steps.
TRAINING: dict[str, Any] = {"epochs": 10, "batch": 1024, "learning_rate": 2e-3}

# What a search writes into --out, beside trials/ and search.json.
RESULTS = (
    *("trials", "frontier.csv", "frontier.png"),
    *("model.odm", "model.onnx", "model.onnx.data", "model.tflite"),
)
End = Literal["finished", "out of time", "interrupted"]

UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "KIB": 1024, "MIB": 1024**2}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--budget", help="most bytes of all tables, such as 20KB or 1.5MiB")
    goal.add_argument("--ratio", type=float, help="tables this many times smaller")
    goal.add_argument("--max-auc-loss", type=float, help="validation AUC that may be lost")
    add_data_options(parser)
    add_output_options(parser, "folder for the results", required=True)
    parser.add_argument(
        "--trials", type=int, default=16, help="train at most this many models (default: 16)"
    )
    parser.add_argument("--minutes", type=float, help="start no trial after this time")
    parser.add_argument(
        "--round-epochs",
        type=int,
        default=0,
        help="so many last epochs of a trial train with tables as they will be stored (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all trials (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="threads for training (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the frontier to FILE too")


def run(args: argparse.Namespace) -> int:
    """Search, print the frontier, write the best model.

    Raises:
        InputError: results of something else are in --out, or it cannot be written.
        SpecError: a setting is wrong, or no trial meets the goal.
    """
    goal = Goal(
        None if args.budget is None else parse_size(args.budget), args.ratio, args.max_auc_loss
    )
    _check(args)
    check_runtimes(TARGETS)
    before = _earlier_search(args)
    use_threads(args)
    log = open_source(source_of(args, Source()))
    print(described(log))  # noqa: T201
    data = prepare(log)
    settings = _settings(args, goal, data)
    if before is not None and not args.force:
        if differences := before.differences(settings):
            raise InputError(
                f"--out {args.out}: it holds another search ({'; '.join(differences)}); choose "
                "another folder, or add --force, which uses its trials again where they fit"
            )
        if before.complete:
            return _say_finished(args, before)
    base = Trial({}, seed=args.seed, refit=Refit(), round_epochs=args.round_epochs, **TRAINING)
    search = Search(data, goal, args.out / "trials", base, trials=args.trials)
    replaced = before is not None and before.complete  # whose results stay until the end
    if not replaced:
        SearchState(settings).write(args.out)
    results, end = _results(search, args.minutes)
    frontier = Frontier(results[0], tuple(results))
    best = goal.choose(frontier)
    print(frontier.text())  # noqa: T201
    if end == "interrupted" or best is None:
        if not replaced:
            _write_frontier(args, frontier, best)
        if end == "interrupted":
            print("interrupted: the same command continues here", file=sys.stderr)  # noqa: T201
            return 130
        raise SpecError(_no_best(frontier))
    _write_model(data, best, args.out)
    _write_frontier(args, frontier, best)
    SearchState(settings, end == "finished", frontier.to_json(best)).write(args.out)
    return 0


def _earlier_search(args: argparse.Namespace) -> SearchState | None:
    """The search whose results are in --out; refuses results of anything else."""
    before = read_state(args.out)
    check_output(
        args.out,
        [args.out / name for name in RESULTS],
        force=args.force or before is not None,
        json=args.json,
        checkpoint=args.out / "checkpoint",
    )
    return before


def _settings(args: argparse.Namespace, goal: Goal, data: TrialData) -> dict[str, Any]:
    """What decides the results of a search, JSON-ready."""
    limits = {name: value for name, value in asdict(goal).items() if value is not None}
    return {
        **limits,
        "trials": args.trials,
        "seed": args.seed,
        "round_epochs": args.round_epochs,
        "data": data.digest.hex()[:16],
    }


def _say_finished(args: argparse.Namespace, state: SearchState) -> int:
    print(  # noqa: T201
        f"{args.out}: this search is finished and its results are kept; see "
        f"{args.out / 'frontier.csv'} (--force runs it again)"
    )
    if args.json is not None:
        with atomic_path(args.json) as temporary:
            text = json.dumps(state.frontier, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
    return 0


def _write_frontier(args: argparse.Namespace, frontier: Frontier, best: TrialResult | None) -> None:
    frontier.write_csv(args.out / "frontier.csv")
    frontier.write_plot(args.out / "frontier.png", best)
    if args.json:
        frontier.write_json(args.json, best)


def _no_best(frontier: Frontier) -> str:
    smallest = size(frontier.points[0].table_bytes)
    return (
        f"no trial meets the goal; the smallest tables take {smallest}, the best validation "
        f"AUC is {frontier.points[-1].validation_auc:.4f}"
    )


def parse_size(text: str) -> int:
    """Bytes of a size such as 20KB (1000) or 20KiB (1024). Raises SpecError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS:
        raise SpecError(f"expected a size such as 20KB or 1.5MiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _results(search: Search, minutes: float | None) -> tuple[list[TrialResult], End]:
    """What the search measures, and how it ended. Raises KeyboardInterrupt."""
    started = time.monotonic()
    results: list[TrialResult] = []
    hidden = not sys.stderr.isatty()
    with tqdm(total=search.trials, unit="trial", disable=hidden) as bar:
        try:
            for result in search.run(bar.set_description):
                results.append(result)
                bar.update()
                if minutes and time.monotonic() - started > 60 * minutes:
                    return results, "out of time"
        except KeyboardInterrupt:
            if not results:
                raise
            return results, "interrupted"
    return results, "finished"


def _write_model(data: TrialData, best: TrialResult, out: Path) -> None:
    """The best model in all targets, and its checkpoint."""
    folder = folder_of(data, best.trial, out / "trials") / "checkpoint"
    checkpoint = load_checkpoint(folder)
    probe = examples(checkpoint, folder)
    save_checkpoint(
        out / "checkpoint",
        checkpoint.model,
        checkpoint.features,
        checkpoint.extra,
        counts=checkpoint.counts,
    )
    settings: dict[str, Any] = {"tables": best.trial.codecs, "features": checkpoint.features}
    try:
        report = convert(checkpoint.model, (probe,), out, **settings)
    except (UnsupportedError, ParityError) as error:
        print(f"only model.odm is written: {error}", file=sys.stderr)  # noqa: T201
        report = convert(checkpoint.model, (probe,), out, targets=("odm",), **settings)
        for name in ("model.onnx", "model.onnx.data", "model.tflite"):  # of an earlier search
            (out / name).unlink(missing_ok=True)
    print(f"\nbest: {size(best.table_bytes)} of tables, test AUC {best.test_auc:.4f}")  # noqa: T201
    print(report_text(report))  # noqa: T201


def _check(args: argparse.Namespace) -> None:
    faults = []
    if args.trials < 1:
        faults.append(f"trials must be at least 1, got {args.trials}")
    if args.minutes is not None and not args.minutes > 0:
        faults.append(f"minutes must be positive, got {args.minutes}")
    if faults:
        raise SpecError("compress: " + "; ".join(faults))
