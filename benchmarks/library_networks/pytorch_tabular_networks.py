"""Networks of pytorch-tabular, built from a small table by its TabularModel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from case import Case, ids
from pytorch_tabular import TabularModel, models
from pytorch_tabular.config import DataConfig, OptimizerConfig, TrainerConfig
from torch import nn

CATEGORIES, NUMBERS, ROWS = {"a": 6, "b": 10}, ["x", "y", "z"], 256
NOTE = "exported by the `logits` of its result"


def _table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {
        name: draw.integers(0, size, ROWS).astype(str) for name, size in CATEGORIES.items()
    }
    columns |= {name: draw.normal(size=ROWS) for name in NUMBERS}
    return pd.DataFrame({**columns, "click": draw.integers(0, 2, ROWS)})


class _Logits(nn.Module):
    """The scores alone; beside them, some networks return what is no matrix of rows."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network(columns)["logits"]


def _inputs(rows: int) -> tuple[dict[str, torch.Tensor]]:
    categories = [ids(rows, size, 1) for size in CATEGORIES.values()]
    return (
        {"continuous": torch.randn(rows, len(NUMBERS)), "categorical": torch.cat(categories, 1)},
    )


def _case(configuration: Any, note: str = NOTE, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        logging.disable(logging.WARNING)
        model = TabularModel(
            data_config=DataConfig(
                target=["click"], continuous_cols=NUMBERS, categorical_cols=list(CATEGORIES)
            ),
            model_config=configuration(task="classification", **options),
            optimizer_config=OptimizerConfig(),
            trainer_config=TrainerConfig(accelerator="cpu", progress_bar="none"),
            verbose=False,
        )
        table = _table()
        network = model.prepare_model(model.prepare_dataloader(train=table, validation=table))
        return Case(_Logits(network), _inputs, note)

    return make


ATTENTION = {"num_heads": 2, "num_attn_blocks": 2}
NETWORKS = {
    "CategoryEmbeddingModel": _case(models.CategoryEmbeddingModelConfig, layers="16-8"),
    "FTTransformer": _case(models.FTTransformerConfig, input_embed_dim=16, **ATTENTION),
    "TabTransformer": _case(models.TabTransformerConfig, input_embed_dim=16, **ATTENTION),
    "AutoInt": _case(models.AutoIntConfig, attn_embed_dim=16, **ATTENTION),
    "TabNet": _case(
        models.TabNetModelConfig,
        n_steps=2,
    ),
    "GANDALF": _case(models.GANDALFConfig, gflu_stages=2),
    "GatedAdditiveTreeEnsemble": _case(
        models.GatedAdditiveTreeEnsembleConfig, gflu_stages=2, num_trees=2, tree_depth=2
    ),
    "DANet": _case(models.DANetConfig, n_layers=2, abstlay_dim_1=8, k=2),
    "NODE": _case(models.NodeConfig, num_layers=1, num_trees=8, depth=3),
}
