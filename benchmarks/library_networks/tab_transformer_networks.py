"""Networks of tab-transformer-pytorch: a matrix of categories and one of numbers."""

from __future__ import annotations

import torch
from case import Case, ids
from tab_transformer_pytorch import FTTransformer, TabTransformer
from torch import nn

CATEGORIES, NUMBERS = (10, 5, 20), 4
SIZE = {
    "categories": CATEGORIES, "num_continuous": NUMBERS, "dim": 16, "depth": 2, "heads": 2,
    "dim_head": 8,
}  # fmt: skip


def _both(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    categories = [ids(rows, size, 1) for size in CATEGORIES]
    return torch.cat(categories, dim=1), torch.randn(rows, NUMBERS)


NETWORKS = {
    "TabTransformer": lambda: Case(TabTransformer(**SIZE, mlp_act=nn.ReLU()), _both),
    "TabTransformer, one residual stream": lambda: Case(
        TabTransformer(**SIZE, mlp_act=nn.ReLU(), num_residual_streams=1), _both
    ),
    "FTTransformer": lambda: Case(FTTransformer(**SIZE), _both),
}
