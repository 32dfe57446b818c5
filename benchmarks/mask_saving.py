"""Kept dimensions and AUC of adaptive masks learned on a trained full model, row per seed.

python benchmarks/mask_saving.py --data ml1m --path DIR --out masks.csv
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch

from ondevice.models import TrainConfig, evaluate
from ondevice.models.data import DATASETS, open_log
from ondevice.models.experiment import Experiment, train_full
from ondevice.models.fitting import FitConfig, fit
from ondevice.models.widths import Widths

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", choices=DATASETS, default="synthetic")
parser.add_argument("--path", type=Path)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
parser.add_argument("--penalty", type=float, default=0.003, help="price of a kept dimension")
parser.add_argument("--mask-epochs", type=int, default=3)
parser.add_argument("--out", type=Path, required=True)
args = parser.parse_args()
torch.set_num_threads(1)
log = open_log(args.data, args.path)
rows = []
for seed in args.seeds:
    config = TrainConfig(epochs=6, batch=4096, learning_rate=2e-3, patience=1, seed=seed)
    full = train_full(log, replace(Experiment(), training=config))
    widths = Widths("amtl", penalty=args.penalty, epochs=args.mask_epochs)
    fitted = fit(full.model, full.splits, FitConfig(config, widths), trained=True)
    history = fitted.phases["widths"]
    masks = full.model.masks().values()
    kept = sum(int(m.widths().sum()) for m in masks) / sum(m.rows * m.dim for m in masks)
    masked = evaluate(full.model, full.splits.test).auc
    for epoch in history.epochs:
        print(epoch.number, epoch.mean_width, epoch.validation.auc, flush=True)
    rows.append(
        {
            "data": args.data,
            "seed": seed,
            "penalty": args.penalty,
            "full_auc": round(full.test.auc, 5),
            "masked_auc": round(masked, 5),
            "removed": round(1 - kept, 4),
        }
    )
    print(rows[-1], flush=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
