"""Networks of deepctr-torch: one float matrix of IDs, numbers and histories goes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, ids, padded_history
from deepctr_torch import models
from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat, get_feature_names

SIZES = {f"c{i}": 20 + 10 * i for i in range(6)}
STEPS = 5


def _columns() -> list[Any]:
    numbers = [DenseFeat(f"n{i}", 1) for i in range(3)]
    return [*(SparseFeat(name, size, embedding_dim=4) for name, size in SIZES.items()), *numbers]


def _sparse(columns: list[Any]) -> list[Any]:
    return [column for column in columns if not isinstance(column, DenseFeat)]


def _rows(rows: int) -> torch.Tensor:
    fields = [ids(rows, size, 1) for size in SIZES.values()]
    return torch.cat([*fields, torch.rand(rows, 3)], dim=1)


def _fields(
    build: Callable[..., Any], *, bags: bool = False, wide: bool = True, **options: Any
) -> Callable[[], Case]:
    """Builds a network of categories and numbers, and of one pooled list with `bags`."""

    def make() -> Case:
        columns = _columns()
        if bags:
            tags = SparseFeat("tags", 30, embedding_dim=4)
            columns.append(VarLenSparseFeat(tags, maxlen=STEPS, combiner="mean"))
        given = (columns, columns) if wide else (columns,)
        module = build(*given, task="binary", **options) if wide else build(*given, **options)

        def inputs(rows: int) -> tuple[torch.Tensor]:
            matrix = _rows(rows)
            if bags:
                matrix = torch.cat([matrix, padded_history(rows, 30, STEPS)], dim=1)
            return (matrix.float(),)

        return Case(module, inputs)

    return make


def _history(build: Callable[..., Any], **options: Any) -> Callable[[], Case]:
    """Builds a network with a history of items and their categories and its length."""

    def make() -> Case:
        columns = [
            SparseFeat("user", 30, embedding_dim=4),
            SparseFeat("item", 50, embedding_dim=8),
            SparseFeat("category", 10, embedding_dim=4),
            DenseFeat("score", 1),
            VarLenSparseFeat(
                SparseFeat("hist_item", 50, embedding_dim=8, embedding_name="item"),
                maxlen=STEPS,
                length_name="length",
            ),
            VarLenSparseFeat(
                SparseFeat("hist_category", 10, embedding_dim=4, embedding_name="category"),
                maxlen=STEPS,
                length_name="length",
            ),
        ]
        module = build(columns, ["item", "category"], **options)

        def inputs(rows: int) -> tuple[torch.Tensor]:
            items = padded_history(rows, 50, STEPS)
            valid = items > 0
            values = {
                "user": ids(rows, 30, 1),
                "item": ids(rows, 50, 1),
                "category": ids(rows, 10, 1),
                "score": torch.rand(rows, 1),
                "hist_item": items,
                "length": valid.sum(1, keepdim=True),
                "hist_category": ids(rows, 10, STEPS) * valid,
            }
            names = get_feature_names(columns)
            return (torch.cat([values[name].float() for name in names], dim=1),)

        return Case(module, inputs)

    return make


HIDDEN = {"dnn_hidden_units": (16, 8)}
TASKS = {"task_types": ["binary", "binary"], "task_names": ["click", "buy"]}

NETWORKS = {
    "WDL": _fields(models.WDL, bags=True, **HIDDEN),
    "DeepFM": _fields(models.DeepFM, bags=True, **HIDDEN),
    "xDeepFM": _fields(models.xDeepFM, cin_layer_size=(8, 8), **HIDDEN),
    "AFM": _fields(lambda columns, dnn, **options: models.AFM(columns, _sparse(dnn), **options)),
    "IFM": _fields(models.IFM, **HIDDEN),
    "DIFM": _fields(models.DIFM, att_head_num=2, **HIDDEN),
    "AutoInt": _fields(models.AutoInt, **HIDDEN),
    "DCN": _fields(models.DCN, **HIDDEN),
    "DCN (matrix)": _fields(models.DCN, cross_parameterization="matrix", **HIDDEN),
    "DCNMix": _fields(models.DCNMix, low_rank=4, num_experts=2, **HIDDEN),
    "FiBiNET": _fields(models.FiBiNET, **HIDDEN),
    "NFM": _fields(models.NFM, **HIDDEN),
    "MLR": _fields(lambda columns, _, **options: models.MLR(columns, **options)),
    "ONN": _fields(models.ONN, **HIDDEN),
    "PNN": _fields(
        lambda columns, _, **options: models.PNN(
            columns, use_inner=True, use_outter=True, **options
        ),
        **HIDDEN,
    ),
    "CCPM": _fields(
        lambda columns, dnn, **options: models.CCPM(columns, _sparse(dnn), **options),
        conv_kernel_width=(4, 3),
        **HIDDEN,
    ),
    "AFN": _fields(models.AFN, ltl_hidden_size=16, afn_dnn_hidden_units=(16, 8)),
    "DIN": _history(models.DIN, att_weight_normalization=True, **HIDDEN),
    **{
        f"DIEN, {kind}": _history(models.DIEN, gru_type=kind, **HIDDEN)
        for kind in ("GRU", "AIGRU", "AGRU", "AUGRU")
    },
    "SharedBottom": _fields(models.SharedBottom, wide=False, **TASKS),
    "ESMM": _fields(models.ESMM, wide=False, **TASKS),
    "MMOE": _fields(models.MMOE, wide=False, **TASKS),
    "PLE": _fields(models.PLE, wide=False, **TASKS),
}
