"""Networks of the zoo that take fields by name, or one float matrix whose slices are IDs."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F
from zoo.click_log import FIELDS, ITEMS, NUMBERS, Log
from zoo.layers import MLP

DIM = 8
NAMES = tuple(f"c{i}" for i in range(len(FIELDS)))


class Named(nn.Module):
    """Takes a dict of int64 columns [rows] and one of numbers; an embedding per field."""

    def __init__(self, dim=DIM):
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {name: nn.Embedding(size, dim) for name, size in zip(NAMES, FIELDS, strict=True)}
        )
        for table in self.embeddings.values():
            nn.init.normal_(table.weight, std=0.1)

    @staticmethod
    def inputs(log: Log):
        columns = {name: log.fields[:, i] for i, name in enumerate(NAMES)}
        return ({**columns, "numbers": log.numbers},)

    def stacked(self, x):
        return torch.stack([self.embeddings[name](x[name]) for name in NAMES], dim=1)


class WideDeep(Named):
    """Wide & Deep (Cheng 2016): the wide part reads tables of width 1."""

    def __init__(self):
        super().__init__()
        self.wide = nn.ModuleDict(
            {n: nn.Embedding(s, 1) for n, s in zip(NAMES, FIELDS, strict=True)}
        )
        self.mlp = MLP(len(FIELDS) * DIM + NUMBERS, (32, 16))

    def forward(self, x):
        wide = sum(self.wide[name](x[name]) for name in NAMES)
        deep = torch.cat([*(self.embeddings[name](x[name]) for name in NAMES), x["numbers"]], -1)
        return torch.sigmoid(wide + self.mlp(deep)).squeeze(-1)


class DCNv2(Named):
    """DCN-v2 (Wang 2021): a mixture of low-rank cross layers."""

    def __init__(self, experts=2, rank=4, layers=2):
        super().__init__()
        size = len(FIELDS) * DIM + NUMBERS
        make = nn.ParameterList
        self.u = make([nn.Parameter(torch.randn(experts, size, rank) * 0.1) for _ in range(layers)])
        self.v = make([nn.Parameter(torch.randn(experts, size, rank) * 0.1) for _ in range(layers)])
        self.c = make([nn.Parameter(torch.randn(experts, rank, rank) * 0.3) for _ in range(layers)])
        self.b = make([nn.Parameter(torch.zeros(size, 1)) for _ in range(layers)])
        self.gates = nn.ModuleList([nn.Linear(size, 1, bias=False) for _ in range(experts)])
        self.mlp = MLP(size, (16,), out=0)
        self.out = nn.Linear(size + 16, 1)

    def forward(self, x):
        flat = torch.cat([self.stacked(x).flatten(1), x["numbers"]], 1)
        x0 = xl = flat.unsqueeze(2)
        for layer in range(len(self.b)):
            outs, gates = [], []
            for expert, gate in enumerate(self.gates):
                gates.append(gate(xl.squeeze(2)))
                v = torch.tanh(torch.matmul(self.v[layer][expert].t(), xl))
                v = torch.tanh(torch.matmul(self.c[layer][expert], v))
                outs.append(
                    (x0 * (torch.matmul(self.u[layer][expert], v) + self.b[layer])).squeeze(2)
                )
            mixed = torch.matmul(torch.stack(outs, 2), torch.stack(gates, 1).softmax(1))
            xl = mixed + xl
        return torch.sigmoid(self.out(torch.cat([xl.squeeze(2), self.mlp(flat)], 1)))[:, 0]


class FiBiNET(Named):
    """FiBiNET (Huang 2019): squeeze and excitation, bilinear interaction of each pair."""

    def __init__(self):
        super().__init__()
        count = len(FIELDS)
        self.excite = nn.Sequential(
            nn.Linear(count, 2, bias=False), nn.ReLU(), nn.Linear(2, count, bias=False), nn.ReLU()
        )
        self.each = nn.ModuleList([nn.Linear(DIM, DIM, bias=False) for _ in range(count)])
        self.all = nn.Linear(DIM, DIM, bias=False)
        self.mlp = MLP(count * (count - 1) * DIM, (16,), activation=nn.Sigmoid)

    def forward(self, x):
        vectors = self.stacked(x)
        scaled = vectors * self.excite(torch.mean(vectors, dim=-1)).unsqueeze(2)
        parts = torch.split(vectors, 1, dim=1)
        first = [
            torch.mul(self.each[i](parts[i]), parts[j])
            for i, j in itertools.combinations(range(len(parts)), 2)
        ]
        parts = torch.split(scaled, 1, dim=1)
        second = [self.all(v) * w for v, w in itertools.combinations(parts, 2)]
        return torch.sigmoid(self.mlp(torch.cat(first + second, dim=1).flatten(1))).view(-1)


class Bags(nn.Module):
    """Takes one positional argument a field, of several IDs: EmbeddingBag by sum and by mean."""

    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(sum(FIELDS), DIM, mode="sum")
        self.history = nn.EmbeddingBag(ITEMS, DIM, mode="mean", padding_idx=0)
        self.register_buffer("offsets", torch.tensor([0, *FIELDS[:-1]]).cumsum(0))
        self.mlp = MLP(2 * DIM, (16,), activation=nn.GELU, norm=False)

    @staticmethod
    def inputs(log: Log):
        return (log.fields, log.history)

    def forward(self, fields, history):
        x = torch.cat([self.bag(fields + self.offsets), self.history(history)], dim=1)
        return torch.sigmoid(self.mlp(x)).squeeze(1)


class FloatMatrix(nn.Module):
    """Takes one float matrix, its columns found by an index: IDs are slices cast to int64."""

    def __init__(self, dim=DIM):
        super().__init__()
        self.columns = {name: (i, i + 1) for i, name in enumerate(NAMES)}
        self.columns["numbers"] = (len(NAMES), len(NAMES) + NUMBERS)
        self.tables = nn.ModuleDict(
            {
                name: nn.Embedding(size, dim, sparse=False)
                for name, size in zip(NAMES, FIELDS, strict=True)
            }
        )
        self.ones = nn.ModuleDict(
            {name: nn.Embedding(size, 1) for name, size in zip(NAMES, FIELDS, strict=True)}
        )
        self.weight = nn.Parameter(torch.randn(NUMBERS, 1) * 0.1)
        for table in (*self.tables.values(), *self.ones.values()):
            nn.init.normal_(table.weight, std=0.1)

    @staticmethod
    def inputs(log: Log):
        return (torch.cat([log.fields.float(), log.numbers], 1),)

    def looked_up(self, X, tables):
        return [tables[name](X[:, slice(*self.columns[name])].long()) for name in NAMES]

    def linear(self, X):
        values = torch.cat(self.looked_up(X, self.ones), dim=-1)
        dense = X[:, slice(*self.columns["numbers"])].matmul(self.weight)
        return torch.sum(values, dim=-1, keepdim=False) + dense


class DeepFM(FloatMatrix):
    """DeepFM (Guo 2017)."""

    def __init__(self):
        super().__init__()
        self.mlp = MLP(len(FIELDS) * DIM + NUMBERS, (16,), norm=False)

    def forward(self, X):
        vectors = torch.cat(self.looked_up(X, self.tables), dim=1)
        square_of_sum = torch.pow(torch.sum(vectors, dim=1, keepdim=True), 2)
        sum_of_square = torch.sum(vectors * vectors, dim=1, keepdim=True)
        cross = 0.5 * torch.sum(square_of_sum - sum_of_square, dim=2, keepdim=False)
        flat = torch.cat(
            [torch.flatten(vectors, start_dim=1), X[:, slice(*self.columns["numbers"])]], dim=-1
        )
        return torch.sigmoid(self.linear(X) + cross + self.mlp(flat))


class FLEN(FloatMatrix):
    """FLEN (Chen 2019): field-wise bi-interaction of groups of fields."""

    def __init__(self):
        super().__init__()
        self.groups = ((0, 1), (2, 3), (4, 5))
        self.between = nn.Parameter(torch.randn(3, 1) * 0.3)
        self.within = nn.Parameter(torch.randn(3, 1) * 0.3)
        self.mlp = MLP(len(FIELDS) * DIM, (16,), activation=nn.PReLU)
        self.out = nn.Linear(2 * DIM + 16, 1, bias=False)
        self.mlp = MLP(len(FIELDS) * DIM, (16,), out=0, activation=nn.PReLU)

    def forward(self, X):
        vectors = self.looked_up(X, self.tables)
        groups = [torch.cat([vectors[i] for i in group], dim=1) for group in self.groups]
        sums = torch.stack([group.sum(1) for group in groups], dim=1)
        left = torch.stack([sums[:, i] for i, _ in itertools.combinations(range(3), 2)], 1)
        right = torch.stack([sums[:, j] for _, j in itertools.combinations(range(3), 2)], 1)
        between = torch.tensordot(left * right, self.between, dims=([1], [0])).squeeze(2)
        own = torch.stack([g.sum(1) ** 2 - (g * g).sum(1) for g in groups], dim=1)
        within = torch.tensordot(0.5 * own, self.within, dims=([1], [0])).squeeze(2)
        deep = self.mlp(torch.cat(vectors, 1).flatten(1))
        return torch.sigmoid(self.out(torch.cat([between, within, deep], 1)) + self.linear(X))


class IFM(FloatMatrix):
    """Input-aware FM (Yu 2019): a softmax factor reweights every field for each sample."""

    def __init__(self):
        super().__init__()
        self.factor = MLP(len(FIELDS) * DIM, (16,), out=0, norm=False)
        self.transform = nn.Linear(16, len(FIELDS), bias=False)

    def forward(self, X):
        vectors = torch.cat(self.looked_up(X, self.tables), 1)
        weights = self.transform(self.factor(vectors.flatten(1)))
        weights = len(FIELDS) * torch.softmax(weights, 1)
        first = torch.cat(self.looked_up(X, self.ones), -1).squeeze(1) * weights
        refined = vectors * weights.unsqueeze(-1)
        cross = 0.5 * (refined.sum(1).pow(2) - refined.pow(2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(first.sum(1, keepdim=True) + cross).flatten()


class MultiTask(Named):
    """Several click heads over shared fields: forward returns a tuple or a dict."""

    def __init__(self):
        super().__init__()
        self.size = len(FIELDS) * DIM + NUMBERS

    def flat(self, x):
        return torch.cat([self.stacked(x).flatten(1), x["numbers"]], 1)


class SharedBottom(MultiTask):
    """One body, two heads; returns a tuple."""

    def __init__(self):
        super().__init__()
        self.body = MLP(self.size, (24,), out=0)
        self.heads = nn.ModuleList([MLP(24, (8,)) for _ in range(2)])

    def forward(self, x):
        shared = self.body(self.flat(x))
        return tuple(torch.sigmoid(head(shared)).squeeze(1) for head in self.heads)


class ESMM(MultiTask):
    """Entire-space model (Ma 2018): returns click and click-and-buy by name."""

    def __init__(self):
        super().__init__()
        self.click, self.buy = MLP(self.size, (16,)), MLP(self.size, (16,))

    def forward(self, x):
        flat = self.flat(x)
        click = torch.sigmoid(self.click(flat)).squeeze(-1)
        buy = torch.sigmoid(self.buy(flat)).squeeze(-1)
        return {"click": click, "click_and_buy": click * buy}


class MMoE(MultiTask):
    """Multi-gate mixture of experts (Ma 2018); returns one matrix [rows, tasks]."""

    def __init__(self, experts=3, tasks=2):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(self.size, 12, experts) * 0.2)
        self.bias = nn.Parameter(torch.zeros(12, experts))
        self.gates = nn.ParameterList(
            [nn.Parameter(torch.randn(self.size, experts) * 0.2) for _ in range(tasks)]
        )
        self.towers = nn.ModuleList([MLP(12, (8,)) for _ in range(tasks)])

    def forward(self, x):
        flat = self.flat(x)
        experts = F.relu(torch.einsum("ij,jkl->ikl", flat, self.experts) + self.bias)
        scores = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = F.softmax(torch.einsum("ab,bc->ac", flat, gate), dim=-1)
            expanded = weights.unsqueeze(1).expand_as(experts)
            scores.append(torch.sigmoid(tower((experts * expanded).sum(2))))
        return torch.cat(scores, -1)


class PLE(MultiTask):
    """Progressive layered extraction (Tang 2020): shared and own experts, two levels."""

    def __init__(self):
        super().__init__()

        def experts(size):
            return nn.ModuleList([MLP(size, (12,), out=0) for _ in range(6)])

        def gates(size, last):
            sizes = (4, 4) if last else (4, 4, 6)
            return nn.ModuleList([nn.Linear(size, count) for count in sizes])

        self.experts = nn.ModuleList([experts(self.size), experts(12)])
        self.gates = nn.ModuleList([gates(self.size, last=False), gates(12, last=True)])
        self.towers = nn.ModuleList([MLP(12, (8,)) for _ in range(2)])

    def forward(self, x):
        states = [self.flat(x)] * 3
        for experts, gates in zip(self.experts, self.gates, strict=True):
            first = [experts[i](states[0]) for i in (0, 1)]
            second = [experts[i](states[1]) for i in (2, 3)]
            shared = [experts[i](states[2]) for i in (4, 5)]
            mixed = []
            for which, gate in enumerate(gates):
                own = (first + shared, second + shared, first + second + shared)[which]
                stacked = torch.stack(own, 1)
                weights = torch.softmax(gate(states[which]), 1)
                mixed.append(torch.bmm(weights.unsqueeze(1), stacked).squeeze(1))
            states = mixed
        return [torch.sigmoid(tower(s)) for tower, s in zip(self.towers, states, strict=False)]


NETWORKS = (WideDeep, DCNv2, FiBiNET, Bags, DeepFM, FLEN, IFM, SharedBottom, ESMM, MMoE, PLE)
