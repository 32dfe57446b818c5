"""Networks of transformers as recommenders: the items of a history are the words of a text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers
from case import Case, ids
from torch import nn

ITEMS, STEPS = 60, 6
SIZE = {"vocab_size": ITEMS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZE, "intermediate_size": 32, "max_position_embeddings": 16}


class _Scores(nn.Module):
    """The logits of a network as a plain tensor, of histories and their mask."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found = self.network(input_ids=input_ids, attention_mask=attention_mask)
        return found.logits


def _inputs(rows: int) -> dict[str, torch.Tensor]:
    lengths = torch.randint(1, STEPS + 1, (rows, 1))
    return {
        "input_ids": ids(rows, ITEMS, STEPS),
        "attention_mask": (torch.arange(STEPS) < lengths).long(),
    }


def _case(build: Callable[[], nn.Module]) -> Callable[[], Case]:
    return lambda: Case(_Scores(build()), _inputs, "exported by the `logits` of its result")


NETWORKS = {
    "BertForMaskedLM (BERT4Rec)": _case(
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**WIDE))
    ),
    "BertForSequenceClassification": _case(
        lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**WIDE))
    ),
    "GPT2LMHeadModel": _case(
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=ITEMS, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False
            )
        )
    ),
    "DistilBertForSequenceClassification": _case(
        lambda: transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(
                vocab_size=ITEMS,
                dim=16,
                hidden_dim=32,
                n_layers=2,
                n_heads=2,
                max_position_embeddings=16,
            )
        )
    ),
    "ElectraForSequenceClassification": _case(
        lambda: transformers.ElectraForSequenceClassification(
            transformers.ElectraConfig(**WIDE, embedding_size=16)
        )
    ),
}
