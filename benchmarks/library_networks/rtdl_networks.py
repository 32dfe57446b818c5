"""Networks of rtdl_revisiting_models: numbers and categories of a table as two matrices."""

from __future__ import annotations

import torch
from case import Case, ids
from rtdl_revisiting_models import MLP, FTTransformer, ResNet

NUMBERS, CATEGORIES = 4, [5, 9, 20]


def _numbers(rows: int) -> tuple[torch.Tensor]:
    return (torch.randn(rows, NUMBERS),)


def _both(rows: int) -> dict[str, torch.Tensor]:
    categories = [ids(rows, size, 1) for size in CATEGORIES]
    return {"x_cont": torch.randn(rows, NUMBERS), "x_cat": torch.cat(categories, dim=1)}


def _transformer(**options: object) -> FTTransformer:
    return FTTransformer(
        n_cont_features=NUMBERS,
        cat_cardinalities=CATEGORIES,
        d_out=1,
        n_blocks=2,
        d_block=16,
        attention_n_heads=2,
        attention_dropout=0.1,
        ffn_d_hidden_multiplier=1.5,
        ffn_dropout=0.1,
        residual_dropout=0.0,
        **options,
    )


NETWORKS = {
    "MLP": lambda: Case(MLP(d_in=NUMBERS, d_out=1, n_blocks=2, d_block=16, dropout=0.1), _numbers),
    "ResNet": lambda: Case(
        ResNet(
            d_in=NUMBERS,
            d_out=1,
            n_blocks=2,
            d_block=16,
            d_hidden_multiplier=2.0,
            dropout1=0.1,
            dropout2=0.0,
        ),
        _numbers,
    ),
    "FTTransformer": lambda: Case(_transformer(), _both),
    "FTTransformer (Linformer)": lambda: Case(
        _transformer(
            linformer_kv_compression_ratio=0.5, linformer_kv_compression_sharing="headwise"
        ),
        _both,
    ),
}
