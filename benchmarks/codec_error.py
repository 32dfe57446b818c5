"""What rounding costs: squared error and test AUC of trained tables under every codec and rule.

    python benchmarks/codec_error.py --data epinions --path DIR --dims 1 2 --min-count 4

Trains full tables once for each width, then rounds them without further training, with scales of
every axis. Prints Markdown; error is the sum of squared differences over the sum of squares, all
tables together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from ondevice.codecs import NARROW_CODECS, Codec, ScaleAxis, quantise
from ondevice.models.click_log import ClickLog
from ondevice.models.data import DATASETS, encode, open_log, split
from ondevice.models.designs import full_embeddings
from ondevice.models.networks import ClickModel
from ondevice.models.training.trainer import TrainConfig, train

Table = npt.NDArray[np.float32]


def by(codec: Codec, axis: ScaleAxis | None) -> Callable[[Table], Table]:
    """Rounding to a codec with scales of an axis, by default the one that is chosen."""
    return lambda values: quantise(values, codec, scale_axis=axis).dequantise()


RULES: dict[str, Callable[[Table], Table]] = {
    "f32": lambda values: values,
    "q8": by("q8", None),
    **{
        f"{codec}, {axis}": by(codec, axis)
        for codec in NARROW_CODECS
        for axis in ("row", "column", "levels")
    },
}


def auc(model: ClickModel, log: ClickLog) -> float:
    """Test AUC in torch."""
    scores = []
    with torch.no_grad():
        for start in range(0, len(log), 8192):
            ids = {n: torch.from_numpy(v[start : start + 8192]) for n, v in log.ids.items()}
            scores.append(model(ids).numpy())
    return float(roc_auc_score(log.labels, np.concatenate(scores)))


def main() -> None:
    """Train one model for each width, round its tables by every rule and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, default="synthetic")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--min-count", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    log = open_log(args.data, args.path)
    names = [field.name for field in log.features.fields]
    splits = encode(*split(log), vocabulary_fields=names, min_count=args.min_count)
    print("| data | dim | rule | error | AUC |\n|---|---|---|---|---|")
    for dim in args.dims:
        torch.manual_seed(args.seed)
        model = ClickModel(full_embeddings(splits.train, dim), (128, 64)).eval()
        settings = TrainConfig(epochs=3, batch=4096, learning_rate=2e-3, patience=1, seed=args.seed)
        train(model, splits.train, splits.validation, settings, False)
        model.eval()
        tables = [parameter for name, parameter in model.named_parameters() if "embed" in name]
        floats = [table.detach().numpy().copy() for table in tables]
        for rule, apply in RULES.items():
            squared_error = 0.0
            for table, values in zip(tables, floats, strict=True):
                stored = apply(values)
                squared_error += float(np.square(stored - values).sum())
                with torch.no_grad():
                    table.copy_(torch.from_numpy(stored))
            error = squared_error / sum(float(np.square(values).sum()) for values in floats)
            measured = auc(model, splits.test)
            print(f"| {args.data} | {dim} | {rule} | {error:.5f} | {measured:.4f} |", flush=True)


if __name__ == "__main__":
    main()
