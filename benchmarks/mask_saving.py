"""Kept dimensions and AUC of the ways to choose widths, beside the full model, row per seed.

python benchmarks/mask_saving.py --data epinions --path DIR --out masks.csv

All models train under the same settings and then refit their rows with the network fixed; "amtl"
learns its masks after that, "amtl_fresh" from the first epoch on, "frequency" is a rule.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ondevice.models import TrainConfig, evaluate
from ondevice.models.click_log import Splits
from ondevice.models.data import DATASETS, encode, open_log, split
from ondevice.models.designs import full_embeddings
from ondevice.models.networks import ClickModel
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.refit import Refit
from ondevice.models.training.widths import Widths

DIM = 16
METHODS = ("amtl", "amtl_fresh", "frequency")


def main() -> None:
    """Train the full model and every method with every seed, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, default="synthetic")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--penalty", type=float, default=0.001, help="of AMTL")
    parser.add_argument("--keep", type=float, default=0.4, help="of frequency")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    log = open_log(args.data, args.path)
    names = [item.name for item in log.features.fields]
    splits = encode(*split(log), vocabulary_fields=names)
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        config = TrainConfig(args.epochs, args.batch, args.learning_rate, patience=1, seed=seed)
        full = measured(splits, FitConfig(config, Widths("whole"), refit=Refit()))
        for method in args.methods:
            widths = Widths("frequency", keep=args.keep)
            if method != "frequency":
                widths = Widths("amtl", penalty=args.penalty, warm=method == "amtl")
            figures = measured(splits, FitConfig(config, widths, refit=Refit()))
            row = {"data": args.data, "seed": seed, "method": method}
            row |= {f"full_{key}": value for key, value in full.items() if key.endswith("auc")}
            rows.append(row | figures)
            print(rows[-1], flush=True)
            with args.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


def measured(splits: Splits, config: FitConfig) -> dict[str, float]:
    """Test AUC as trained (without the phases that follow) and in the end, dimensions removed."""
    figures = {}
    torch.manual_seed(config.training.seed)
    model = ClickModel(full_embeddings(splits.train, DIM), (128, 64))
    first = config.widths if config.widths.method == "frequency" or not config.widths.warm else None
    fit(model, splits, FitConfig(config.training, first or Widths("whole")), progress=False)
    figures["trained_auc"] = round(evaluate(model, splits.test).auc, 5)
    rest = replace(config, widths=Widths("whole") if first else config.widths)
    fit(model, splits, rest, trained=True, progress=False)
    masks = model.masks().values()
    kept_dims = sum(int(mask.widths().sum()) for mask in masks)
    all_dims = sum(mask.rows * mask.dim for mask in masks)
    figures["auc"] = round(evaluate(model, splits.test).auc, 5)
    figures["removed"] = round(1 - kept_dims / all_dims, 4) if all_dims else 0.0
    return figures


if __name__ == "__main__":
    main()
