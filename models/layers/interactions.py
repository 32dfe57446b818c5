"""How field vectors interact: factorisation machine, cross layers, attention over a history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ondevice.features import PADDING_ID
from ondevice.models.layers.embeddings import Embedding
from ondevice.spec import Pooling, full_spec

# 127 * 7: every codec stores it without error, so a padding mask stays exactly 0 or this value
# (the scale of q8 is 7, that of q4 -889/8, that of q2 -889/2, all exact in f16).
_EXACT = 889.0


def pair_interactions(vectors: Tensor) -> Tensor:
    """Sum of the inner products of all pairs of fields, float32 [batch], of [batch, fields, dim].

    Half of (square of the sum - sum of the squares), in O(fields * dim): S. Rendle,
    "Factorization Machines", ICDM 2010, lemma 3.1.
    """
    total = vectors.sum(1)
    squares = (vectors * vectors).sum(1)
    return 0.5 * (total * total - squares).sum(-1)


class CrossNetwork(nn.Module):
    """Layers x_(l+1) = x_0 * (W_l x_l + b_l) + x_l, `*` entry by entry.

    R. Wang et al., "DCN V2", WWW 2021, equation 1; with a rank r, W_l = U_l V_l^T as in
    equation 2 (width x r matrices).
    """

    def __init__(self, width: int, layers: int, rank: int = 0) -> None:
        """Cross vectors of `width`; rank 0 stands for full matrices."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(width, width)
            if not rank
            else nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
            for _ in range(layers)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Crossed vectors float32 [batch, width] of [batch, width]."""
        crossed = vectors
        for layer in self.layers:
            crossed = vectors * layer(crossed) + crossed
        return crossed


class VectorCrossNetwork(nn.Module):
    """Layers x_(l+1) = x_0 (w_l . x_l) + b_l + x_l, where w_l . x_l is one number.

    R. Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017, equation 3.
    """

    def __init__(self, width: int, layers: int) -> None:
        """Cross vectors of `width`."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(layers))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(layers))

    def forward(self, vectors: Tensor) -> Tensor:
        """Crossed vectors float32 [batch, width] of [batch, width]."""
        crossed = vectors
        for layer, bias in zip(self.layers, self.biases, strict=True):
            crossed = vectors * layer(crossed) + bias + crossed
        return crossed


class PaddingMask(Embedding):
    """1 for every ID but the padding ID, as a lookup in a fixed table of two rows.

    A lookup rather than a comparison: it runs wherever lookups run, on any 64-bit ID.
    """

    def __init__(self) -> None:
        super().__init__(full_spec(2, 1, padding_id=PADDING_ID, oov_row=1))
        self.weight.requires_grad_(False)

    @torch.no_grad()
    def reset_parameters(self, std: float = 0.0) -> None:
        """Set the fixed table."""
        self.weight.copy_(torch.tensor([[0.0], [_EXACT]]))

    def forward(self, ids: Tensor, pooling: Pooling | None = None) -> Tensor:
        """float32 [batch, length, 1] of IDs int64 [batch, length]: 0 where padding, else 1."""
        return super().forward(ids, pooling) * (1 / _EXACT)


class AttentionPooling(nn.Module):
    """Items of a history weighted by their relevance to the target item, and summed.

    G. Zhou et al., "Deep Interest Network", KDD 2018, equation 3 and its activation unit: a small
    network sees target, item, difference and product. The paper drops the softmax; here a sigmoid
    keeps each weight between 0 and 1 (a choice of this project), so that many relevant items still
    add up to a larger vector. A first layer over [q, k, q - k, q * k] is the same set of functions
    as separate matrices for q, k and q * k, and the part of q is then computed once a row.
    Activations are PReLU, the paper's simpler choice: Dice needs batch statistics over padding.
    """

    def __init__(self, dim: int, hidden: Sequence[int]) -> None:
        """Attend over vectors of `dim`; `hidden` are the sizes of the unit's layers."""
        super().__init__()
        first, *rest = hidden
        self.of_query = nn.Linear(dim, first)
        self.of_item = nn.Linear(2 * dim, first, bias=False)
        self.layers = nn.ModuleList(
            nn.Linear(width, size) for width, size in zip(hidden, rest, strict=False)
        )
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((size,), 0.25)) for size in hidden)
        self.score = nn.Linear(hidden[-1], 1)

    def weights(self, query: Tensor, items: Tensor, present: Tensor) -> Tensor:
        """The weight of each item, float32 [batch, length, 1]; 0 for padding."""
        query = query.unsqueeze(1)
        state = self.of_item(torch.cat([items, items * query], -1)) + self.of_query(query)
        state = _prelu(state, self.slopes[0])
        for layer, slope in zip(self.layers, list(self.slopes)[1:], strict=True):
            state = _prelu(layer(state), slope)
        return torch.sigmoid(self.score(state)) * present

    def forward(self, query: Tensor, items: Tensor, present: Tensor) -> Tensor:
        """The weighted sum of items, float32 [batch, dim].

        Args:
            query: the target's vector, float32 [batch, dim].
            items: the history's vectors, float32 [batch, length, dim].
            present: 1 for an item, 0 for padding, float32 [batch, length, 1].
        """
        return (self.weights(query, items, present) * items).sum(1)


def _prelu(values: Tensor, slope: Tensor) -> Tensor:
    """PReLU built only of Relu, which every target has."""
    return slope * values + (1 - slope) * functional.relu(values)
