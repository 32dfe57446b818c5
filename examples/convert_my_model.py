"""Converts a plain torch model to three files, and compares their scores with torch's.

python examples/convert_my_model.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ondevice
from ondevice.converters import convert


class Clicks(nn.Module):
    """Two embedding tables and two layers; nothing of this project is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(10_000, 16), nn.Embedding(50_000, 16)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Click probabilities [rows] of IDs [rows]."""
        vectors = torch.cat([self.users(user), self.items(item)], -1)
        return torch.sigmoid(self.layers(vectors)).squeeze(-1)


def main(folder: Path) -> None:
    """Convert, load every file, score 1000 random rows."""
    torch.manual_seed(0)
    model = Clicks().eval()  # in practice: with the weights of your training
    example = (torch.tensor([1, 2]), torch.tensor([3, 4]))  # user, item
    report = convert(model, example, folder, tables="q8")

    rng = np.random.default_rng(0)
    ids = {"user": rng.integers(0, 10_000, 1000), "item": rng.integers(0, 50_000, 1000)}
    with torch.no_grad():
        expected = model(*(torch.from_numpy(values) for values in ids.values())).numpy()
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"float32 model: {4 * parameters:,} bytes")
    for target in report.targets.values():
        scores = ondevice.load(target.path).predict(ids)
        change = np.abs(scores - expected).max()
        print(f"{target.path}: {target.bytes:,} bytes, largest change of a score {change:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "converted"))
