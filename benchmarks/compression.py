"""AUC against bytes of the written tables: head tables of one to sixteen dimensions in 4 bits.

python benchmarks/compression.py --data epinions --path DIR --out results.csv --work FOLDER
Runs are kept under --work; a second call continues.
"""

import argparse
import csv
from pathlib import Path

import torch

from ondevice.models.compression import ladder, run_trial
from ondevice.models.data import DATASETS, open_log

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", choices=DATASETS, default="synthetic")
parser.add_argument("--path", type=Path)
parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
parser.add_argument("--points", type=int, help="only so many points of the ladder")
parser.add_argument("--out", type=Path, required=True, help="CSV file, rewritten after each point")
parser.add_argument("--work", type=Path, required=True, help="folder of the trials")
args = parser.parse_args()
torch.set_num_threads(1)
log = open_log(args.data, args.path)
rows = []
for seed in args.seeds:
    trials = ladder(seed)[: args.points]
    full = None
    for trial in trials:
        result = run_trial(log, trial, args.work)
        full = full or result
        rows.append(
            {
                "data": args.data,
                "seed": seed,
                "dim": trial.dim,
                "min_count": trial.min_count,
                "codec": trial.codec,
                "table_bytes": result.table_bytes,
                "ratio": round(full.table_bytes / result.table_bytes, 1),
                "ratio_with_map": round(
                    full.table_bytes / (result.table_bytes + result.map_bytes), 1
                ),
                "test_auc": round(result.test_auc, 5),
                "auc_share": round(result.test_auc / full.test_auc, 5),
                "lift_ratio": round((result.test_auc - 0.5) / (full.test_auc - 0.5), 5),
            }
        )
        print(rows[-1], flush=True)
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
