"""Networks of TabM: ensembles of multilayer perceptrons over numbers and categories."""

from __future__ import annotations

import torch
from case import Case, ids
from rtdl_num_embeddings import LinearReLUEmbeddings, PeriodicEmbeddings, PiecewiseLinearEmbeddings
from tabm import TabM

NUMBERS, CATEGORIES = 4, [5, 9, 20]
SIZE = {"n_blocks": 2, "d_block": 16, "dropout": 0.1, "k": 4}


def _both(rows: int) -> dict[str, torch.Tensor]:
    categories = [ids(rows, size, 1) for size in CATEGORIES]
    return {"x_num": torch.randn(rows, NUMBERS), "x_cat": torch.cat(categories, dim=1)}


def _network(**options: object) -> TabM:
    return TabM.make(
        n_num_features=NUMBERS, cat_cardinalities=CATEGORIES, d_out=1, **SIZE, **options
    )


NETWORKS = {
    "TabM": lambda: Case(_network(arch_type="tabm"), _both),
    "TabM-mini": lambda: Case(_network(arch_type="tabm-mini"), _both),
    "TabM, linear embeddings": lambda: Case(
        _network(num_embeddings=LinearReLUEmbeddings(NUMBERS, 8)), _both
    ),
    "TabM, periodic embeddings": lambda: Case(
        _network(num_embeddings=PeriodicEmbeddings(NUMBERS, 8, lite=False)), _both
    ),
    "TabM-mini, piecewise linear": lambda: Case(
        _network(
            arch_type="tabm-mini",
            num_embeddings=PiecewiseLinearEmbeddings(
                [torch.linspace(-2, 2, 6)] * NUMBERS, 8, activation=False, version="B"
            ),
        ),
        _both,
    ),
}
