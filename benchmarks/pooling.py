"""Histories averaged inside the lookup, and by the operators that would do it otherwise.

One model twice: 26,000 rows of binary codes, a history of 20 items of which 8 are padding, the mean
of their vectors either as a pooled lookup or as mask, product, sums and quotient. Times are whole
calls of `Model.predict`, 20th percentile of rounds that alternate between the two forms.

    python benchmarks/pooling.py [--batch 1 128]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import ondevice
from ondevice.converters import convert
from ondevice.models import BinaryCodeEmbedding
from ondevice.models.layers.interactions import PaddingMask
from ondevice.text_table import table

DIM, LENGTH, PRESENT, ROUNDS = 16, 20, 12, 60
FORMS = ("operators", "lookup")


class Clicks(nn.Module):
    """User, item and the mean of a history into a small network."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.user = BinaryCodeEmbedding(DIM, 36, 12, std=1.0)
        self.item = BinaryCodeEmbedding(DIM, 36, 12, std=1.0)
        self.present = PaddingMask() if form == "operators" else None
        self.mlp = nn.Sequential(nn.Linear(3 * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, user: Tensor, item: Tensor, seen: Tensor) -> Tensor:
        """Click probabilities [batch]."""
        if self.present is None:
            history = self.item(seen, "mean")
        else:
            present = self.present(seen)
            count = present.sum(1)
            history = (self.item(seen) * present).sum(1) / (count + torch.relu(1 - count))
        vectors = torch.cat([self.user(user), self.item(item), history], -1)
        return torch.sigmoid(self.mlp(vectors)).squeeze(-1)


def request(rows: int) -> dict[str, npt.NDArray[np.int64]]:
    """Random IDs; the last steps of each history are padding."""
    rng = np.random.default_rng(0)
    seen = rng.integers(1, 2**40, (rows, LENGTH))
    seen[:, PRESENT:] = 0
    user, item = rng.integers(1, 2**40, (2, rows))
    return {"user": user, "item": item, "seen": seen}


def main() -> None:
    """Measure both forms and print one line for each target and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        example = tuple(torch.from_numpy(ids) for ids in request(4).values())
        for form in FORMS:
            convert(Clicks(form).eval(), example, Path(folder) / form, tables="q8", dense="q8")
        for target in ("odm", "onnx", "tflite"):
            models = {f: ondevice.load(Path(folder) / f / f"model.{target}") for f in FORMS}
            for batch in args.batch:
                ids, calls = request(batch), max(1, 64 // batch)
                times: dict[str, list[float]] = {form: [] for form in FORMS}
                for _ in range(ROUNDS):
                    for form, model in models.items():
                        model.predict(ids)
                        begun = time.perf_counter()
                        for _ in range(calls):
                            model.predict(ids)
                        times[form].append((time.perf_counter() - begun) / calls * 1e6)
                low = [f"{np.percentile(times[form], 20):.1f}" for form in FORMS]
                rows.append((target, str(batch), *low))
    print(table(("target", "batch", *(f"{form}, us" for form in FORMS)), rows))


if __name__ == "__main__":
    main()
