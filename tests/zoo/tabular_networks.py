"""Networks of the zoo from tabular learning: tokens of fields and numbers, and DLRM."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from zoo.click_log import FIELDS, NUMBERS, Log

DIM = 8
TOKENS = len(FIELDS) + NUMBERS


class Tabular(nn.Module):
    """Takes int64 fields [rows, fields] and float32 numbers [rows, numbers]."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, DIM) for size in FIELDS])
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.1)

    @staticmethod
    def inputs(log: Log):
        return (log.fields, log.numbers)

    def vectors(self, fields):
        return torch.stack([table(fields[:, i]) for i, table in enumerate(self.tables)], 1)


class FTTransformer(Tabular):
    """FT-Transformer (Gorishniy 2021): a token for every number too, a class token, ReGLU."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(NUMBERS, DIM) * 0.3)
        self.shift = nn.Parameter(torch.randn(TOKENS, DIM) * 0.3)
        self.start = nn.Parameter(torch.randn(DIM) * 0.3)
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.feed1, self.feed2 = nn.Linear(DIM, 32), nn.Linear(16, DIM)
        self.head = nn.Sequential(nn.LayerNorm(DIM), nn.ReLU(), nn.Linear(DIM, 1))

    def forward(self, fields, numbers):
        tokens = torch.cat([self.scale[None] * numbers[:, :, None], self.vectors(fields)], 1)
        start = self.start.view(1, 1, -1).expand(fields.shape[0], -1, -1)
        tokens = torch.cat([start, tokens + self.shift[None]], 1)
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        value, gate = self.feed1(self.norm2(tokens)).chunk(2, dim=-1)
        tokens = tokens + self.feed2(value * F.relu(gate))
        return torch.sigmoid(self.head(tokens[:, 0]).squeeze(-1))


class TabTransformer(Tabular):
    """TabTransformer (Huang 2020): an encoder over fields with column vectors, then an MLP."""

    def __init__(self):
        super().__init__()
        self.columns = nn.Embedding(len(FIELDS), DIM)
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.norm = nn.LayerNorm(NUMBERS)
        width = len(FIELDS) * DIM + NUMBERS
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.SELU(), nn.Linear(20, 1))

    def forward(self, fields, numbers):
        tokens = self.vectors(fields) + self.columns(torch.arange(len(FIELDS)))
        flat = torch.cat([self.encoder(tokens).flatten(1), self.norm(numbers)], -1)
        return torch.sigmoid(self.mlp(flat)).squeeze(1)


class SAINT(Tabular):
    """SAINT (Somepalli 2021), attention over columns: an MLP of its own for every number."""

    def __init__(self, heads=2, width=4):
        super().__init__()
        self.heads, self.width = heads, width
        self.numbers = nn.ModuleList(
            [nn.Sequential(nn.Linear(1, 10), nn.ReLU(), nn.Linear(10, DIM)) for _ in range(NUMBERS)]
        )
        self.qkv = nn.Linear(DIM, 3 * heads * width, bias=False)
        self.out = nn.Linear(heads * width, DIM)
        self.head = nn.Linear(DIM, 1)

    def forward(self, fields, numbers):
        embedded = [mlp(numbers[:, i : i + 1]) for i, mlp in enumerate(self.numbers)]
        tokens = torch.cat([self.vectors(fields), torch.stack(embedded, 1)], 1)
        rows, count, _ = tokens.shape
        query, key, value = (
            part.reshape(rows, count, self.heads, self.width).permute(0, 2, 1, 3)
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        scores = torch.einsum("bhid,bhjd->bhij", query, key) * self.width**-0.5
        attended = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), value)
        attended = attended.permute(0, 2, 1, 3).reshape(rows, count, self.heads * self.width)
        return torch.sigmoid(self.head((tokens + self.out(attended)).mean(1))).squeeze(-1)


class DLRM(Tabular):
    """DLRM (Naumov 2019): products of all pairs below the diagonal, read by their indices."""

    def __init__(self):
        super().__init__()
        self.bottom = nn.Sequential(
            nn.Linear(NUMBERS, 16), nn.ReLU(), nn.Linear(16, DIM), nn.ReLU()
        )
        pairs = (len(FIELDS) + 1) * len(FIELDS) // 2
        self.top = nn.Sequential(nn.Linear(DIM + pairs, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, fields, numbers):
        dense = self.bottom(numbers)
        joined = torch.cat([dense, *(t(fields[:, i]) for i, t in enumerate(self.tables))], dim=1)
        vectors = joined.view((dense.shape[0], -1, dense.shape[1]))
        products = torch.bmm(vectors, torch.transpose(vectors, 1, 2))
        _, rows, columns = products.shape
        lower = [(i, j) for i in range(rows) for j in range(min(i, columns))]
        below = products[
            :, torch.tensor([i for i, _ in lower]), torch.tensor([j for _, j in lower])
        ]
        return torch.sigmoid(self.top(torch.cat([dense, below], dim=1))).squeeze(1)


class ExpertsInOneParameter(Tabular):
    """MMoE (Ma 2018) with the experts' weights in one parameter; returns two tasks by name."""

    def __init__(self, experts=4, units=8):
        super().__init__()
        width = len(FIELDS) * DIM + NUMBERS
        self.experts = nn.Parameter(torch.randn(width, units, experts) * 0.1)
        self.bias = nn.Parameter(torch.zeros(experts))
        self.gates = nn.ParameterList(
            [nn.Parameter(torch.randn(width, experts) * 0.1) for _ in range(2)]
        )
        self.heads = nn.ModuleList([nn.Linear(units, 1) for _ in range(2)])

    def forward(self, fields, numbers):
        x = torch.cat([self.vectors(fields).flatten(1), numbers], 1)
        found = F.relu(torch.einsum("ij,jkl->ikl", x, self.experts) + self.bias)
        scores = []
        for gate, head in zip(self.gates, self.heads, strict=True):
            weights = F.softmax(x.mm(gate), dim=1).unsqueeze(1).expand(-1, found.shape[1], -1)
            scores.append(torch.sigmoid(head((found * weights).sum(2))).squeeze(1))
        return {"click": scores[0], "buy": scores[1]}


class CrossOfFields(Tabular):
    """xDeepFM's interaction network (Lian 2018) by two einsums, the weights as parameters."""

    def __init__(self, maps=5):
        super().__init__()
        fields = len(FIELDS)
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(maps, size, fields) * 0.2) for size in (fields, maps)]
        )
        self.out = nn.Linear(2 * maps + NUMBERS, 1)

    def forward(self, fields, numbers):
        first = last = self.vectors(fields)
        parts = [numbers]
        for weight in self.weights:
            outer = torch.einsum("bhd,bmd->bhmd", last, first)
            last = F.relu(torch.einsum("ohm,bhmd->bod", weight, outer))
            parts.append(last.sum(-1))
        return torch.sigmoid(self.out(torch.cat(parts, 1))).squeeze(1)


NETWORKS = (
    FTTransformer, TabTransformer, SAINT, DLRM, ExpertsInOneParameter, CrossOfFields,
)  # fmt: skip
