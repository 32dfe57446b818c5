"""`ondevice train`: train a click model on a click log and save a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.models.checkpoint import save_checkpoint
from ondevice.models.commands.options import (
    add_data_options,
    add_training_options,
    described,
    experiment_of,
    open_log_of,
)
from ondevice.models.experiment import (
    checkpoint_extra,
    train_compressed,
    train_full,
)
from ondevice.text_table import size

EPILOG = """examples:
  ondevice train --out checkpoint
  ondevice train --data ml1m --path ml-1m --out checkpoint
  ondevice train --full --out uncompressed

Fields with up to 1000 values keep a row per value; larger ones get binary-code hash embeddings.
Then adaptive masks learn how many dimensions each row keeps."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    add_data_options(parser)
    add_training_options(parser)
    parser.add_argument(
        "--full", action="store_true", help="train the uncompressed reference instead"
    )


def run(args: argparse.Namespace) -> int:
    """Train, print the metrics, save."""
    experiment = experiment_of(args)
    log = open_log_of(args)
    print(described(log))  # noqa: T201
    trained = (train_full if args.full else train_compressed)(log, experiment)
    save_checkpoint(
        args.out, trained.model, trained.splits.train.features, checkpoint_extra(trained, log)
    )
    print(  # noqa: T201
        f"test AUC {trained.test.auc:.4f}, log loss {trained.test.logloss:.4f} after "
        f"{trained.epochs} epochs; {size(trained.parameter_bytes)} of float32 parameters\n"
        f"saved in {args.out}; next: ondevice convert {args.out} --out DIR"
    )
    return 0
