"""Trains over a table of ten million rows in a process of its own, and prints what it took."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from support.torch import make_log

from ondevice.models import ClickModel, FullEmbedding, Splits, TrainConfig
from ondevice.models.layers.rounding import Rounding
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.widths import Widths

ROWS, DIM = 10_000_000, 2


def peak():
    """The most memory that this process had; getrusage counts the one that started it, too."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


torch.set_num_threads(1)
draws = np.random.default_rng(0)
ids = draws.integers(2, ROWS, 3000) // draws.integers(1, 10_000, 3000) + 2
log = make_log({"item": ids.clip(2, ROWS - 1)}, draws.random(3000) < 0.4)
splits = Splits(*(log.take(np.arange(start, 3000, 3)) for start in range(3)))
model = ClickModel({"item": FullEmbedding(ROWS, DIM)}, (8,))
start = peak()
kinds = set()
model.embedding("item").weight.register_post_accumulate_grad_hook(
    lambda weight: kinds.add(weight.grad.is_sparse)
)
config = FitConfig(
    TrainConfig(epochs=1, batch=256),
    Widths("amtl", epochs=1),
    Rounding("q4", epochs=1),
)
fitted = fit(model, splits, config, progress=False)
facts = {
    "sparse": sorted(kinds),
    "grown": (peak() - start) / (ROWS * DIM * 4),
    "phases": list(fitted.phases),
    "rows": model.embedding("item").mask.rows,
}
sys.stdout.write(json.dumps(facts))
