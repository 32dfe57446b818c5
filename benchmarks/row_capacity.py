"""What forms of sharing rows can express: how well a linear read-out of their vectors fits values.

python benchmarks/row_capacity.py --data epinions --path DIR --field item --out row_capacity.csv

Of a field's frequent training values the smoothed log-odds of a click are fitted by a table and one
linear layer: no network, no other field, no unseen data. The share of the variance that is fitted,
weighted by how often values occur, tells what collisions and the fuse leave of the rows; with few
--steps also how fast rows of a form train.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ondevice.atomic import atomic_path
from ondevice.codecs import BITS
from ondevice.lookup import table_rows
from ondevice.models.data import DATASETS, open_log
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.search.hashed_rows import FORMS
from ondevice.models.search.trial_data import TrialData, prepare
from ondevice.spec import LookupSpec

PRIOR = 10  # impressions at the mean click rate that each value's log-odds are smoothed with
FULL_BITS, CODEC = 32, "f16"


def main() -> None:
    """Fit what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, required=True)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--field", required=True)
    parser.add_argument("--least", type=int, default=5, help="occurrences of a value")
    parser.add_argument("--ratios", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=list(FORMS))
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=[400], help="of a fit")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = prepare(open_log(args.data, args.path))
    ids, counts, targets = log_odds(data, args.field, args.least)
    rows = []
    for ratio in args.ratios:
        budget = int(len(ids) / ratio * FULL_BITS / BITS[CODEC])
        for form in args.forms:
            spec = FORMS[form].lookup(len(ids), budget, args.dim)
            for steps in args.steps:
                rows.append(
                    {
                        "field": args.field,
                        "values": len(ids),
                        "ratio": ratio,
                        "form": form,
                        "numbers": spec.rows * spec.row_dim,
                        "values_apart": round(apart(spec, ids), 4),
                        "steps": steps,
                        "fitted": round(fitted(spec, ids, counts, targets, steps), 4),
                    }
                )
                print(rows[-1], flush=True)
    with atomic_path(args.out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def log_odds(
    data: TrialData, name: str, least: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Hashes int64 [n], occurrences and smoothed log-odds float64 [n] of values seen often."""
    train = data.parts[0]
    distinct, place = np.unique(train.hashes[name], return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    clicks = np.bincount(place, weights=train.labels)
    rate = float(train.labels.mean())
    share = (clicks + PRIOR * rate) / (counts + PRIOR)
    often = counts >= least
    return distinct[often], counts[often], np.log(share / (1 - share))[often]


def apart(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> float:
    """The share of IDs whose rows are those of no other ID."""
    _, members = np.unique(table_rows(spec, ids), axis=0, return_counts=True)
    return float((members == 1).sum() / len(ids))


def fitted(
    spec: LookupSpec,
    ids: npt.NDArray[np.int64],
    counts: npt.NDArray[np.float64],
    targets: npt.NDArray[np.float64],
    steps: int,
) -> float:
    """The share of the targets' weighted variance that a table and a linear layer express."""
    torch.manual_seed(0)
    table, layer = Embedding(spec, std=0.3), nn.Linear(spec.dim, 1)
    weights = torch.tensor(counts / counts.sum(), dtype=torch.float32)
    wanted = torch.tensor(targets - np.average(targets, weights=counts), dtype=torch.float32)
    variance = float((weights * wanted.square()).sum())
    numbers = torch.tensor(ids)
    optimizer = torch.optim.Adam([*table.parameters(), *layer.parameters()], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        error = _error(table, layer, numbers, wanted, weights)
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return 1 - float(_error(table, layer, numbers, wanted, weights).detach()) / variance


def _error(
    table: Embedding, layer: nn.Linear, ids: Tensor, wanted: Tensor, weights: Tensor
) -> Tensor:
    """The weighted mean square error, a scalar."""
    off: Tensor = layer(table(ids)).squeeze(-1) - wanted
    return (weights * off.square()).sum()


if __name__ == "__main__":
    main()
