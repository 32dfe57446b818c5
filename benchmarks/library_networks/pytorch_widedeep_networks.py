"""Networks of pytorch-widedeep for tables: one float matrix of categories and numbers goes in."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from case import Case, ids
from torch import nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizer  # noqa: F401

ABSENT = (
    "cv2", "gensim", "gensim.utils", "spacy", "spacy.symbols", "torchvision",
    "torchvision.transforms", "torchvision.models", "torchvision.models._api",
)  # fmt: skip


def _absent(name: str) -> types.ModuleType:
    """A module with a class of any name that is asked for."""

    def attribute(wanted: str) -> type:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        return type(wanted, (), {})

    module = types.ModuleType(name)
    module.__path__, module.__spec__ = [], ModuleSpec(name, None)
    module.__getattr__ = attribute
    return module


# The package imports its networks for texts and images too; the libraries for these are not needed
# for tables. transformers looks for some of them itself, and must find none.
for _name in ABSENT:
    sys.modules.setdefault(_name, _absent(_name))
from pytorch_widedeep.models import tabular  # noqa: E402 - after the modules above
from pytorch_widedeep.models.wide_deep import WideDeep  # noqa: E402

CATEGORIES = {"a": 6, "b": 10, "c": 20}
NUMBERS = ["x", "y"]
COLUMNS = {name: place for place, name in enumerate([*CATEGORIES, *NUMBERS])}


def _rows(rows: int) -> tuple[torch.Tensor]:
    categories = [ids(rows, size, 1) for size in CATEGORIES.values()]
    return (torch.cat([*categories, torch.randn(rows, len(NUMBERS))], dim=1),)


def _plain(network: Any, **options: Any) -> nn.Module:
    """A network that takes tables of any width."""
    sizes = [(name, size, 4) for name, size in CATEGORIES.items()]
    return network(column_idx=COLUMNS, cat_embed_input=sizes, continuous_cols=NUMBERS, **options)


def _attentive(network: Any, **options: Any) -> nn.Module:
    """A network of attention over columns, whose vectors are of one width."""
    sizes = list(CATEGORIES.items())
    return network(
        column_idx=COLUMNS,
        cat_embed_input=sizes,
        continuous_cols=NUMBERS,
        embed_continuous_method="standard",
        input_dim=8,
        **options,
    )


def _case(
    build: Callable[..., nn.Module], network: Any, note: str = "", **options: Any
) -> Callable[[], Case]:
    """Builds a network with the head that WideDeep puts on it."""

    def make() -> Case:
        return Case(_Tabular(WideDeep(deeptabular=build(network, **options))), _rows, note)

    return make


class _Tabular(nn.Module):
    """WideDeep takes a dictionary of matrices by part; TabNet returns a loss beside the scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        returned = self.network({"deeptabular": x})
        return returned[0] if isinstance(returned, tuple) else returned


def _wide_and_deep() -> Case:
    wide = tabular.Wide(input_dim=sum(CATEGORIES.values()), pred_dim=1)
    deep = _plain(tabular.TabMlp, mlp_hidden_dims=[16, 8])

    def inputs(rows: int) -> tuple[dict[str, torch.Tensor]]:
        crossed = ids(rows, sum(CATEGORIES.values()), len(CATEGORIES))
        return ({"wide": crossed.float(), "deeptabular": _rows(rows)[0]},)

    return Case(WideDeep(wide=wide, deeptabular=deep), inputs)


SMALL = {"n_heads": 2, "n_blocks": 2}
NETWORKS = {
    "WideDeep": _wide_and_deep,
    "TabMlp": _case(_plain, tabular.TabMlp, mlp_hidden_dims=[16, 8]),
    "TabMlp, batch norms": _case(
        _plain,
        tabular.TabMlp,
        mlp_hidden_dims=[16, 8],
        cont_norm_layer="batchnorm",
        mlp_batchnorm=True,
    ),
    "TabResnet": _case(_plain, tabular.TabResnet, blocks_dims=[16, 16, 8]),
    "TabNet": _case(
        _plain,
        tabular.TabNet,
        n_steps=2,
    ),
    "TabNet, ghost_bn=False": _case(_plain, tabular.TabNet, n_steps=2, ghost_bn=False),
    "TabNet, entmax": _case(_plain, tabular.TabNet, n_steps=2, ghost_bn=False, mask_type="entmax"),
    "ContextAttentionMLP": _case(_attentive, tabular.ContextAttentionMLP, n_blocks=2),
    "SelfAttentionMLP": _case(_attentive, tabular.SelfAttentionMLP, **SMALL),
    "TabTransformer": _case(_attentive, tabular.TabTransformer, embed_continuous=True, **SMALL),
    "SAINT": _case(
        _attentive,
        tabular.SAINT,
        "attention over rows: a score depends on the other rows of its batch",
        **SMALL,
    ),
    "FTTransformer": _case(_attentive, tabular.FTTransformer, **SMALL),
    "TabPerceiver": _case(
        _attentive,
        tabular.TabPerceiver,
        n_latents=4,
        latent_dim=16,
        n_latent_heads=2,
        n_cross_attn_heads=2,
        n_latent_blocks=1,
        n_perceiver_blocks=1,
    ),
    "TabFastFormer": _case(_attentive, tabular.TabFastFormer, **SMALL),
}
