"""The options that `train` and `demo` share, and what they become."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.models.data import DATASETS, HashedLog, cardinalities, open_log
from ondevice.models.designs import Design
from ondevice.models.experiment import Experiment
from ondevice.models.trainer import TrainConfig


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--data, --path, --columns, --max-rows."""
    parser.add_argument(
        "--data", choices=DATASETS, default="synthetic", help="data set (default: synthetic)"
    )
    parser.add_argument("--path", type=Path, help="file or folder of the data set")
    parser.add_argument(
        "--columns", type=Path, help="with --data csv: .toml or .json file that describes columns"
    )
    parser.add_argument("--max-rows", type=int, help="use only so many rows")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Sizes of the model and settings of the trainer."""
    default = Experiment()
    parser.add_argument(
        "--dim", type=int, default=default.design.dim, help="embedding width (default: %(default)s)"
    )
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        default=list(default.hidden),
        help="sizes of the hidden layers (default: 128 64)",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        default=default.design.ratio,
        help="values per embedding row in large fields (default: %(default)s)",
    )
    parser.add_argument(
        "--width-penalty",
        type=float,
        default=default.width_penalty,
        help="price of a kept dimension; larger keeps fewer (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=default.training.epochs,
        help="at most this many epochs (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=default.training.batch,
        help="impressions per step (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=default.training.learning_rate,
        help="Adam's step size (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")


def experiment_of(args: argparse.Namespace) -> Experiment:
    """The experiment that the options describe. Raises SpecError."""
    return Experiment(
        design=Design(dim=args.dim, ratio=args.ratio),
        hidden=tuple(args.hidden),
        width_penalty=args.width_penalty,
        training=TrainConfig(
            epochs=args.epochs,
            batch=args.batch,
            learning_rate=args.learning_rate,
            seed=args.seed,
        ),
    )


def open_log_of(args: argparse.Namespace) -> HashedLog:
    """The click log that the options name. Raises InputError, SpecError, DataError."""
    return open_log(args.data, args.path, description=args.columns, max_rows=args.max_rows)


def described(log: HashedLog) -> str:
    """One line: rows, click rate, values per field."""
    fields = ", ".join(f"{name} {count:,}" for name, count in cardinalities(log).items())
    best = "" if log.best_auc is None else f"; best reachable AUC {log.best_auc:.4f}"
    return (
        f"{log.name}: {len(log):,} impressions, {log.labels.mean():.1%} clicked{best}\n"
        f"  distinct values: {fields}"
    )
