"""How many leading dimensions each field needs: the AUC of a full model whose one field is cut.

python benchmarks/field_cuts.py --data epinions --path DIR --work FOLDER --out cuts_epinions.csv

Trains the full model of benchmarks/mask_saving.py (which has the same options, and whose trained
phases under --work are used), turns its tables so that the leading dimensions hold most, and cuts
the rows of one field at a time; nothing else changes and nothing is trained on. Beside the
validation AUC stands how often training reads the field's rows. Nothing reads the test split.
"""

import csv
from typing import Any

import mask_saving
import numpy as np
import torch

from ondevice.atomic import atomic_path
from ondevice.models import evaluate
from ondevice.models.networks import table_counts
from ondevice.models.training.widths import Widths, order_dimensions

KEPT = (0, 1, 2, 4, 6, 8, 10, 16)  # dimensions; what exceeds the model's is left out
READS = (5, 50, 95)  # percentiles


def main() -> None:
    """Train or load the full model and write a row for each field and number of dimensions."""
    args = mask_saving.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    splits = mask_saving.encoded_splits(args)
    rows = []
    for network in args.networks:
        for seed in args.seeds:
            case = mask_saving.case_of(args, splits, network, seed)
            key = {"data": args.name or args.data, "network": network, "seed": seed}
            rows += [key | figures for figures in cuts(case)]
    with atomic_path(args.out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def cuts(case: mask_saving.Case) -> list[dict[str, Any]]:
    """What the full model reaches with each field cut to each of KEPT."""
    model = case.fitted(case.model(), Widths("whole"))
    counts = table_counts(model, case.splits.train)
    order_dimensions(model, counts)
    rows = []
    for name in model.fields:
        weight = model.embedding(name).weight.data
        whole = weight.clone()
        reads = np.percentile(counts[name], READS).round().astype(int)
        for kept in (number for number in KEPT if number <= case.dim):
            weight[:, kept:] = 0
            auc = evaluate(model, case.splits.validation).auc
            weight.copy_(whole)
            row = {"field": name, "rows": len(whole), "kept": kept, "validation_auc": round(auc, 5)}
            rows.append(row | {f"reads_p{p}": n for p, n in zip(READS, reads, strict=True)})
    return rows


if __name__ == "__main__":
    main()
