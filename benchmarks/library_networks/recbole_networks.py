"""Networks of RecBole, built by its own configuration from a small data set; scores by predict."""

from __future__ import annotations

import contextlib
import functools
import io
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import Case, ids, padded_history
from torch import nn

for _name, _type in {
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
}.items():  # which RecBole 1.2.1 reads from numpy when it is configured, and numpy 2 dropped
    setattr(np, _name, _type)

from recbole.config import Config  # noqa: E402 - after the names above
from recbole.data import create_dataset  # noqa: E402
from recbole.utils import get_model  # noqa: E402

USERS, ITEMS, STEPS, DIM = 40, 60, 6, 8
NOTE = "exported by its `predict`"
OBSTACLES = {
    "FEARec": "computes with complex numbers, by Fourier transforms",
}
SMALL = {
    "embedding_size": DIM,
    "hidden_size": DIM,
    "inner_size": 16,
    "n_heads": 2,
    "n_layers": 2,
    "num_layers": 2,
    "mlp_hidden_size": [16, 8],
}


def _write_data(folder: Path) -> None:
    """The data set "tiny" in RecBole's format: clicks of users on items, and their attributes."""
    draw = random.Random(0)  # noqa: S311 - no secrets
    clicks = ["user_id:token\titem_id:token\tlabel:float\ttimestamp:float"]
    for user in range(USERS):
        for item in draw.sample(range(ITEMS), 9):
            clicks.append(f"u{user}\ti{item}\t{draw.randint(0, 1)}\t{len(clicks)}")
    items = ["item_id:token\tclass:token\tprice:float"]
    items += [f"i{i}\tc{i % 7}\t{i / ITEMS}" for i in range(ITEMS)]
    users = ["user_id:token\tage:token\tcity:token"]
    users += [f"u{i}\ta{i % 6}\tk{i % 9}" for i in range(USERS)]
    for suffix, lines in (("inter", clicks), ("item", items), ("user", users)):
        (folder / f"tiny.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _without_arguments() -> Iterator[None]:
    """RecBole reads sys.argv as settings."""
    given, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = given


def _built(name: str, **settings: Any) -> nn.Module:
    with tempfile.TemporaryDirectory() as root, _without_arguments():
        folder = Path(root) / "tiny"
        folder.mkdir()
        _write_data(folder)
        columns = {
            "inter": ["user_id", "item_id", "label", "timestamp"],
            "item": ["item_id", "class", "price"],
            "user": ["user_id", "age", "city"],
        }
        given = {
            "data_path": root,
            "device": "cpu",
            "use_gpu": False,
            "load_col": columns,
            "LABEL_FIELD": "label",
            "MAX_ITEM_LIST_LENGTH": STEPS,
            "numerical_features": ["price"],
            "selected_features": ["class"],
            "train_neg_sample_args": None,
            "state": "ERROR",
            **SMALL,
            **settings,
        }
        config = Config(model=name, dataset="tiny", config_dict=given)
        data = create_dataset(config).build()[0]
        return get_model(name)(config, data)


class Predicting(nn.Module):
    """A RecBole network as a module whose forward is its `predict`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.network.predict(columns)


def _columns(rows: int, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    items = padded_history(rows, ITEMS, STEPS)
    values = {
        "user_id": ids(rows, USERS),
        "item_id": ids(rows, ITEMS),
        "class": ids(rows, 7),
        "age": ids(rows, 6),
        "city": ids(rows, 9),
        "price": torch.stack([torch.rand(rows), torch.ones(rows)], dim=1),  # value and index
        "item_id_list": items,
        "neg_item_id_list": ids(rows, ITEMS, STEPS) * (items > 0),
        "class_list": ids(rows, 7, STEPS) * (items > 0),
        "item_length": (items > 0).sum(1),
    }
    return {name: values[name] for name in names}


def _case(name: str, columns: tuple[str, ...], **settings: Any) -> Callable[[], Case]:
    def make() -> Case:
        with contextlib.redirect_stdout(io.StringIO()):
            module = Predicting(_built(name, **settings))
        return Case(module, lambda rows: (_columns(rows, columns),), OBSTACLES.get(name, NOTE))

    return make


class _Masked(nn.Module):
    """BERT4Rec's `predict` without its loop over rows, which puts the mask in the last place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        item, length = columns["item_id"], columns["item_length"]
        states = self.network(columns["item_id_list"])
        state = self.network.gather_indexes(states, length - 1)
        scores = (state * self.network.item_embedding(item)).sum(dim=1)
        return scores + self.network.output_bias[item]


def _masked_items() -> Case:
    def inputs(rows: int) -> tuple[dict[str, torch.Tensor]]:
        values = _columns(rows, ("item_id_list", "item_length", "item_id"))
        last = torch.arange(STEPS) == values["item_length"][:, None] - 1
        values["item_id_list"] = torch.where(
            last, module.network.mask_token, values["item_id_list"]
        )
        return (values,)

    with contextlib.redirect_stdout(io.StringIO()):
        module = _Masked(_built("BERT4Rec"))
    return Case(module, inputs, "the caller puts the mask's ID into the last place")


class _OfGraphs(nn.Module):
    """`predict` of a network of session graphs, which it would build by numpy, a row at a time."""

    def __init__(self, network: nn.Module, with_mask: bool) -> None:
        super().__init__()
        self.network, self.build, self.with_mask = network, network._get_slice, with_mask

    def forward(self, columns: dict[str, torch.Tensor]) -> torch.Tensor:
        graph = (columns["places"], columns["edges"], columns["nodes"])
        self.network._get_slice = lambda items: (
            *graph,
            *([items.gt(0)] if self.with_mask else []),
        )
        return self.network.predict(columns)


def _graphs(name: str, with_mask: bool) -> Callable[[], Case]:
    def make() -> Case:
        with contextlib.redirect_stdout(io.StringIO()):
            module = _OfGraphs(_built(name), with_mask)

        def inputs(rows: int) -> tuple[dict[str, torch.Tensor]]:
            values = _columns(rows, ("item_id_list", "item_length", "item_id"))
            graph = module.build(values["item_id_list"])
            return ({**values, **dict(zip(("places", "edges", "nodes"), graph, strict=False))},)

        return Case(module, inputs, "the caller builds the graph of each session, by its own code")

    return make


def _left_padded() -> Case:
    """HRM without its loop over rows, which moves padding before the items."""
    with contextlib.redirect_stdout(io.StringIO()):
        module = Predicting(_built("HRM"))
    module.network.inverse_seq_item = lambda items, lengths: items

    def inputs(rows: int) -> tuple[dict[str, torch.Tensor]]:
        values = _columns(rows, ("user_id", "item_length", "item_id"))
        left = torch.arange(STEPS) >= STEPS - values["item_length"].unsqueeze(1)
        return ({**values, "item_id_list": ids(rows, ITEMS, STEPS) * left},)

    return Case(module, inputs, "the caller pads histories at their start")


_context = functools.partial(_case, columns=("user_id", "item_id", "age", "city", "class", "price"))
_sequence = functools.partial(_case, columns=("item_id_list", "item_length", "item_id"))
_with_user = functools.partial(_case, columns=("user_id", "item_id_list", "item_length", "item_id"))
_general = functools.partial(_case, columns=("user_id", "item_id"))

TARGETED = (
    "user_id", "item_id", "item_id_list", "item_length", "age", "city", "class", "class_list",
)  # fmt: skip
NETWORKS = {
    **{
        name: _context(name)
        for name in (
            "LR",
            "FM",
            "FFM",
            "FwFM",
            "FNN",
            "NFM",
            "AFM",
            "PNN",
            "DSSM",
            "WideDeep",
            "DeepFM",
            "xDeepFM",
            "DCN",
            "DCNV2",
            "AutoInt",
            "FiGNN",
            "EulerNet",
            "KD_DAGFM",
        )
    },
    **{
        name: _sequence(name)
        for name in (
            "GRU4Rec",
            "NARM",
            "STAMP",
            "SASRec",
            "NextItNet",
            "LightSANs",
            "CORE",
            "FEARec",
            "SINE",
        )
    },
    **{
        name: _with_user(name)
        for name in ("Caser", "FPMC", "TransRec", "HGN", "NPE", "FOSSIL", "RepeatNet")
    },
    **{
        name: _case(name, ("item_id_list", "item_length", "item_id", "class_list", "class"))
        for name in ("GRU4RecF", "SASRecF", "FDSA")
    },
    "DIN": _case("DIN", TARGETED),
    "DIEN": _case("DIEN", (*TARGETED, "neg_item_id_list")),
    "BERT4Rec": _masked_items,
    "SRGNN": _graphs("SRGNN", with_mask=True),
    "GCSAN": _graphs("GCSAN", with_mask=False),
    "HRM": _left_padded,
    "ConvNCF": _general("ConvNCF", embedding_size=64),
    **{name: _general(name) for name in ("BPR", "NeuMF", "FISM", "NAIS", "SimpleX")},
}
