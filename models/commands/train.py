"""`ondevice train`: train a click model on a click log and save a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ondevice.atomic import atomic_path
from ondevice.commands.json_output import add_json_option, write_json
from ondevice.errors import InputError
from ondevice.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ondevice.models.commands.options import (
    add_data_options,
    add_training_options,
    described,
    open_source,
    recipe_of,
    use_threads,
)
from ondevice.models.commands.outputs import add_output_options, check_output, check_writable
from ondevice.models.data import HashedLog
from ondevice.models.recipe import DEFAULT, Recipe, shipped_recipes
from ondevice.models.training.codec_scores import codec_scores, codec_text
from ondevice.models.training.continuation import (
    continue_training,
    history_of,
    rounding_of,
)
from ondevice.models.training.distributed import Ranks, joined_ranks
from ondevice.models.training.experiment import (
    Trained,
    checkpoint_extra,
    history_in,
    train_compressed,
    train_full,
)
from ondevice.models.training.metrics import Metrics
from ondevice.models.training.phases import phases_text
from ondevice.models.training.report_page import training_page
from ondevice.models.training.tracking import Tracker, tracking
from ondevice.models.training.training_report import check_keys, metrics_text, training_report
from ondevice.models.training.training_state import TrainingState, log_digest
from ondevice.text_table import size, table

EPILOG = """examples:
  ondevice train --list
  ondevice train deepfm --out checkpoint
  ondevice train din --data ml1m --path ml-1m --epochs 2 --out checkpoint
  ondevice train my.toml --out checkpoint
  ondevice train dnn --full --out uncompressed
  ondevice train --data log --path log/ --columns log.toml --gauc user --segment country \
    --report training.html --out checkpoint
  ondevice train dnn --widths frequency --keep 0.2 --round q4 --out checkpoint
  ondevice train --from checkpoint --data log --path log/dt=2026-10-13 --columns log.toml \
    --epochs 1 --out next
  torchrun --nproc-per-node 4 -m ondevice train deepfm --out checkpoint

A recipe is a TOML file that names the network, its tables, the training and the data; options
override it (docs/recipes.md). Fields with up to 1000 values keep a row per value; larger ones get
binary-code hash embeddings. Then adaptive masks learn how many dimensions each row keeps (other
ways: --widths). With --round q4 the last epochs train with tables rounded as that codec stores
them. Ctrl-C after the first epoch ends training and saves the best weights so far; the same command
with --resume goes on, also after a crash. Under torchrun all processes train one model
(docs/scale.md).

With --from, a trained model goes on with the days of --path: its network, tables and kept widths
stay, and values that are new get rows (docs/own_log.md#6-every-day)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "recipe",
        nargs="?",
        default=DEFAULT,
        help=f"a shipped recipe's name, or a .toml file (default: {DEFAULT})",
    )
    add_output_options(parser, "folder for the checkpoint")
    parser.add_argument("--list", action="store_true", help="list the shipped recipes and stop")
    add_data_options(parser)
    add_training_options(parser)
    parser.add_argument(
        "--full", action="store_true", help="train the uncompressed reference instead"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="CHECKPOINT",
        help="go on with this trained model, on new days",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where this command was interrupted or killed (its state is in a hidden folder "
        "beside --out); with nothing to go on from, start",
    )
    _add_report_options(parser)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    """What is measured beside the AUC, and where it is written."""
    parser.add_argument(
        "--gauc",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a field or other column of the log, such as the user: also give the mean of the AUCs "
        "within each of its values; may be repeated",
    )
    parser.add_argument(
        "--segment",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a field or other column of the log, such as the country: also give the metrics of "
        "each of its values; may be repeated",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write a page with learning curves, calibration, segments and what fields contribute",
    )
    parser.add_argument(
        "--log-to",
        metavar="TRACKER",
        help="also send the metrics of every epoch to tensorboard (or tensorboard:FOLDER, default "
        "runs) or to mlflow (or mlflow:EXPERIMENT), whose packages must be installed",
    )
    add_json_option(parser, "all metrics (docs/metrics.md)")


def run(args: argparse.Namespace) -> int:
    """Train, print the metrics, save."""
    if args.list:
        rows = [(name, recipe.about) for name, recipe in shipped_recipes().items()]
        print(table(("recipe", "what it is"), rows))  # noqa: T201
        return 0
    if args.out is None:
        raise InputError("give --out, the folder for the checkpoint")
    check_output(args.out, [], force=args.force, checkpoint=args.out, json=args.json)
    if args.report is not None:
        check_writable("--report", args.report.parent)
    if args.start is not None:
        _check_start(args)
    _check_state(args)
    use_threads(args)
    recipe = recipe_of(args, args.recipe)
    with joined_ranks() as ranks:
        heard = args.log_to if ranks.is_first else None
        with tracking(heard, recipe.name, asdict(recipe.experiment)) as tracker:
            if args.resume and ranks.world > 1:
                raise InputError("--resume: training by several processes saves no state")
            log, result = _train(args, recipe, ranks, tracker)
            if ranks.is_first:
                tracker.on_test(result.trained.by_label)
                _save(args, recipe, log, result)
    return 0


def _train(
    args: argparse.Namespace, recipe: Recipe, ranks: Ranks, tracker: Tracker
) -> tuple[HashedLog, _Result]:
    """Read the log and train a recipe on it; the tracker hears of every epoch."""
    checkpoint = None if args.start is None else load_checkpoint(args.start)
    keys = (*recipe.source.keys, *args.gauc, *args.segment)
    source = replace(recipe.source, keys=keys)
    if source.cache is None:
        log = open_source(source)
    else:  # one rank of each host reads for the others
        log = ranks.leader_first(lambda: open_source(source))
    check_keys(log, [*args.gauc, *args.segment])
    if ranks.is_first:
        print(described(log))  # noqa: T201
    state = None if ranks.world > 1 else _state(args, recipe, log, checkpoint)
    if checkpoint is None:
        return log, _from_scratch(args, recipe, log, tracker, state)
    return log, _continued(checkpoint, recipe, log, tracker, state)


def _save(args: argparse.Namespace, recipe: Recipe, log: HashedLog, result: _Result) -> None:
    """Save the checkpoint and reports, and print what the model is worth. Raises OutputError."""
    trained, before = result.trained, result.before
    report = training_report(
        trained,
        log,
        recipe.name,
        gauc=args.gauc,
        segments=args.segment,
        importance=args.json is not None or args.report is not None,
    )
    if args.report is not None:
        with atomic_path(args.report) as temporary:
            temporary.write_text(training_page(report), encoding="utf-8")
    if args.json is not None:
        data = report.to_json()
        if before:
            data["before"] = {name: asdict(item) for name, item in before.items()}
        write_json(data, args.json)
    scores = codec_scores(trained.model, trained.splits.test)
    extra = result.extra | {"codecs": [asdict(score) for score in scores]}
    features = trained.splits.train.features
    save_checkpoint(args.out, trained.model, features, extra, counts=trained.fitted.counts)
    if before:
        print(_change(result))  # noqa: T201
    print(  # noqa: T201
        f"{recipe.name}: {_summary(trained.by_label)} after {trained.epochs} epochs; "
        f"{size(trained.parameter_bytes)} of float32 parameters\n{metrics_text(report)}\n\n"
        f"{phases_text(trained.fitted)}\n\n{codec_text(scores)}\n"
    )
    if trained.fitted.interrupted:
        text = "interrupted: these are the best weights so far; to go on, add --resume --force"
        print(text, file=sys.stderr)  # noqa: T201
    print(f"saved in {args.out}; next: ondevice convert {args.out} --out DIR")  # noqa: T201
    if not trained.fitted.interrupted:
        TrainingState.remove(_state_folder(args.out))


@dataclass(frozen=True)
class _Result:
    """A training, what its checkpoint says of it, and of a continued one what was before."""

    trained: Trained
    extra: dict[str, Any]
    before: Mapping[str, Metrics] = field(default_factory=dict)
    added: Mapping[str, int] = field(default_factory=dict)


def _state_folder(out: Path) -> Path:
    """Where the state of an unfinished training is."""
    absolute = out.absolute()
    return absolute.parent / f".{absolute.name}.training"


def _check_state(args: argparse.Namespace) -> None:
    """Refuse to drop an unfinished training unasked. Raises InputError."""
    folder = _state_folder(args.out)
    if TrainingState.exists(folder) and not args.resume and not args.force:
        raise InputError(
            f"--out {args.out}: an earlier run was not finished, its state is in {folder}; add "
            "--resume to go on, or --force to start anew"
        )


def _state(
    args: argparse.Namespace, recipe: Recipe, log: HashedLog, checkpoint: Checkpoint | None
) -> TrainingState:
    """The state that this run goes on from, or an empty one. Raises InputError, FileFormatError."""
    folder = _state_folder(args.out)
    settings = {
        "experiment": asdict(recipe.experiment),
        "compressed": recipe.compress and not args.full,
        "from": None if checkpoint is None else checkpoint.weights_sha256,
        "threads": args.threads,
        "torch": torch.__version__,
        "data": log_digest(log),
    }
    if not args.resume:
        TrainingState.remove(folder)
        return TrainingState(folder, settings)
    state = TrainingState(folder, settings)
    begun = TrainingState.exists(folder)
    text = f"going on from {folder}" if begun else "nothing to go on from: a new training starts"
    print(text, file=sys.stderr)  # noqa: T201
    return state


def _from_scratch(
    args: argparse.Namespace,
    recipe: Recipe,
    log: HashedLog,
    tracker: Tracker,
    state: TrainingState | None,
) -> _Result:
    """Train a new model."""
    compressed = recipe.compress and not args.full
    train = train_compressed if compressed else train_full
    experiment = recipe.experiment
    teachers = None
    if experiment.distillation is not None and state is not None:
        state.write_settings()  # teachers are worth going on from
        cache = recipe.source.cache
        teachers = state.folder if cache is None else Path(cache)
    trained = train(
        log,
        experiment,
        on_epoch=tracker.on_epoch,
        state=state,
        teachers=teachers,
        note=lambda text: print(text, file=sys.stderr),  # noqa: T201
    )
    rounding = experiment.rounding if compressed else None
    history = history_in(log, experiment)
    return _Result(trained, checkpoint_extra(trained, log, history=history, rounding=rounding))


def _continued(
    checkpoint: Checkpoint,
    recipe: Recipe,
    log: HashedLog,
    tracker: Tracker,
    state: TrainingState | None,
) -> _Result:
    """Train the model of a checkpoint on."""
    asked = history_in(log, recipe.experiment) if checkpoint.model.histories else None
    history = history_of(checkpoint, asked)
    rounding = rounding_of(checkpoint, recipe.experiment.rounding)
    continued = continue_training(
        checkpoint,
        log,
        recipe.experiment.training,
        rounding=rounding,
        history=history,
        on_epoch=tracker.on_epoch,
        state=state,
    )
    extra = checkpoint_extra(continued.trained, log, history=history, rounding=rounding)
    extra["continues"] = {
        "weights_sha256": checkpoint.weights_sha256,
        "test_before": {name: asdict(item) for name, item in continued.before.items()},
        "rows_added": continued.added,
    }
    return _Result(continued.trained, extra, continued.before, continued.added)


def _check_start(args: argparse.Namespace) -> None:
    """Refuse options that a trained model leaves no choice of. Raises InputError."""
    settled = (
        *("full", "dim", "ratio", "scheme", "hidden"),
        *("widths", "keep", "width_penalty", "raise_penalty", "refit", "distil"),
    )
    given = [name for name in settled if getattr(args, name) not in (None, False)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"--from {args.start}: its network, tables and kept widths stay as they are; leave out "
            f"{options}"
        )


def _change(result: _Result) -> str:
    """What the new days changed: rows that were added, and the metrics before."""
    added = ", ".join(f"{name} {count:,}" for name, count in result.added.items())
    return f"rows for new values: {added or 'none'}\nbefore: {_summary(result.before)}"


def _summary(by_label: Mapping[str, Metrics]) -> str:
    """The test metrics of each label, and which log they are of."""
    several = len(by_label) > 1
    texts = [
        f"{f'{name}: ' if several else ''}test AUC {item.auc:.4f}, log loss {item.logloss:.4f}"
        f"{' (of the log before its negatives were sampled)' if item.unsampled else ''}"
        for name, item in by_label.items()
    ]
    return "; ".join(texts)
