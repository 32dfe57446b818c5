"""The options that `train` and `demo` share, and what they become."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ondevice.codecs import CODECS
from ondevice.errors import SpecError
from ondevice.models.data import DATASETS, HashedLog, cardinalities, open_log
from ondevice.models.designs import SHARINGS
from ondevice.models.layers.rounding import Rounding
from ondevice.models.recipe import DEFAULT, Recipe, Source, open_recipe
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.experiment import Experiment
from ondevice.models.training.refit import Refit
from ondevice.models.training.widths import METHODS


def add_data_options(
    parser: argparse.ArgumentParser, help: str = "data set (default: the recipe's, else synthetic)"
) -> None:
    """--data, which `help` explains, --path, --columns and what else says how a log is read."""
    parser.add_argument("--data", choices=DATASETS, help=help)
    parser.add_argument(
        "--path", nargs="+", help="the data set's file or folder; of a log files, folders, globs"
    )
    parser.add_argument(
        "--columns", type=Path, help="with --data log: .toml or .json file that describes columns"
    )
    parser.add_argument(
        "--where", help="with --data log: which folders, for example 'dt >= 2026-10-01'"
    )
    parser.add_argument(
        "--split",
        help="with --data log: random, time, folders or hash:COLUMN (default: the description's, "
        "else time where the log has one, else random)",
    )
    parser.add_argument(
        "--bad-rows", help="with --data log: skip:N leaves out up to N rows that cannot be read"
    )
    parser.add_argument(
        "--cache", help="with --data log: folder that keeps the encoded log for the next run"
    )
    parser.add_argument("--max-rows", type=int, help="use only so many rows")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Sizes of the model and settings of the trainer; defaults are the recipe's."""
    base = Experiment()
    hidden = " ".join(map(str, base.network.hidden))
    for flag, kind, default, text in (
        ("--dim", int, base.design.dim, "embedding width"),
        ("--ratio", float, base.design.ratio, "values per embedding row in large fields"),
        ("--keep", float, base.widths.keep, "share of the dimensions frequency and prune keep"),
        (
            "--width-penalty",
            float,
            base.widths.penalty,
            "amtl's price of a kept dimension; larger keeps fewer",
        ),
        ("--epochs", int, base.training.epochs, "at most this many epochs"),
        ("--batch", int, base.training.batch, "impressions per step"),
        ("--learning-rate", float, base.training.learning_rate, "Adam's step size"),
        ("--patience", int, base.training.patience, "stop after so many epochs without a gain"),
        ("--seed", int, base.training.seed, "seed of the training"),
    ):
        parser.add_argument(flag, type=kind, help=f"{text} (default: the recipe's, else {default})")
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        help=f"sizes of the hidden layers (default: the recipe's, else {hidden})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads for training (default: 1; a small model gains little from more)",
    )
    _add_compression_options(parser, base)


def _add_compression_options(parser: argparse.ArgumentParser, base: Experiment) -> None:
    """How tables are compressed; defaults are the recipe's."""
    parser.add_argument(
        "--scheme",
        choices=SHARINGS,
        help="how values of large fields share rows "
        f"(default: the recipe's, else {base.design.scheme})",
    )
    parser.add_argument(
        "--widths",
        choices=METHODS,
        help=f"how kept widths are found (default: the recipe's, else {base.widths.method})",
    )
    parser.add_argument(
        "--raise-penalty",
        action="store_true",
        help="amtl: try higher prices of a dimension first, and take the highest whose model "
        "validates as well as the whole one (default: the recipe's)",
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="then fit the rows on, under a prior, with the network fixed (default: the recipe's)",
    )
    parser.add_argument(
        "--distil",
        action="store_true",
        help="learn from cross-fitted full models too, which are trained first: "
        f"{Distillation().teachers} of them (default: the recipe's [distillation])",
    )
    parser.add_argument(
        "--round",
        choices=CODECS,
        help="train the last epochs with tables rounded to this codec (default: the recipe's)",
    )


def use_threads(args: argparse.Namespace) -> None:
    """Give torch its threads; the result then does not depend on the machine's core count.

    Raises:
        SpecError: less than one thread.
    """
    if args.threads < 1:
        raise SpecError(f"threads must be at least 1, got {args.threads}")
    torch.set_num_threads(args.threads)


def recipe_of(args: argparse.Namespace, name: str = DEFAULT) -> Recipe:
    """The recipe `name`, overridden by the options that were given.

    Raises:
        InputError: there is no such recipe.
        SpecError: a setting is wrong.
    """
    recipe = open_recipe(name)
    experiment = recipe.experiment
    experiment = replace(
        experiment,
        design=replace(
            experiment.design, **_without_none(dim=args.dim, ratio=args.ratio, scheme=args.scheme)
        ),
        network=replace(
            experiment.network, **_without_none(hidden=args.hidden and tuple(args.hidden))
        ),
        training=replace(
            experiment.training,
            **_without_none(
                epochs=args.epochs,
                batch=args.batch,
                learning_rate=args.learning_rate,
                patience=args.patience,
                seed=args.seed,
            ),
        ),
        widths=replace(
            experiment.widths,
            **_without_none(
                method=args.widths,
                keep=args.keep,
                penalty=args.width_penalty,
                raise_penalty=args.raise_penalty or None,
            ),
        ),
    )
    if args.refit and experiment.refit is None:
        experiment = replace(experiment, refit=Refit())
    if args.distil and experiment.distillation is None:
        experiment = replace(experiment, distillation=Distillation())
    if args.round is not None:
        rounding = replace(experiment.rounding or Rounding(), codec=args.round)
        experiment = replace(experiment, rounding=rounding)
    return replace(recipe, experiment=experiment, source=source_of(args, recipe.source))


def source_of(args: argparse.Namespace, base: Source) -> Source:
    """The data set `base`, overridden by the data options that were given. Raises SpecError."""
    if args.data is not None and args.data != base.name:
        base = Source(name=args.data, max_rows=base.max_rows)
    overrides = _without_none(
        path=args.path and tuple(args.path),
        columns=args.columns and str(args.columns),
        where=args.where,
        split=args.split,
        bad_rows=args.bad_rows,
        cache=args.cache,
        max_rows=args.max_rows,
    )
    return replace(base, **overrides)


def _without_none(**options: Any) -> dict[str, Any]:
    """The options that the command line gives."""
    return {name: value for name, value in options.items() if value is not None}


def open_source(source: Source) -> HashedLog:
    """The click log that a source names. Raises InputError, SpecError, DataError."""
    return open_log(
        source.name,
        source.path or None,
        columns=None if source.columns is None else Path(source.columns),
        where=source.where,
        split=source.split,
        bad_rows=source.bad_rows,
        cache=None if source.cache is None else Path(source.cache),
        max_rows=source.max_rows,
        keys=source.keys,
    )


def described(log: HashedLog) -> str:
    """One line: rows, click rate, values per field."""
    fields = ", ".join(f"{name} {count:,}" for name, count in cardinalities(log).items())
    best = "" if log.best_auc is None else f"; best reachable AUC {log.best_auc:.4f}"
    labels = log.labels.reshape(len(log), -1).mean(axis=0, dtype=np.float64)
    if len(labels) == 1:
        rates = f"{labels[0]:.1%} clicked"
    else:
        rates = ", ".join(
            f"{name} {rate:.1%}" for name, rate in zip(log.label_names, labels, strict=True)
        )
    text = f"{log.name}: {len(log):,} impressions, {rates}{best}\n  distinct values: {fields}"
    if log.bounds is not None:
        first, second = log.bounds
        counts = (first, second - first, len(log) - second)
        text += "\n  rows: training {:,}, validation {:,}, test {:,}".format(*counts)
    if log.refused:
        text += f"\n  left out because they could not be read: {log.refused:,} rows"
    return text
