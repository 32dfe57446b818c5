"""A synthetic click log whose labels a random teacher draws: what the zoo's networks train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

FIELDS = (101, 53, 29, 17, 11, 7)  # vocabulary sizes of the categorical fields
ITEMS = 61  # items of the history and the candidate; 0 is padding
STEPS = 8
NUMBERS = 2


@dataclass(frozen=True)
class Log:
    """Columns of a click log.

    Attributes:
        fields: int64 [rows, 6], every column below its entry of FIELDS.
        numbers: float32 [rows, 2], within [0, 1).
        item: int64 [rows], the candidate, 1..60.
        history: int64 [rows, 8], earlier items, padded with 0 at the end.
        click, buy: float32 [rows], 0 or 1; whoever buys has clicked.
    """

    fields: torch.Tensor
    numbers: torch.Tensor
    item: torch.Tensor
    history: torch.Tensor
    click: torch.Tensor
    buy: torch.Tensor

    def rows(self, start: int, stop: int) -> Log:
        """A part of the log."""
        return Log(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


def make_log(rows: int, seed: int = 0) -> Log:
    """A log in which fields, numbers and the similarity of item and history decide a click."""
    rng = np.random.default_rng(seed)
    teacher = np.random.default_rng(7)
    fields = np.stack([(rng.random(rows) ** 2 * size).astype(np.int64) for size in FIELDS], 1)
    numbers = rng.random((rows, NUMBERS), dtype=np.float32)
    item = rng.integers(1, ITEMS, rows)
    history = rng.integers(1, ITEMS, (rows, STEPS))
    lengths = rng.integers(0, STEPS + 1, rows)
    history[np.arange(STEPS) >= lengths[:, None]] = 0
    score = -0.7 + 1.5 * (numbers[:, 0] - 0.5) * numbers[:, 1]
    weights = [teacher.normal(0, 0.7, size) for size in FIELDS]
    for place, weight in enumerate(weights):
        score = score + weight[fields[:, place]]
    pairs = teacher.normal(0, 0.8, (FIELDS[0], FIELDS[1]))
    score = score + pairs[fields[:, 0], fields[:, 1]]
    taste = teacher.normal(0, 1, (ITEMS, 4))
    taste[0] = 0
    liked = taste[history].sum(1) / np.maximum(lengths, 1)[:, None]
    score = score + 1.2 * (liked * taste[item]).sum(1)
    click = rng.random(rows) < 1 / (1 + np.exp(-score))
    buy = click & (rng.random(rows) < 1 / (1 + np.exp(-score / 2 - numbers[:, 1])))
    return Log(
        *map(torch.from_numpy, (fields, numbers, item, history)),
        torch.from_numpy(click.astype(np.float32)),
        torch.from_numpy(buy.astype(np.float32)),
    )
