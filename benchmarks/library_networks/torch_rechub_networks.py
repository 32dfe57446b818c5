"""Networks of torch-rechub: a dictionary of columns goes in; rankers, matchers, multi-task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from case import Case, ids, padded_history
from torch import nn
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models import matching, multi_task, ranking
from torch_rechub.models.generative.hstu import HSTUModel

FIELDS = {f"c{i}": 20 + 10 * i for i in range(4)}
DENSE = ("n0", "n1")
ITEMS, CATEGORIES, USERS, STEPS, DIM = 50, 10, 30, 6, 8
MLP = {"dims": [16, 8], "activation": "relu", "dropout": 0.0}
TOWER = {"dims": [16, DIM], "activation": "relu", "dropout": 0.0}


def _sparse(names: Any = FIELDS) -> list[SparseFeature]:
    return [SparseFeature(name, FIELDS[name], embed_dim=DIM) for name in names]


def _linear() -> list[SparseFeature]:
    return [SparseFeature(name, size, embed_dim=1) for name, size in FIELDS.items()]


def _crossed() -> list[SparseFeature]:
    """Tables with a row for every pair of a value and a field."""
    count = len(FIELDS)
    return [SparseFeature(name, size * count, embed_dim=DIM) for name, size in FIELDS.items()]


def _dense() -> list[DenseFeature]:
    return [DenseFeature(name) for name in DENSE]


def _values(rows: int, *, dense: bool = True) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {name: ids(rows, size) for name, size in FIELDS.items()}
    return {**values, **({name: torch.rand(rows) for name in DENSE} if dense else {})}


def _fields(build: Callable[[], Any], *, dense: bool = False) -> Callable[[], Case]:
    return lambda: Case(build(), lambda rows: (_values(rows, dense=dense),))


def _target() -> list[SparseFeature]:
    return [
        SparseFeature("item", ITEMS, embed_dim=DIM, padding_idx=0),
        SparseFeature("category", CATEGORIES, embed_dim=DIM, padding_idx=0),
    ]


def _history(prefix: str = "hist") -> list[SequenceFeature]:
    return [
        SequenceFeature(
            f"{prefix}_{name}",
            size,
            embed_dim=DIM,
            pooling="concat",
            shared_with=name,
            padding_idx=0,
        )
        for name, size in (("item", ITEMS), ("category", CATEGORIES))
    ]


def _user() -> list[SparseFeature]:
    return [SparseFeature("user", USERS, embed_dim=DIM)]


def _sequence_values(rows: int, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    items, absent = padded_history(rows, ITEMS, STEPS), padded_history(rows, ITEMS, STEPS)
    values = {
        "user": ids(rows, USERS),
        "item": ids(rows, ITEMS),
        "category": ids(rows, CATEGORIES),
        "hist_item": items,
        "hist_category": ids(rows, CATEGORIES, STEPS) * (items > 0),
        "neg_item": absent,
        "neg_category": ids(rows, CATEGORIES, STEPS) * (absent > 0),
        "negatives": ids(rows, ITEMS, 3),
        "seq": items,
    }
    return {name: values[name] for name in names}


def _sequence(build: Callable[[], Any], *names: str, note: str = "") -> Callable[[], Case]:
    return lambda: Case(build(), lambda rows: (_sequence_values(rows, names),), note)


class First(nn.Module):
    """The first of what a network returns: its scores, without a loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network(columns)[0]


def _matcher(
    build: Callable[[], Any], *names: str, mode: str | None = None, note: str = ""
) -> Callable[[], Case]:
    """Builds a matcher, or one of its towers where `mode` is "user" or "item"."""

    def make() -> Case:
        module = build()
        module.mode = mode
        return Case(module, lambda rows: (_sequence_values(rows, names),), note)

    return make


def _positive() -> list[SparseFeature]:
    return [SparseFeature("item", ITEMS, embed_dim=DIM)]


def _negatives() -> list[SequenceFeature]:
    return [
        SequenceFeature("negatives", ITEMS, embed_dim=DIM, pooling="concat", shared_with="item")
    ]


def _items(pooling: str = "concat") -> list[SequenceFeature]:
    return [SequenceFeature("hist_item", ITEMS, embed_dim=DIM, pooling=pooling, shared_with="item")]


def _whole_history() -> SequenceFeature:
    return SequenceFeature("hist_item", ITEMS, embed_dim=DIM, pooling="concat")


PAIRED = ("user", "item", "hist_item", "negatives")
TASKS = ["classification", "classification"]
HEADS = [{"dims": [8]}, {"dims": [8]}]
DIN_ATTENTION = {"dims": [16], "activation": "dice", "use_softmax": False}
DIN_NAMES = ("user", "item", "category", "hist_item", "hist_category")

NETWORKS = {
    "WideDeep": _fields(lambda: ranking.WideDeep(_sparse(), _sparse() + _dense(), MLP), dense=True),
    "DeepFM": _fields(lambda: ranking.DeepFM(_sparse() + _dense(), _sparse(), MLP), dense=True),
    "DCN": _fields(lambda: ranking.DCN(_sparse() + _dense(), 2, MLP), dense=True),
    "DCNv2": _fields(lambda: ranking.DCNv2(_sparse(), 2, MLP, low_rank=4, num_experts=2)),
    "EDCN": _fields(lambda: ranking.EDCN(_sparse(), 2, MLP)),
    "AFM": _fields(lambda: ranking.AFM(_sparse(), DIM, t=8)),
    "AutoInt": _fields(
        lambda: ranking.AutoInt(_sparse(), _dense(), num_layers=2, mlp_params=MLP), dense=True
    ),
    "FiBiNet": _fields(lambda: ranking.FiBiNet(_sparse(), MLP)),
    "DeepFFM": _fields(lambda: ranking.DeepFFM(_linear(), _crossed(), DIM, MLP)),
    "FatDeepFFM": _fields(lambda: ranking.FatDeepFFM(_linear(), _crossed(), DIM, 2, MLP)),
    "DIN": _sequence(
        lambda: ranking.DIN(_user(), _history(), _target(), {"dims": [16, 8]}, DIN_ATTENTION),
        *DIN_NAMES,
    ),
    "BST": _sequence(
        lambda: ranking.BST(_user(), _history(), _target(), MLP, nhead=2, max_seq_len=STEPS + 1),
        *DIN_NAMES,
    ),
    "DIEN": _sequence(
        lambda: First(
            ranking.DIEN(_user(), _history(), _history("neg"), _target(), {"dims": [16, 8]})
        ),
        *DIN_NAMES,
        "neg_item",
        "neg_category",
        note="exported by its scores",
    ),
    "SharedBottom": _fields(
        lambda: multi_task.SharedBottom(_sparse() + _dense(), TASKS, MLP, HEADS), dense=True
    ),
    "ESMM": _fields(
        lambda: multi_task.ESMM(_sparse(["c0", "c1"]), _sparse(["c2", "c3"]), MLP, MLP)
    ),
    "MMOE": _fields(
        lambda: multi_task.MMOE(_sparse() + _dense(), TASKS, 3, MLP, HEADS), dense=True
    ),
    "PLE": _fields(
        lambda: multi_task.PLE(_sparse() + _dense(), TASKS, 2, 2, 1, MLP, HEADS), dense=True
    ),
    "AITM": _fields(lambda: multi_task.AITM(_sparse() + _dense(), 2, MLP, HEADS), dense=True),
    "DSSM": _matcher(
        lambda: matching.DSSM(_user() + _items("mean"), _positive(), TOWER, TOWER),
        "user",
        "item",
        "hist_item",
    ),
    "DSSM, user tower": _matcher(
        lambda: matching.DSSM(_user(), _positive(), TOWER, TOWER), "user", mode="user"
    ),
    "FaceBookDSSM": _matcher(
        lambda: matching.FaceBookDSSM(_user(), _positive(), _positive(), TOWER, TOWER),
        "user",
        "item",
    ),
    "YoutubeDNN": _matcher(
        lambda: matching.YoutubeDNN(_user() + _items("mean"), _positive(), _negatives(), TOWER),
        *PAIRED,
    ),
    "MIND": _matcher(
        lambda: matching.MIND(_user(), _items(), _positive(), _negatives(), STEPS),
        *PAIRED,
        note="draws random numbers in forward: two calls of torch differ",
    ),
    "ComirecSA": _matcher(
        lambda: matching.ComirecSA(_user(), _items(), _positive(), _negatives()), *PAIRED
    ),
    "ComirecDR": _matcher(
        lambda: matching.ComirecDR(_user(), _items(), _positive(), _negatives(), STEPS), *PAIRED
    ),
    "GRU4Rec": _matcher(
        lambda: matching.GRU4Rec(_user(), _items(), _positive(), _negatives(), TOWER), *PAIRED
    ),
    "SASRec, user tower": _matcher(
        lambda: matching.SASRec(
            [SequenceFeature("seq", ITEMS, embed_dim=DIM, pooling="concat")],
            max_len=STEPS,
            num_heads=2,
        ),
        "seq",
        mode="user",
    ),
    "STAMP": _matcher(lambda: matching.STAMP(_whole_history(), 0.3, 0.3), "hist_item"),
    "NARM": _matcher(lambda: matching.NARM(_whole_history(), 8, 0.0, 0.0), "hist_item"),
    "SINE, user tower": _matcher(
        lambda: matching.SINE(["hist_item"], ["item"], ["negatives"], ITEMS, DIM, 8, 5, 3, STEPS),
        "hist_item",
        mode="user",
    ),
    "HSTU": lambda: Case(
        HSTUModel(ITEMS, d_model=16, n_heads=2, n_layers=2, dqk=8, dv=8, max_seq_len=STEPS),
        lambda rows: {
            "x": padded_history(rows, ITEMS, STEPS),
            "time_diffs": torch.randint(0, 100_000, (rows, STEPS)),
        },
    ),
}
