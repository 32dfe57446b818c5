"""`ondevice train`: train a click model on a click log and save a checkpoint."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from ondevice.errors import InputError
from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.commands.options import (
    add_data_options,
    add_training_options,
    described,
    open_source,
    recipe_of,
    use_threads,
)
from ondevice.models.commands.outputs import add_output_options, check_output
from ondevice.models.data import HashedLog
from ondevice.models.recipe import DEFAULT, Recipe, shipped_recipes
from ondevice.models.training.codec_scores import codec_scores, codec_text
from ondevice.models.training.distributed import Ranks, joined_ranks
from ondevice.models.training.experiment import (
    Trained,
    checkpoint_extra,
    train_compressed,
    train_full,
)
from ondevice.models.training.phases import phases_text
from ondevice.text_table import size, table

EPILOG = """examples:
  ondevice train --list
  ondevice train deepfm --out checkpoint
  ondevice train din --data ml1m --path ml-1m --epochs 2 --out checkpoint
  ondevice train my.toml --out checkpoint
  ondevice train dnn --full --out uncompressed
  ondevice train dnn --widths frequency --keep 0.2 --round q4 --out checkpoint
  torchrun --nproc-per-node 4 -m ondevice train deepfm --out checkpoint

A recipe is a TOML file that names the network, its tables, the training and the data; options
override it (docs/recipes.md). Fields with up to 1000 values keep a row per value; larger ones get
binary-code hash embeddings. Then adaptive masks learn how many dimensions each row keeps (other
ways: --widths). With --round q4 the last epochs train with tables rounded as that codec stores
them. Ctrl-C after the first epoch ends training and saves the best weights so far. Under torchrun
all processes train one model (docs/scale.md)."""


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


def run(args: argparse.Namespace) -> int:
    """Train, print the metrics, save."""
    if args.list:
        rows = [(name, recipe.about) for name, recipe in shipped_recipes().items()]
        print(table(("recipe", "what it is"), rows))  # noqa: T201
        return 0
    if args.out is None:
        raise InputError("give --out, the folder for the checkpoint")
    check_output(args.out, [], force=args.force, checkpoint=args.out)
    use_threads(args)
    recipe = recipe_of(args, args.recipe)
    with joined_ranks() as ranks:
        log = _log(recipe, ranks)
        if ranks.is_first:
            print(described(log))  # noqa: T201
        compressed = recipe.compress and not args.full
        trained = (train_compressed if compressed else train_full)(log, recipe.experiment)
    if ranks.is_first:
        _save(args, recipe, log, trained)
    return 0


def _log(recipe: Recipe, ranks: Ranks) -> HashedLog:
    """The log, read by each rank; where it is cached, by one of each host for the others."""
    if recipe.source.cache is None:
        return open_source(recipe.source)
    return ranks.leader_first(lambda: open_source(recipe.source))


def _save(args: argparse.Namespace, recipe: Recipe, log: HashedLog, trained: Trained) -> None:
    """Save the checkpoint, and print what it is worth. Raises OutputError."""
    scores = codec_scores(trained.model, trained.splits.test)
    extra = checkpoint_extra(trained, log) | {"codecs": [asdict(score) for score in scores]}
    features = trained.splits.train.features
    save_checkpoint(args.out, trained.model, features, extra, counts=trained.fitted.counts)
    print(  # noqa: T201
        f"{recipe.name}: test AUC {trained.test.auc:.4f}, log loss {trained.test.logloss:.4f} "
        f"after {trained.epochs} epochs; {size(trained.parameter_bytes)} of float32 parameters\n"
        f"{phases_text(trained.fitted)}\n\n{codec_text(scores)}\n"
    )
    if trained.fitted.interrupted:
        print("interrupted: these are the best weights so far", file=sys.stderr)  # noqa: T201
    print(f"saved in {args.out}; next: ondevice convert {args.out} --out DIR")  # noqa: T201
