"""Training time per epoch beside the same network with plain nn.Embedding, variants interleaved.

python benchmarks/training_speed.py --data ml1m --path DIR --out training_speed.csv
Each round trains every variant for one pass over the training rows; wall-clock and processor
time are put over those of the plain network in the same round, and their spread is printed.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ondevice.models import ClickModel, TrainConfig, attach_masks, train
from ondevice.models.click_log import ClickLog, Splits
from ondevice.models.data import DATASETS, cardinalities, encode, open_log, split
from ondevice.models.designs import Design, compressed_embeddings, full_embeddings, small_fields

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", choices=DATASETS, default="synthetic")
parser.add_argument("--path", type=Path)
parser.add_argument("--rows", type=int, help="only so many training rows")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--batch", type=int, default=1024)
parser.add_argument("--dim", type=int, default=16)
parser.add_argument("--only", nargs="+", help="only these variants beside the plain one")
parser.add_argument("--out", type=Path, help="CSV file of all rounds")

HIDDEN = (128, 64)
Pass = Callable[[], None]


class Plain(nn.Module):
    """The network as one writes it without this project."""

    def __init__(self, rows: dict[str, int], dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(n, dim) for name, n in rows.items()})
        self.layers = nn.Sequential(
            nn.Linear(dim * len(rows), HIDDEN[0]),
            nn.ReLU(),
            nn.Linear(*HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN[1], 1),
        )

    def forward(self, ids: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors = [table(ids[name]) for name, table in self.tables.items()]
        return self.layers(torch.cat(vectors, -1)).squeeze(-1)


def plain_pass(log: ClickLog, rows: dict[str, int], dim: int, batch: int) -> Pass:
    """One pass of the plain network: shuffled once, sliced, fused Adam, as the trainer does."""
    model = Plain(rows, dim).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    ids = {name: torch.from_numpy(values) for name, values in log.ids.items()}
    labels = torch.from_numpy(log.labels)

    def run() -> None:
        order = torch.randperm(len(labels))
        shuffled, targets = {name: values[order] for name, values in ids.items()}, labels[order]
        for start in range(0, len(labels), batch):
            part = {name: values[start : start + batch] for name, values in shuffled.items()}
            part_targets = targets[start : start + batch]
            loss = functional.binary_cross_entropy_with_logits(model(part), part_targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def passes(
    name: str, splits: tuple[Splits, Splits], sizes: dict[str, int], args: argparse.Namespace
) -> Pass:
    """One pass of a variant by the project's trainer; validation is left out of the times."""
    full, small = splits
    if name == "plain":
        rows = {f: t.spec.rows for f, t in full_embeddings(full.train, args.dim).items()}
        return plain_pass(full.train, rows, args.dim, args.batch)
    log = small if name.startswith("codes") else full
    tables = (
        compressed_embeddings(log.train, sizes, Design(dim=args.dim))
        if log is small
        else full_embeddings(log.train, args.dim)
    )
    model = ClickModel(tables, HIDDEN)
    if name.endswith("masks"):
        attach_masks(model, log.train)
    config = TrainConfig(epochs=1, batch=args.batch)
    return lambda: train(model, log.train, log.validation, config, progress=False)


VARIANTS = ("plain", "full", "codes", "full+masks", "codes+masks")


def main() -> None:
    """Time every variant in every round, print ratios to the plain network, write the CSV."""
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    log = open_log(args.data, args.path)
    parts = split(log)
    short = parts[1].take(torch.arange(256).numpy())  # a validation that takes no time
    parts = (parts[0].take(torch.arange(args.rows or len(parts[0])).numpy()), short, short)
    names = [field.name for field in log.features.fields]
    splits = (encode(*parts, names), encode(*parts, small_fields(parts[0], Design(dim=args.dim))))
    sizes = cardinalities(parts[0])
    chosen = [name for name in VARIANTS if not args.only or name in (*args.only, "plain")]
    runs = {name: passes(name, splits, sizes, args) for name in chosen}
    rounds = []
    for number in range(args.rounds):
        for name in chosen if number % 2 == 0 else reversed(chosen):
            wall, busy = time.perf_counter(), time.process_time()
            runs[name]()
            times = (time.perf_counter() - wall, time.process_time() - busy)
            rounds.append({"round": number, "variant": name, "wall": times[0], "cpu": times[1]})
            print(rounds[-1], flush=True)
    for name in chosen:
        cells = [name.ljust(12)]
        for clock in ("wall", "cpu"):
            times = {
                which: [item[clock] for item in rounds if item["variant"] == which]
                for which in (name, "plain")
            }
            ratios = [
                seconds / base for seconds, base in zip(times[name], times["plain"], strict=True)
            ]
            cells.append(
                f"{clock} {statistics.median(times[name]):6.2f} s, over plain "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
            )
        print("  ".join(cells))
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rounds[0]))
            writer.writeheader()
            writer.writerows(rounds)


if __name__ == "__main__":
    main()
