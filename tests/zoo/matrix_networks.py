"""Networks of the zoo that take one int64 index matrix [rows, fields] (factorisation machines)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from zoo.click_log import FIELDS, Log
from zoo.layers import FM, MLP, OffsetEmbedding

DIM = 8


class Matrix(nn.Module):
    """Takes the index matrix; a score [rows] or [rows, 1] goes through a sigmoid."""

    def __init__(self):
        super().__init__()
        self.linear = OffsetEmbedding(FIELDS, 1)
        self.bias = nn.Parameter(torch.zeros(1))

    @staticmethod
    def inputs(log: Log):
        return (log.fields,)

    def first_order(self, x):
        return torch.sum(self.linear(x), dim=1) + self.bias

    def forward(self, x):
        return torch.sigmoid(self.score(x).squeeze(1))


class LR(Matrix):
    """Logistic regression."""

    def score(self, x):
        return self.first_order(x)


class FactorizationMachine(Matrix):
    """FM (Rendle 2010)."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.fm = FM()

    def score(self, x):
        return self.first_order(x) + self.fm(self.embedding(x))


class FFM(Matrix):
    """Field-aware FM (Juan 2016): a table for every field that a value meets."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(sum(FIELDS), 4) for _ in FIELDS])
        self.offsets = np.array((0, *np.cumsum(FIELDS)[:-1]), dtype=np.int64)
        for table in self.embeddings:
            nn.init.normal_(table.weight, std=0.1)

    def crossed(self, x):
        x = x + x.new_tensor(self.offsets).unsqueeze(0)
        xs = [table(x) for table in self.embeddings]
        count = len(FIELDS)
        pairs = [xs[j][:, i] * xs[i][:, j] for i in range(count - 1) for j in range(i + 1, count)]
        return torch.stack(pairs, dim=1)

    def score(self, x):
        return self.first_order(x) + self.crossed(x).sum(dim=1).sum(dim=1, keepdim=True)


class FNFM(FFM):
    """Field-aware neural FM (Zhang 2019): the crossed vectors go through an MLP."""

    def __init__(self):
        super().__init__()
        count = len(FIELDS) * (len(FIELDS) - 1) // 2 * 4
        self.norm = nn.BatchNorm1d(count)
        self.mlp = MLP(count, (16,))

    def score(self, x):
        crossed = self.crossed(x).view(x.size(0), -1)
        return self.first_order(x) + self.mlp(self.norm(crossed))


class FwFM(Matrix):
    """Field-weighted FM (Pan 2018): a learned weight for every pair of fields."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        count = len(FIELDS)
        self.weights = nn.Parameter(torch.randn(count, count) * 0.1)
        self.register_buffer("upper", torch.triu(torch.ones(count, count), 1).bool())

    def score(self, x):
        vectors = self.embedding(x)
        products = torch.matmul(vectors, vectors.transpose(1, 2))
        weighted = products * self.weights
        return self.first_order(x) + torch.masked_select(weighted, self.upper).view(
            x.shape[0], -1
        ).sum(1, keepdim=True)


class HOFM(Matrix):
    """Higher-order FM (Blondel 2016): the ANOVA kernels of order 2 and 3, by their recurrence."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, 2 * DIM)

    @staticmethod
    def anova(x, order):
        rows, fields, dim = x.shape
        before = torch.ones((rows, fields + 1, dim), dtype=torch.float).to(x.device)
        for t in range(order):
            after = torch.zeros((rows, fields + 1, dim), dtype=torch.float).to(x.device)
            after[:, t + 1 :, :] += x[:, t:, :] * before[:, t:-1, :]
            before = torch.cumsum(after, dim=1)
        return torch.sum(before[:, -1, :], dim=-1, keepdim=True)

    def score(self, x):
        vectors = self.embedding(x)
        y = self.first_order(x) + FM()(vectors[:, :, :DIM])
        return y + self.anova(vectors[:, :, DIM:], 3)


class NFM(Matrix):
    """Neural FM (He 2017): bi-interaction pooling, then an MLP."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.fm = nn.Sequential(FM(reduce_sum=False), nn.BatchNorm1d(DIM), nn.Dropout(0.1))
        self.mlp = MLP(DIM, (16,))

    def score(self, x):
        return self.first_order(x) + self.mlp(self.fm(self.embedding(x)))


class AFM(Matrix):
    """Attentional FM (Xiao 2017)."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.attention = nn.Linear(DIM, 6)
        self.projection = nn.Linear(6, 1)
        self.fc = nn.Linear(DIM, 1)

    def score(self, x):
        vectors = self.embedding(x)
        row, col = [], []
        for i in range(len(FIELDS) - 1):
            for j in range(i + 1, len(FIELDS)):
                row.append(i), col.append(j)
        inner = vectors[:, row] * vectors[:, col]
        scores = self.projection(F.relu(self.attention(inner)))
        scores = F.dropout(F.softmax(scores, dim=1), p=0.2, training=self.training)
        pooled = torch.sum(scores * inner, dim=1)
        return self.first_order(x) + self.fc(F.dropout(pooled, p=0.2, training=self.training))


class XDeepFM(Matrix):
    """xDeepFM (Lian 2018): the compressed interaction network as 1-d convolutions, half split."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.mlp = MLP(len(FIELDS) * DIM, (16,))
        self.convs, inputs, total = nn.ModuleList(), len(FIELDS), 0
        for place, size in enumerate((8, 8)):
            self.convs.append(nn.Conv1d(len(FIELDS) * inputs, size, 1))
            size = size if place == 1 else size // 2
            inputs, total = size, total + size
        self.fc = nn.Linear(total, 1)

    def cin(self, x):
        parts, x0, h = [], x.unsqueeze(2), x
        for place, conv in enumerate(self.convs):
            product = x0 * h.unsqueeze(1)
            rows, f0, fin, dim = product.shape
            product = F.relu(conv(product.view(rows, f0 * fin, dim)))
            if place != len(self.convs) - 1:
                product, h = torch.split(product, product.shape[1] // 2, dim=1)
            parts.append(product)
        return self.fc(torch.sum(torch.cat(parts, dim=1), 2))

    def score(self, x):
        vectors = self.embedding(x)
        return self.first_order(x) + self.cin(vectors) + self.mlp(vectors.view(x.size(0), -1))


class DCN(Matrix):
    """Deep & Cross (Wang 2017): vector weights."""

    def __init__(self):
        super().__init__()
        size = len(FIELDS) * DIM
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.w = nn.ModuleList([nn.Linear(size, 1, bias=False) for _ in range(3)])
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(size)) for _ in range(3)])
        self.mlp = MLP(size, (16,), out=0)
        self.out = nn.Linear(size + 16, 1)

    def score(self, x):
        x0 = x1 = self.embedding(x).flatten(1)
        for w, b in zip(self.w, self.b, strict=True):
            x1 = x0 * w(x1) + b + x1
        return self.out(torch.cat([x1, self.mlp(x0)], dim=1))


class AFN(Matrix):
    """Adaptive factorisation (Cheng 2020): products of powers in log space."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.log_norm = nn.BatchNorm1d(len(FIELDS))
        self.lnn = nn.Linear(len(FIELDS), 10)
        self.exp_norm = nn.BatchNorm1d(10)
        self.mlp = MLP(10 * DIM, (16,))

    def score(self, x):
        vectors = torch.clamp(torch.abs(self.embedding(x)), min=1e-4)
        logs = self.log_norm(torch.log(vectors)).transpose(2, 1)
        powers = self.exp_norm(torch.exp(self.lnn(logs)).transpose(2, 1))
        return self.mlp(powers.contiguous().view(x.size(0), -1))


class LNN(Matrix):
    """Logarithmic neurons as the LNN layer of public code has them: log1p, a matrix, expm1."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.weight = nn.Parameter(torch.randn(12, len(FIELDS)) * 0.2)
        self.bias = nn.Parameter(torch.zeros(12, 1))
        self.mlp = MLP(12 * DIM, (16,))

    def score(self, x):
        logs = torch.log1p(torch.abs(self.embedding(x)) + 1e-7)
        hidden = torch.expm1(torch.matmul(self.weight, logs) + self.bias)
        return self.mlp(F.relu(hidden).contiguous().view(x.size(0), -1))


class InnerPNN(Matrix):
    """Product network, inner products (Qu 2016)."""

    def __init__(self):
        super().__init__()
        pairs = len(FIELDS) * (len(FIELDS) - 1) // 2
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.mlp = MLP(len(FIELDS) * DIM + pairs, (16,))

    def score(self, x):
        vectors = self.embedding(x)
        row, col = torch.triu_indices(len(FIELDS), len(FIELDS), 1)
        inner = torch.sum(vectors[:, row] * vectors[:, col], dim=2)
        return self.mlp(torch.cat([vectors.view(x.size(0), -1), inner], dim=1))


class OuterPNN(Matrix):
    """Product network, outer products with a kernel for every pair."""

    def __init__(self):
        super().__init__()
        pairs = len(FIELDS) * (len(FIELDS) - 1) // 2
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.kernel = nn.Parameter(torch.randn(DIM, pairs, DIM) * 0.2)
        self.mlp = MLP(len(FIELDS) * DIM + pairs, (16,))

    def score(self, x):
        vectors = self.embedding(x)
        row = [i for i in range(len(FIELDS)) for _ in range(i + 1, len(FIELDS))]
        col = [j for i in range(len(FIELDS)) for j in range(i + 1, len(FIELDS))]
        p, q = vectors[:, row], vectors[:, col]
        kp = torch.sum(p.unsqueeze(1) * self.kernel, dim=-1).permute(0, 2, 1)
        return self.mlp(torch.cat([vectors.flatten(1), torch.sum(kp * q, -1)], dim=1))


class DeepCrossing(Matrix):
    """Deep Crossing (Shan 2016): residual units."""

    def __init__(self):
        super().__init__()
        size = len(FIELDS) * DIM
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.units = nn.ModuleList(
            [nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, size)) for _ in range(2)]
        )
        self.out = nn.Linear(size, 1)

    def score(self, x):
        x = self.embedding(x).reshape(x.shape[0], -1)
        for unit in self.units:
            x = torch.relu(unit(x) + x)
        return self.out(x)


class AutoInt(Matrix):
    """AutoInt (Song 2019) with torch's own multi-head attention over fields."""

    def __init__(self):
        super().__init__()
        self.embedding = OffsetEmbedding(FIELDS, DIM)
        self.attentions = nn.ModuleList(
            [nn.MultiheadAttention(DIM, 2, dropout=0.1) for _ in range(2)]
        )
        self.residual = nn.Linear(DIM, DIM)
        self.fc = nn.Linear(len(FIELDS) * DIM, 1)

    def score(self, x):
        vectors = self.embedding(x)
        cross = vectors.transpose(0, 1)
        for attention in self.attentions:
            cross, _ = attention(cross, cross, cross)
        cross = F.relu(cross.transpose(0, 1) + self.residual(vectors))
        return self.first_order(x) + self.fc(cross.contiguous().view(-1, len(FIELDS) * DIM))


NETWORKS = (
    LR, FactorizationMachine, FFM, FNFM, FwFM, HOFM, NFM, AFM, XDeepFM, DCN, AFN, LNN, InnerPNN,
    OuterPNN, DeepCrossing, AutoInt,
)  # fmt: skip
