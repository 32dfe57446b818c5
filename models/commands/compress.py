"""`ondevice compress`: find the best model within a budget of bytes or of lost AUC."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ondevice.commands.json_output import add_json_option, write_json
from ondevice.converters.convert import TARGETS
from ondevice.errors import ParityError, SpecError, UnsupportedError
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.models.commands.convert import examples
from ondevice.models.commands.options import (
    add_data_options,
    described,
    open_source,
    source_of,
    use_threads,
)
from ondevice.models.commands.outputs import add_output_options, check_json, check_writable
from ondevice.models.commands.runtimes import check_runtimes
from ondevice.models.commands.search_progress import SearchProgress
from ondevice.models.recipe import Source
from ondevice.models.search.frontier import Frontier
from ondevice.models.search.frontier_plot import write_plot
from ondevice.models.search.goal import Goal, parse_goal
from ondevice.models.search.outlook import outlook
from ondevice.models.search.run_trial import folder_of, write_files
from ondevice.models.search.search import Search
from ondevice.models.search.state import SearchFolder, SearchState, folder_of_search
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import TrialData, prepare
from ondevice.models.training.refit import Refit
from ondevice.publish import publishing
from ondevice.temporary import sweep_tree
from ondevice.text_table import size

EPILOG = """examples:
  ondevice compress --budget 200KB --out small
  ondevice compress --budget onnx:200KB --out small
  ondevice compress --budget tables:20KB --out small
  ondevice compress --data ml1m --path ml-1m --ratio 100 --out small
  ondevice compress --data epinions --path epinions --max-auc-loss file:0.002 --out small

--budget counts the whole .odm file: tables, the map from raw values to rows, network, test vectors
and the rest of the header; with onnx: or tflite: that file (an .onnx file with its external data);
with tables: only the embedding tables, as --ratio and --max-auc-loss do without file:, onnx: or
tflite:.

Trains whole tables of 16, 4, 2 and 1 dimensions, finds for each which rows and bits of which field
cost the least AUC, then trains, writes and measures the most promising designs: how many values of
a field own a row, how many dimensions and bits it has, what the other values read (one shared row,
hashed rows, or the rows of a binary code), whether frequent values get more bits than rare ones,
whether all values share rows by their hashes or by codes of their places, and, where the file
counts, whether rows are found by a vocabulary or in hashed cells, and how many units the network
has. The best one is trained again, taught by four full models. A model that misses its size gets
fewer or more rows and is fitted again. Models are chosen by the validation split.

OUT/trials has all that was trained, for every search in OUT to use. Each search has its folder in
OUT, named by its goal, such as OUT/file-200000B: the best model (model.odm, .onnx, .tflite,
checkpoint), frontier.csv and frontier.png. After Ctrl-C the same command continues. A search with
another goal, seed, number of trials or log gets another folder, so none replaces another's
results; the same one again says where they are (--force runs it again)."""

# On epinions one dimension a value reaches 0.7476 with it (before the refit), 0.7431 with batches
# of 4096: rows of rare values need the steps.
TRAINING: dict[str, Any] = {"epochs": 10, "batch": 1024, "learning_rate": 2e-3}
End = Literal["finished", "out of time", "interrupted"]
OTHER_FILES = ("model.onnx", "model.onnx.data", "model.tflite")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument(
        "--budget",
        help="most bytes of the .odm file, such as 200KB, of another file that ships, "
        "onnx:200KB or tflite:200KB, or of tables, tables:20KB",
    )
    goal.add_argument("--ratio", help="tables (file:10: the file) this many times smaller")
    goal.add_argument(
        "--max-auc-loss",
        help="validation AUC that may be lost for the smallest tables (file:0.002: smallest file)",
    )
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
    add_json_option(parser, "the frontier")


def run(args: argparse.Namespace) -> int:
    """Search, print the frontier, write the best model.

    Raises:
        InputError: --out cannot be written.
        SpecError: a setting is wrong, or no trial meets the goal.
    """
    goal = parse_goal(args.budget, args.ratio, args.max_auc_loss)
    _check(args)
    check_runtimes(TARGETS)
    check_writable("--out", args.out)
    check_json(args.json)
    use_threads(args)
    log = open_source(source_of(args, Source()))
    print(described(log))  # noqa: T201
    data = prepare(log)
    settings = _settings(args, goal, data)
    folder = folder_of_search(args.out, goal.name, settings)
    before = folder.before
    for place in (args.out / "trials", folder.path):
        sweep_tree(place)  # what is finished is not written again, and so not swept by a writer
    if before is not None and before.complete and not args.force:
        return _say_finished(args, folder.path, before)
    for other in folder.others:
        print(f"another search of this goal stays as it is: {other}")  # noqa: T201
    base = Trial({}, seed=args.seed, refit=Refit(), round_epochs=args.round_epochs, **TRAINING)
    search = Search(data, goal, args.out / "trials", base, trials=args.trials)
    if before is None or not before.complete:  # complete results stay until the new ones are there
        SearchState(settings).write(folder.path)
    results, end = _results(search, args.minutes)
    frontier = Frontier(results[0], tuple(results), goal.measure)
    return _end(args, search, frontier, end, folder, SearchState(settings, end == "finished"))


def _end(
    args: argparse.Namespace,
    search: Search,
    frontier: Frontier,
    end: End,
    folder: SearchFolder,
    state: SearchState,
) -> int:
    """Print and write what a search has measured; the exit code.

    Raises:
        SpecError: no trial meets the goal.
    """
    best = search.goal.choose(frontier)
    print(frontier.text(best))  # noqa: T201
    if end == "interrupted" or best is None:
        if folder.before is None or not folder.before.complete:
            _write_frontier(args, search.goal, frontier, best, folder.path)
        if end == "interrupted":
            print("interrupted: the same command continues here", file=sys.stderr)  # noqa: T201
            return 130
        raise SpecError(_no_best(search, frontier))
    print("writing the best model for all runtimes, and verifying it", file=sys.stderr)  # noqa: T201
    report = _write_model(search.data, best, args.out / "trials", folder.path)
    _write_frontier(args, search.goal, frontier, best, folder.path)
    replaced = SearchState(state.settings, state.complete, frontier.to_json(best))
    replaced.write(folder.path)
    print(f"\n{_best_words(frontier, best)}\n\n{report}\n")  # noqa: T201
    if end == "out of time":
        print(f"out of time after {len(frontier.results)} models; the same command continues")  # noqa: T201
    for line in outlook(search.goal, frontier, best, search.left, end == "finished"):
        print(line)  # noqa: T201
    print(f"results: {folder.path} (frontier.csv, frontier.png, model.odm, checkpoint)")  # noqa: T201
    return 0


def _settings(args: argparse.Namespace, goal: Goal, data: TrialData) -> dict[str, Any]:
    """What decides the results of a search, JSON-ready."""
    limits = {name: value for name, value in asdict(goal).items() if value is not None}
    if goal.ships == "odm":  # searches of releases that knew no other file
        del limits["ships"]
    return {
        **limits,
        "trials": args.trials,
        "seed": args.seed,
        "round_epochs": args.round_epochs,
        "data": data.digest.hex()[:16],
    }


def _say_finished(args: argparse.Namespace, folder: Path, state: SearchState) -> int:
    print(  # noqa: T201
        f"{folder}: this search is finished and its results are kept; see "
        f"{folder / 'frontier.csv'} (--force runs it again)"
    )
    if args.json is not None:
        write_json(state.frontier, args.json)
    return 0


def _write_frontier(
    args: argparse.Namespace,
    goal: Goal,
    frontier: Frontier,
    best: TrialResult | None,
    folder: Path,
) -> None:
    frontier.write_csv(folder / "frontier.csv")
    write_plot(frontier, folder / "frontier.png", best, goal.most_bytes(frontier.reference))
    if args.json is not None:
        write_json(frontier.to_json(best), args.json)


def _no_best(search: Search, frontier: Frontier) -> str:
    """Why no trial meets the goal, and which goal could be met."""
    measure = frontier.measure
    what = "file takes" if measure == "file" else "tables take"
    smallest = min(result.bytes(measure) for result in frontier.results)
    highest = max(result.validation_auc for result in frontier.results)
    text = (
        f"no trial meets the goal; the smallest {what} {size(smallest)}, the best validation AUC "
        f"is {highest:.4f}"
    )
    most, least = search.goal.most_bytes(frontier.reference), search.least_bytes()
    if most is not None and least is not None and most < least:
        return f"{text}; nothing that the search knows takes less than about {size(least)}"
    if most is not None:
        return f"{text}; more --trials or --minutes may meet it"
    return text


def _best_words(frontier: Frontier, best: TrialResult) -> str:
    """The chosen model in a line."""
    return (
        f"best: a file of {size(best.file_bytes)} (tables {size(best.table_bytes)}, map "
        f"{size(best.map_bytes)}, network {size(best.network_bytes)}), test AUC "
        f"{best.test_auc:.4f}, {100 * frontier.share(best):.2f} +- "
        f"{100 * frontier.share_error(best):.2f} % of the full model's"
    )


def _results(search: Search, minutes: float | None) -> tuple[list[TrialResult], End]:
    """What the search measures, and how it ended. Raises KeyboardInterrupt."""
    started = time.monotonic()
    results: list[TrialResult] = []
    progress = SearchProgress(search, minutes)
    try:
        for result in search.run(progress.note):
            results.append(result)
            progress.measured(result)
            if minutes and time.monotonic() - started > 60 * minutes:
                return results, "out of time"
    except KeyboardInterrupt:
        if not results:
            raise
        return results, "interrupted"
    return results, "finished"


def _write_model(data: TrialData, best: TrialResult, trials: Path, out: Path) -> str:
    """Write the best model in all targets, and its checkpoint; the report on the files."""
    folder = folder_of(data, best.trial, trials) / "checkpoint"
    checkpoint = load_checkpoint(folder)
    probe = examples(checkpoint, folder)
    save_checkpoint(
        out / "checkpoint",
        checkpoint.model,
        checkpoint.features,
        checkpoint.extra,
        counts=checkpoint.counts,
    )
    model, features, trial = checkpoint.model, checkpoint.features, best.trial
    ids = {name: values.numpy() for name, values in probe.items()}
    try:
        report = write_files(model, features, ids, trial, out)
    except (UnsupportedError, ParityError) as error:
        print(f"only model.odm is written: {error}", file=sys.stderr)  # noqa: T201
        with publishing(out, removed=OTHER_FILES, with_manifest=True):  # of the run before
            pass
        report = write_files(model, features, ids, trial, out, ("odm",))
    return str(report)


def _check(args: argparse.Namespace) -> None:
    faults = []
    if args.trials < 1:
        faults.append(f"trials must be at least 1, got {args.trials}")
    if args.minutes is not None and not args.minutes > 0:
        faults.append(f"minutes must be positive, got {args.minutes}")
    if faults:
        raise SpecError("compress: " + "; ".join(faults))
