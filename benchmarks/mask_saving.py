"""Kept dimensions, bytes and AUC of the ways to choose widths, beside the full model, row per seed.

python benchmarks/mask_saving.py --data epinions --path DIR --work FOLDER --out widths_epinions.csv

All models train under the same settings and then refit their rows with the network fixed. "masks"
are learned after that, and the model trains on: of --penalties, the highest whose model validates
no worse than the full one is chosen, or else the one that validates best. The others get the bytes
of that model: "rule" fixes widths by frequency before training, "rule_after" cuts the refitted
model by the same rule and trains on as masks do, "prune" (PEP) learns thresholds after training and
trains on. "full_on" is the full model, trained on too. Bytes are those of all tables in float32 in
the .odm file. Trained phases are kept under --work and rows in --out, so a second call continues.
"""

import argparse
import copy
import csv
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ondevice.atomic import atomic_path
from ondevice.codecs import quantise
from ondevice.models import TrainConfig, evaluate
from ondevice.models.click_log import Splits
from ondevice.models.data import DATASETS, encode, open_log, split
from ondevice.models.designs import full_embeddings
from ondevice.models.network_config import NetworkConfig
from ondevice.models.networks import ClickModel, table_counts
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.refit import Refit
from ondevice.models.training.trainer import train
from ondevice.models.training.training_state import TrainingState
from ondevice.models.training.widths import (
    IntArray,
    Widths,
    attach_thresholds,
    attach_widths,
    frequency_widths,
    order_dimensions,
    pruned_widths,
)
from ondevice.records import TAIL_BYTES, stream_records

HIDDEN = (128, 64)
NETWORKS = {
    "dnn": NetworkConfig("dnn", HIDDEN),
    "deepfm": NetworkConfig("deepfm", HIDDEN),
    "dcn": NetworkConfig("dcn", HIDDEN, cross_layers=2, cross_rank=32),
}
# With --regularised, as the published results on Frappe_x1 train (examples/frappe_x1).
REGULARISED_NETWORK: dict[str, Any] = {"batch_norm": True, "dropout": 0.2}
REGULARISED_TRAINING: dict[str, Any] = {"table_weight_decay": 0.05, "plateau_factor": 0.1}
METHODS = ("full_on", "rule", "rule_after", "prune")
# The share of dimensions that a rule or PEP keeps is halved so often until its bytes fit.
BISECTIONS = 20


def main() -> None:
    """Train the full model and every method with every network and seed, and write the CSV."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    splits = encoded_splits(args)
    rows: list[dict[str, Any]] = []
    if args.out.exists():
        with args.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    for seed in args.seeds:
        for network in args.networks:
            case = case_of(args, splits, network, seed)
            key = {"data": args.name or args.data, "network": network, "seed": str(seed)}
            done = {row["method"]: row for row in rows if key.items() <= row.items()}
            for method in ("full", "masks", *args.methods):
                if method in done:
                    continue
                if method == "masks":
                    figures = case.masks(args.penalties)
                else:
                    most = int(done["masks"]["table_bytes"]) if method != "full" else 0
                    figures = case.measured(method, most)
                done[method] = {
                    name: str(x) for name, x in {**key, "method": method, **figures}.items()
                }
                print(done[method], flush=True)
                rows.append(done[method])
                write(rows, args.out)
            shutil.rmtree(case.folder, ignore_errors=True)


def parser(doc: str) -> argparse.ArgumentParser:
    """The command line of a script with this docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, default="synthetic")
    parser.add_argument("--name", help="of the data in the CSV (default: that of --data)")
    parser.add_argument("--path", nargs="+")
    parser.add_argument("--columns", type=Path, help="with --data log")
    parser.add_argument("--max-rows", type=int)
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--penalties", type=float, nargs="+", default=[0.001, 0.003, 0.01])
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--patience", type=int, default=1)
    parser.add_argument("--regularised", action="store_true", help="batch norm, dropout, decay")
    parser.add_argument("--work", type=Path, required=True, help="folder of trained phases")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def encoded_splits(args: argparse.Namespace) -> Splits:
    """The log that the command line names, split and encoded."""
    log = open_log(args.data, args.path, columns=args.columns, max_rows=args.max_rows)
    names = [item.name for item in log.features.fields if item.encoding == "hash"]
    return encode(*split(log), vocabulary_fields=names)


def case_of(args: argparse.Namespace, splits: Splits, network: str, seed: int) -> "Case":
    """One of the cases that the command line names."""
    training = TrainConfig(
        args.epochs,
        args.batch,
        args.learning_rate,
        patience=args.patience,
        seed=seed,
        **(REGULARISED_TRAINING if args.regularised else {}),
    )
    layers = REGULARISED_NETWORK if args.regularised else {}
    folder = args.work / f"{args.data}-{network}-{seed}"
    return Case(splits, replace(NETWORKS[network], **layers), args.dim, training, folder)


@dataclass(frozen=True)
class Case:
    """A network on a log with one seed; `folder` keeps its trained phases."""

    splits: Splits
    network: NetworkConfig
    dim: int
    training: TrainConfig
    folder: Path

    def model(self) -> ClickModel:
        """A new model with the seed's weights."""
        torch.manual_seed(self.training.seed)
        return ClickModel(full_embeddings(self.splits.train, self.dim), self.network)

    def fitted(self, model: ClickModel, widths: Widths, phases: str = "") -> ClickModel:
        """The model after `fit` with a refit; goes on after `phases` of the full model ("*": all).

        All phases of the full model are kept, so that it trains once.
        """
        config = FitConfig(self.training, widths, refit=Refit())
        kept = self.folder / "full"
        folder = kept if widths.method == "whole" else self.folder / "method"
        if folder is not kept:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for path in kept.glob(phases) if phases else ():
                shutil.copy(path, folder)
        fit(model, self.splits, config, progress=False, state=TrainingState(folder, {}))
        return model

    def measured(self, method: str, most: int) -> dict[str, Any]:
        """What "full" or one of METHODS reaches with about `most` bytes."""
        model = self.model()
        counts = table_counts(model, self.splits.train)
        dims = dict.fromkeys(model.fields, self.dim)

        def by_rule(keep: float) -> dict[str, IntArray]:
            return frequency_widths(counts, dims, keep, Widths.alpha)

        refit = FitConfig(self.training, Widths("whole"), refit=Refit())
        match method:
            case "full":
                self.fitted(model, Widths("whole"))
            case "full_on":
                self.train_on(self.fitted(model, Widths("whole")))
            case "rule":
                keep = fitting(by_rule, model, most)
                self.fitted(model, Widths("frequency", keep=keep))
            case "rule_after":
                self.fitted(model, Widths("whole"))
                order_dimensions(model, counts)
                attach_widths(model, by_rule(fitting(by_rule, model, most)))
                self.train_on(model)
            case "prune":
                first = replace(refit, refit=None)
                kept = TrainingState(self.folder / "full", {})
                fit(model, self.splits, first, progress=False, state=kept)
                order_dimensions(model, counts)
                attach_thresholds(model)
                epochs = Widths.epochs
                thresholds = replace(self.training, epochs=epochs, patience=epochs)
                train(model, self.splits.train, self.splits.validation, thresholds, progress=False)
                keep = fitting(lambda share: pruned_widths(model, share), model, most)
                attach_widths(model, pruned_widths(model, keep))
                train(model, self.splits.train, self.splits.validation, self.training, False)
                fit(model, self.splits, refit, trained=True, progress=False)
        return self.figures(model)

    def train_on(self, model: ClickModel) -> None:
        """What `fit` does with a model whose masks are learned: train on if better, refit."""
        before = copy.deepcopy(model.state_dict())
        floor = evaluate(model, self.splits.validation).auc
        train(model, self.splits.train, self.splits.validation, self.training, progress=False)
        if evaluate(model, self.splits.validation).auc <= floor:
            model.load_state_dict(before)
        config = FitConfig(self.training, Widths("whole"), refit=Refit())
        fit(model, self.splits, config, trained=True, progress=False)

    def masks(self, penalties: list[float]) -> dict[str, Any]:
        """What masks reach with the penalty that the validation split chooses; see above."""
        full = self.fitted(self.model(), Widths("whole"))
        floor = evaluate(full, self.splits.validation).auc
        tried = []
        for penalty in sorted(penalties, reverse=True):  # a higher price keeps fewer dimensions
            model = self.fitted(self.model(), Widths("amtl", penalty=penalty), "*")
            tried.append(self.figures(model) | {"penalty": penalty})
            print(tried[-1], flush=True)
            if tried[-1]["validation_auc"] >= floor:
                return tried[-1]
        return max(tried, key=lambda item: item["validation_auc"])

    def figures(self, model: ClickModel) -> dict[str, Any]:
        """Bytes of all tables, share of the fields' dimensions removed, AUCs."""
        widths = {name: mask.widths().numpy() for name, mask in model.masks().items()}
        kept = sum(int(item.sum()) for item in widths.values())
        whole = sum(table.weight.numel() for table in model.field_tables())
        return {
            "penalty": "",
            "table_bytes": table_bytes(model, widths),
            "removed": round(1 - kept / whole, 4) if widths else 0.0,
            "validation_auc": evaluate(model, self.splits.validation).auc,
            "auc": round(evaluate(model, self.splits.test).auc, 5),
        }


def table_bytes(model: ClickModel, widths: Mapping[str, IntArray]) -> int:
    """Bytes of all tables in a native file, in float32, if rows keep these widths."""
    total = 0
    names = dict(zip(map(id, model.field_tables()), model.fields, strict=True))
    for table in model.tables():
        zeros = np.zeros(table.weight.shape, np.float32)
        kept = widths.get(names.get(id(table), ""))
        stream = stream_records(quantise(zeros, "f32", widths=kept))
        total += stream.records.shape[0] - TAIL_BYTES + stream.index.nbytes
    return total


def fitting(
    widths: Callable[[float], Mapping[str, IntArray]], model: ClickModel, most: int
) -> float:
    """The largest share of dimensions, by bisection, whose widths take at most `most` bytes."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if table_bytes(model, widths(middle)) <= most:
            low = middle
        else:
            high = middle
    return low


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the CSV anew."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
