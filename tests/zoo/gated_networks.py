"""Networks of the zoo in which gates, masks or a domain change what other layers compute."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from zoo.click_log import FIELDS, NUMBERS
from zoo.field_networks import DIM, MultiTask, Named
from zoo.layers import MLP
from zoo.sequence_networks import Interest
from zoo.tabular_networks import Tabular

WIDTH = len(FIELDS) * DIM


class FinalMLP(Named):
    """FinalMLP (Mao 2023): two gated streams, fused by bilinear products of their heads."""

    def __init__(self, heads=2, size=8):
        super().__init__()
        self.heads, self.size = heads, size
        self.gates = nn.ModuleList(
            [nn.Sequential(nn.Linear(DIM, 8), nn.ReLU(), nn.Linear(8, WIDTH)) for _ in range(2)]
        )
        self.streams = nn.ModuleList([MLP(WIDTH, (24, size * heads), out=0) for _ in range(2)])
        self.own = nn.ModuleList([nn.Linear(size * heads, 1) for _ in range(2)])
        self.bilinear = nn.Parameter(torch.randn(heads, size * size, 1) * 0.1)

    def forward(self, x):
        flat = self.stacked(x).flatten(start_dim=1)
        contexts = (self.embeddings["c0"](x["c0"]), self.embeddings["c1"](x["c1"]))
        left, right = (
            stream(flat * (2 * torch.sigmoid(gate(context))))
            for stream, gate, context in zip(self.streams, self.gates, contexts, strict=True)
        )
        first, second = (part.view(-1, self.heads, self.size) for part in (left, right))
        crossed = torch.matmul(
            torch.matmul(
                first.unsqueeze(2), self.bilinear.view(self.heads, self.size, self.size)
            ).view(-1, self.heads, 1, self.size),
            second.unsqueeze(-1),
        )
        score = self.own[0](left) + self.own[1](right) + crossed.view(-1, self.heads).sum(1, True)
        return torch.sigmoid(score).squeeze(-1)


class MaskNet(Named):
    """MaskNet (Wang 2021), parallel blocks: masks computed from all fields, layer norms."""

    def __init__(self, blocks=3, width=16):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(DIM) for _ in FIELDS])
        self.masks = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH))
                for _ in range(blocks)
            ]
        )
        self.hidden = nn.ModuleList([nn.Linear(WIDTH, width, bias=False) for _ in range(blocks)])
        self.after = nn.ModuleList([nn.LayerNorm(width) for _ in range(blocks)])
        self.out = MLP(blocks * width, (16,), norm=False)

    def forward(self, x):
        vectors = self.stacked(x)
        flat = vectors.flatten(1)
        pieces = vectors.split(1, dim=1)
        normed = torch.cat([norm(p) for norm, p in zip(self.norms, pieces, strict=True)], 1)
        normed = normed.flatten(1)
        parts = [
            F.relu(after(hidden(mask(flat) * normed)))
            for mask, hidden, after in zip(self.masks, self.hidden, self.after, strict=True)
        ]
        return torch.sigmoid(self.out(torch.cat(parts, dim=-1))).squeeze(-1)


class GDCN(Named):
    """Gated deep & cross (Wang 2023): every cross layer passes through a gate of its own."""

    def __init__(self, layers=3):
        super().__init__()
        size = WIDTH + NUMBERS
        self.w = nn.ModuleList([nn.Linear(size, size, bias=False) for _ in range(layers)])
        self.gates = nn.ModuleList([nn.Linear(size, size, bias=False) for _ in range(layers)])
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(size)) for _ in range(layers)])
        self.mlp = MLP(size, (16,))

    def forward(self, x):
        first = crossed = torch.cat([self.stacked(x).flatten(1), x["numbers"]], 1)
        for layer, gate in enumerate(self.gates):
            step = first * (self.w[layer](crossed) + self.b[layer])
            crossed = step * torch.sigmoid(gate(crossed)) + crossed
        return torch.sigmoid(self.mlp(crossed).view(-1))


class AITM(MultiTask):
    """AITM (Xi 2021): attention hands what the first task knows to the second; two outputs."""

    def __init__(self, width=16):
        super().__init__()
        self.width = width
        self.bottoms = nn.ModuleList([MLP(self.size, (24, width), out=0) for _ in range(2)])
        self.info = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.1))
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.towers = nn.ModuleList([MLP(width, (8,)) for _ in range(2)])

    def forward(self, x):
        flat = self.flat(x)
        click, buy = (bottom(flat) for bottom in self.bottoms)
        both = torch.cat([self.info(click).unsqueeze(1), buy.unsqueeze(1)], dim=1)
        scores = torch.sum(self.k(both) * self.q(both), 2, keepdim=True) / math.sqrt(self.width)
        fused = torch.sum(torch.softmax(scores, dim=1) * self.v(both), 1)
        first, second = self.towers
        return torch.sigmoid(first(click)).squeeze(1), torch.sigmoid(second(fused)).squeeze(1)


class STAR(Named):
    """Star topology (Sheng 2021): a domain's weights times shared ones, batch norm by domain."""

    domain = "c5"

    def __init__(self, width=16):
        super().__init__()
        self.domains = FIELDS[5]
        self.shared = nn.Parameter(torch.randn(WIDTH, width) * 0.2)
        self.weights = nn.Parameter(torch.ones(self.domains, WIDTH, width))
        self.biases = nn.Parameter(torch.zeros(self.domains, width))
        self.scale = nn.Parameter(torch.ones(self.domains, WIDTH))
        self.shift = nn.Parameter(torch.zeros(self.domains, WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH, affine=False)
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        domain = x[self.domain]
        flat = self.norm(self.stacked(x).flatten(1)) * self.scale[domain] + self.shift[domain]
        weight = self.shared.unsqueeze(0) * self.weights.index_select(0, domain)
        hidden = torch.bmm(flat.unsqueeze(1), weight).squeeze(1) + self.biases[domain]
        return torch.sigmoid(self.out(F.leaky_relu(hidden))).squeeze(1)


class CoAction(Interest):
    """Co-action network (Bian 2022): the item's row is an MLP that runs over the history."""

    def __init__(self, width=4):
        super().__init__()
        self.shapes = ((DIM, width), (width, width))
        self.induced = nn.Embedding(61, sum(a * b + b for a, b in self.shapes))
        nn.init.normal_(self.induced.weight, std=0.3)
        self.mlp = MLP(2 * DIM + sum(b for _, b in self.shapes), (16,), norm=False)

    def forward(self, x):
        history, item = x["history"], x["item"]
        hidden = self.item(history)
        mask = (history != 0).unsqueeze(-1).float()
        numbers, start, parts = self.induced(item), 0, []
        for rows, columns in self.shapes:
            weight = numbers[:, start : start + rows * columns].reshape(-1, rows, columns)
            start += rows * columns
            bias = numbers[:, start : start + columns].unsqueeze(1)
            start += columns
            hidden = torch.tanh(torch.bmm(hidden, weight) + bias)
            parts.append((hidden * mask).sum(1))
        joined = torch.cat([self.user(x["user"]), self.item(item), *parts], -1)
        return torch.sigmoid(self.mlp(joined)).squeeze(-1)


class ComiRec(Interest):
    """ComiRec (Cen 2020), self-attentive: four interests, and the one that fits the item best."""

    def __init__(self, interests=4):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 8, DIM) * 0.1)
        self.w1, self.w2 = nn.Linear(DIM, 4 * DIM, bias=False), nn.Linear(4 * DIM, interests, False)

    def forward(self, x):
        history = x["history"]
        vectors = self.item(history)
        scores = self.w2(torch.tanh(self.w1(vectors + self.positions))).transpose(1, 2)
        mask = (history > 0).unsqueeze(1).expand(-1, scores.size(1), -1)
        weights = F.softmax(torch.where(mask, scores, torch.full_like(scores, -(2.0**31))), dim=-1)
        interests = torch.matmul(weights, vectors)
        fits = torch.matmul(interests, self.item(x["item"]).unsqueeze(-1)).squeeze(-1)
        best = interests.gather(1, fits.argmax(1).view(-1, 1, 1).expand(-1, 1, DIM)).squeeze(1)
        return torch.sigmoid((best * self.item(x["item"])).sum(-1))


class HSTU(Interest):
    """HSTU (Zhai 2024): attention by SiLU instead of softmax, relative positions, gated outputs."""

    def __init__(self, heads=2, width=4, layers=2):
        super().__init__()
        self.heads, self.width = heads, width
        self.projections = nn.ModuleList([nn.Linear(DIM, 4 * heads * width) for _ in range(layers)])
        self.outs = nn.ModuleList([nn.Linear(heads * width, DIM) for _ in range(layers)])
        self.distances = nn.Parameter(torch.randn(15) * 0.1)

    def forward(self, x):
        history = x["history"]
        rows, steps = history.shape
        places = torch.arange(steps, device=history.device)
        bias = self.distances[places.unsqueeze(1) - places.unsqueeze(0) + steps - 1]
        allowed = torch.tril(torch.ones(steps, steps, dtype=torch.bool, device=history.device))
        allowed = allowed.unsqueeze(0) & (history > 0).unsqueeze(1)
        vectors = self.item(history)
        for projection, out in zip(self.projections, self.outs, strict=True):
            normed = F.layer_norm(vectors, (DIM,))
            gate, value, query, key = F.silu(projection(normed)).chunk(4, dim=-1)
            query, key, value = (
                part.view(rows, steps, self.heads, self.width) for part in (query, key, value)
            )
            scores = F.silu(torch.einsum("bnhd,bmhd->bhnm", query, key) + bias) / steps
            scores = scores * allowed.unsqueeze(1)
            mixed = torch.einsum("bhnm,bmhd->bnhd", scores, value).reshape(rows, steps, -1)
            vectors = vectors + out(F.layer_norm(mixed, (mixed.shape[-1],)) * gate)
        return torch.sigmoid((vectors[:, -1] * self.item(x["item"])).sum(-1))


class NeuMF(Interest):
    """Neural matrix factorisation (He 2017): a product and an MLP, with tables of their own."""

    def __init__(self):
        super().__init__()
        self.user_mlp, self.item_mlp = nn.Embedding(FIELDS[0], DIM), nn.Embedding(61, DIM)
        self.mlp = MLP(2 * DIM, (16, 8), out=0, norm=False)
        self.out = nn.Linear(DIM + 8, 1)

    def forward(self, x):
        user, item = x["user"], x["item"]
        product = torch.mul(self.user(user), self.item(item))
        deep = self.mlp(torch.cat((self.user_mlp(user), self.item_mlp(item)), -1))
        return torch.sigmoid(self.out(torch.cat((product, deep), -1))).view(-1)


class TabM(Tabular):
    """TabM (Gorishniy 2025): members share weights but for scales; numbers as sines and cosines."""

    def __init__(self, members=4, frequencies=6, width=16):
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(NUMBERS, frequencies) * 0.5)
        self.number = nn.Parameter(torch.randn(NUMBERS, 2 * frequencies, 4) * 0.3)
        size = WIDTH + NUMBERS * 4
        self.scale = nn.Parameter(torch.randint(0, 2, (members, size)).float() * 2 - 1)
        self.hidden = nn.Linear(size, width)
        self.bias = nn.Parameter(torch.randn(members, width) * 0.1)
        self.heads = nn.Parameter(torch.randn(members, width, 1) * 0.3)

    def forward(self, fields, numbers):
        waves = 2 * math.pi * self.frequencies[None] * numbers[..., None]
        waves = torch.cat([torch.cos(waves), torch.sin(waves)], -1)
        waves = F.relu(torch.einsum("bnf,nfd->bnd", waves, self.number))
        flat = torch.cat([self.vectors(fields).flatten(1), waves.flatten(1)], 1)
        members = flat.unsqueeze(1).expand(-1, self.scale.shape[0], -1) * self.scale
        hidden = F.relu(self.hidden(members) + self.bias)
        scores = torch.einsum("bmw,mwo->bmo", hidden, self.heads)
        return torch.sigmoid(scores).mean(1).squeeze(-1)


class AutoDis(Tabular):
    """AutoDis (Guo 2021): a number's vector is a softmax mixture of learned bucket vectors."""

    def __init__(self, buckets=6):
        super().__init__()
        self.meta = nn.Parameter(torch.randn(NUMBERS, buckets, DIM) * 0.2)
        self.first = nn.Parameter(torch.randn(NUMBERS, 1, buckets))
        self.second = nn.Parameter(torch.randn(NUMBERS, buckets, buckets) * 0.4)
        self.temperature = nn.Parameter(torch.tensor([0.7, 1.3]))
        self.mlp = MLP(WIDTH + NUMBERS * DIM, (16,))

    def forward(self, fields, numbers):
        columns = numbers.transpose(0, 1).unsqueeze(-1)
        hidden = F.leaky_relu(torch.bmm(columns, self.first))
        scores = torch.bmm(hidden, self.second) + 0.5 * hidden
        weights = torch.softmax(scores / self.temperature.view(-1, 1, 1), dim=-1)
        mixed = torch.bmm(weights, self.meta).permute(1, 0, 2)
        flat = torch.cat([self.vectors(fields), mixed], 1).flatten(1)
        return torch.sigmoid(self.mlp(flat)).squeeze(1)


NETWORKS = (
    FinalMLP, MaskNet, GDCN, AITM, STAR, CoAction, ComiRec, HSTU, NeuMF, TabM, AutoDis,
)  # fmt: skip
