"""Torch modules for conversion tests: this project's layers, and a module without them."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ondevice.models import AdaptiveMask, BinaryCodeEmbedding, ClickModel, FullEmbedding

EXTREMES = [0, 1, -1, 2**63 - 1, -(2**63), 2**31, -(2**31), 2**32, 12345]


def onnx_lookups(model):
    """The names of the lookups of an ONNX model: what stands before the dot in those of nodes."""
    starts = {node.name.partition(".")[0] for node in model.graph.node}
    kinds = ("TableLookup_", "BinaryCodeLookup_", "HashLookup_", "RetrievalLookup_")
    return {name for name in starts if name.startswith(kinds)}


def click_model(seed=0, masked=True):
    """Every scheme, strategy and fuse in one model, with large weights so that faults show."""
    torch.manual_seed(seed)
    tables = {
        "user": BinaryCodeEmbedding(8, 32, 8),
        "item": BinaryCodeEmbedding(8, 30, 9, multiplier=0x9E3779B97F4A7C15),
        "seller": BinaryCodeEmbedding(8, 17, 3, strategy="skip", fuse="mean"),
        "query": BinaryCodeEmbedding(8, 40, 10, fuse="concat"),
        "shop": BinaryCodeEmbedding(8, 36, 9, shared=True, padding_id=None),
        "city": FullEmbedding(300, 8),
    }
    rng = np.random.default_rng(seed)
    for table in tables.values():
        nn.init.normal_(table.weight)
        if masked:
            widths = rng.integers(1, table.spec.row_dim + 1, table.spec.rows)
            table.mask = AdaptiveMask.from_widths(widths, table.spec.row_dim)
    return ClickModel(tables, (16, 8)).eval()


def click_ids(rows, seed=0):
    """IDs of `click_model` with extremes, padding and out-of-vocabulary values among them."""
    rng = np.random.default_rng(seed)
    ids = {}
    for name in ("user", "item", "seller", "query", "shop", "city"):
        values = rng.integers(-(2**63), 2**63 - 1, rows, dtype=np.int64, endpoint=True)
        if name == "city":
            values = rng.integers(-5, 310, rows)
        special = rng.choice(np.array(EXTREMES), rows)
        ids[name] = np.where(rng.random(rows) < 0.3, special, values).astype(np.int64)
    return ids


def torch_inputs(ids):
    return {name: torch.from_numpy(values) for name, values in ids.items()}


def torch_output(module, ids):
    with torch.inference_mode():
        return module(torch_inputs(ids)).numpy()


class PlainModel(nn.Module):
    """A click model by somebody who never heard of this project: two plain tables, named inputs."""

    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(50, 4)
        self.items = nn.Embedding(80, 4)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user, item):
        x = torch.cat([self.users(user), self.items(item)], dim=-1)
        return torch.sigmoid(self.mlp(x)).squeeze(-1)


def legacy_dir(part="converted"):
    """Folder from which the tests of the oldest environment read files, or None."""
    folder = os.environ.get("ONDEVICE_LEGACY_DIR")
    if not folder:
        return None
    path = Path(folder).resolve() / part
    path.mkdir(parents=True, exist_ok=True)
    return path
