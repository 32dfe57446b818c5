"""AUC against bytes of the written tables, method by method, at 10, 100 and 1000 times fewer bytes.

python benchmarks/compression.py --data epinions --path DIR --out rows_epinions.csv --work FOLDER

All methods share the network, the training and the codec, and have the same rows to spend (see
`ondevice.models.search.sizing`). IDs are frequency-ranked indices; hashed_rows.py compares the
methods where no ranking is known. Trials are kept under --work, so a
second call continues; the CSV is rewritten after each seed.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

from ondevice.atomic import atomic_path
from ondevice.features import FIRST_BUCKET_ID
from ondevice.models.data import DATASETS, open_log
from ondevice.models.data.synthetic import DEFAULT_ROWS, synthetic_log
from ondevice.models.search.run_trial import run_trial
from ondevice.models.search.sizing import METHODS, designs, planned_bytes, planned_rows
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import prepare

DIM = 16
# Column scales alone, 4 bytes a dimension and table, may take this share of a budget; rows get
# narrower otherwise (ml1m at 1000 times: 9 tables, 871 bytes).
MOST_FOR_SCALES = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, default="synthetic")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--rows", type=int, help="of the synthetic log")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratios", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--zipf", type=float, help="exponent of the synthetic log")
    parser.add_argument("--epochs", type=int, default=15, help="at most; one without gain ends it")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trials")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.zipf is None:
        log = open_log(args.data, args.path, max_rows=args.rows)
    else:
        log = synthetic_log(args.rows or DEFAULT_ROWS, zipf=args.zipf)
    data = prepare(log)
    values = {name: len(known) for name, known in data.values.items()}
    buckets = {name: data.rows_of_values(name) + FIRST_BUCKET_ID for name in data.numbers}
    print(f"{len(log)} impressions, {sum(values.values())} training values", flush=True)
    training = {
        "epochs": args.epochs,
        "batch": args.batch,
        "learning_rate": args.learning_rate,
    }
    rows = []
    for seed in args.seeds:
        whole = {name: TableDesign(DIM, "f32") for name in data.fields}
        full = run_trial(data, Trial(whole, True, seed=seed, **training), args.work)
        points = [("none", 1, full)]
        for ratio in args.ratios:
            budget = full.table_bytes / ratio
            dim = DIM
            while 4 * dim * len(data.fields) > MOST_FOR_SCALES * budget and dim > 1:
                dim //= 2
            for method in args.methods:
                numbers = sum(planned_bytes(rows, dim, "q4") for rows in buckets.values())
                spend = planned_rows(budget - numbers, len(values), dim, "q4")
                tables = designs(method, values, spend, dim, "q4")
                if tables is None:
                    print(f"{method}: has no tables of {budget:.0f} bytes", flush=True)
                    continue
                tables |= dict.fromkeys(buckets, TableDesign(dim, "q4"))
                trial = Trial(tables, True, seed=seed, **training)
                points.append((method, ratio, run_trial(data, trial, args.work)))
                row(args.data, seed, *points[-1], full, show=True)
        rows += [row(args.data, seed, *point, full) for point in points]
        with atomic_path(args.out) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def row(
    data: str,
    seed: int,
    method: str,
    ratio: int,
    result: TrialResult,
    full: TrialResult,
    show: bool = False,
) -> dict[str, Any]:
    cells = {
        "data": data,
        "seed": seed,
        "method": method,
        "wanted_ratio": ratio,
        "dim": max(design.dim for design in result.trial.tables.values()),
        "table_bytes": result.table_bytes,
        "ratio": round(full.table_bytes / result.table_bytes, 1),
        "map_bytes": result.map_bytes,
        "test_auc": round(result.test_auc, 5),
        "auc_share": round(result.test_auc / full.test_auc, 5),
        "lift_ratio": round((result.test_auc - 0.5) / (full.test_auc - 0.5), 5),
    }
    if show:
        print(cells, flush=True)
    return cells


if __name__ == "__main__":
    main()
