"""Trains models by however many ranks torchrun starts, and saves the weights of each rank.

`torchrun --nproc-per-node 2 train_ranks.py FOLDER`; the test calls `train_all` for one process.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from support.torch import planted_log

from ondevice.models import (
    BinaryCodeEmbedding,
    ClickLog,
    ClickModel,
    FullEmbedding,
    NetworkConfig,
    Splits,
    TrainConfig,
    attach_masks,
    train,
)
from ondevice.models.layers.rounding import Rounding
from ondevice.models.training.distributed import RankError, Ranks, joined_ranks
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.refit import Refit
from ondevice.models.training.widths import Widths

# The last batch of 128 has one row, so that one of two ranks has none.
SPLITS = Splits(*(planted_log(count, seed) for count, seed in ((1281, 1), (500, 2), (500, 3))))
QUICK = TrainConfig(epochs=3, batch=128, learning_rate=5e-3)


def tables(kind):
    if kind == "full":
        return {"user": FullEmbedding(52, 4), "item": FullEmbedding(42, 4)}
    return {
        "user": BinaryCodeEmbedding(4, 6, 3, padding_id=None),
        "item": BinaryCodeEmbedding(4, 6, 5, padding_id=None),
    }


def binary_codes(model):
    return {"train": train(model, SPLITS.train, SPLITS.validation, QUICK, progress=False)}


def masks(model):
    attach_masks(model, SPLITS.train)
    settings = TrainConfig(epochs=3, batch=100, learning_rate=5e-3, width_penalty=0.05)
    return {"train": train(model, SPLITS.train, SPLITS.validation, settings, progress=False)}


def sparse(model):
    settings = TrainConfig(epochs=3, batch=128, learning_rate=5e-3, table_optimizer="sparse_adam")
    return {"train": train(model, SPLITS.train, SPLITS.validation, settings, progress=False)}


def phases(model):
    widths = Widths("amtl", epochs=2, warm=True)
    config = FitConfig(QUICK, widths, Rounding("q8", epochs=1), Refit((1.0,), epochs=1))
    return fit(model, SPLITS, config, progress=False).phases


def pruned(model):
    settings = TrainConfig(epochs=1, batch=128, learning_rate=5e-3, table_optimizer="sparse_adam")
    return fit(model, SPLITS, FitConfig(settings, Widths("prune", epochs=1)), progress=False).phases


def weighted(model):
    """Rows of several weights, and a second label."""
    logs = []
    for log in (SPLITS.train, SPLITS.validation):
        draws = np.random.default_rng(len(log))
        labels = np.stack([log.labels, draws.integers(0, 2, len(log))], 1).astype(np.float32)
        weights = draws.uniform(0.5, 3, len(log)).astype(np.float32)
        logs.append(ClickLog(log.features, log.ids, labels, weights, ("label", "second")))
    return {"train": train(model, *logs, QUICK, progress=False)}


CASES = {
    "weighted": (weighted, "binary", "dnn"),
    "binary codes": (binary_codes, "binary", "dnn"),
    "masks": (masks, "binary", "dnn"),
    "sparse": (sparse, "full", "deepfm"),
    "phases": (phases, "full", "dnn"),
    "pruned": (pruned, "full", "dnn"),
}


def train_all(folder: Path, ranks: Ranks) -> None:
    torch.set_num_threads(1)
    for case, (run, kind, network) in CASES.items():
        torch.manual_seed(ranks.rank)  # the first rank's weights count
        labels = ("label", "second") if case == "weighted" else ("label",)
        model = ClickModel(tables(kind), NetworkConfig(network, hidden=(16,)), labels=labels)
        phases = run(model)
        state = {name: value.numpy() for name, value in model.state_dict().items()}
        np.savez(folder / f"{case} {ranks.rank}.npz", **state)
        facts = {
            phase: [
                (epoch.train_loss, epoch.validation.auc, epoch.mean_width)
                for epoch in history.epochs
            ]
            for phase, history in phases.items()
        }
        (folder / f"{case} {ranks.rank}.json").write_text(json.dumps(facts))


def check_another_log(folder: Path, ranks: Ranks) -> None:
    model = ClickModel(tables("full"), (4,))
    try:
        ranks.check(model, planted_log(100 + ranks.rank, 1), QUICK)
    except RankError as error:
        (folder / f"error {ranks.rank}").write_text(str(error))


if __name__ == "__main__":
    with joined_ranks() as joined:
        assert joined.world == 2
        train_all(Path(sys.argv[1]), joined)
        check_another_log(Path(sys.argv[1]), joined)
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    (Path(sys.argv[1]) / f"threads {joined.rank}").write_text("".join(names))
