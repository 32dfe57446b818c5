"""Networks of the zoo that read a behaviour history (interest models)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from zoo.click_log import FIELDS, ITEMS, STEPS, Log
from zoo.layers import MLP, Dice

DIM = 8


class Interest(nn.Module):
    """Takes a dict: user int64 [rows], item int64 [rows], history int64 [rows, steps], 0 pads."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(FIELDS[0], DIM)
        self.item = nn.Embedding(ITEMS, DIM, padding_idx=0)  # shared by item and history

    @staticmethod
    def inputs(log: Log):
        return ({"user": log.fields[:, 0], "item": log.item, "history": log.history},)


class DIN(Interest):
    """Deep interest network (Zhou 2018): local activation units, Dice, masked scores."""

    def __init__(self, softmax=False):
        super().__init__()
        self.softmax = softmax
        self.unit = nn.Sequential(
            nn.Linear(4 * DIM, 16), nn.Sigmoid(), nn.Linear(16, 8), nn.PReLU(), nn.Linear(8, 1)
        )
        self.mlp = MLP(3 * DIM, (24, 12), activation=Dice)

    def pooled(self, query, keys, mask):
        queries = query.unsqueeze(1).expand(-1, keys.shape[1], -1)
        joined = torch.cat([queries, keys, queries - keys, queries * keys], dim=-1)
        scores = self.unit(joined).transpose(1, 2)
        if self.softmax:
            padding = torch.ones_like(scores) * (-(2**32) + 1)
            scores = torch.where(mask.unsqueeze(1), scores, padding).softmax(-1)
        else:
            scores = torch.where(mask.unsqueeze(1), scores, torch.zeros_like(scores))
        return torch.matmul(scores, keys).squeeze(1)

    def forward(self, x):
        query, keys = self.item(x["item"]), self.item(x["history"])
        interest = self.pooled(query, keys, x["history"] > 0)
        return torch.sigmoid(self.mlp(torch.cat([self.user(x["user"]), query, interest], 1)))


class DINWithLengths(nn.Module):
    """DIN as float-matrix libraries write it: history columns and a length column in one matrix."""

    def __init__(self):
        super().__init__()
        self.user, self.items = nn.Embedding(FIELDS[0], DIM), nn.Embedding(ITEMS, DIM)
        self.unit = MLP(4 * DIM, (16,), activation=nn.Sigmoid, norm=False)
        self.mlp = MLP(3 * DIM, (16,))

    @staticmethod
    def inputs(log: Log):
        lengths = (log.history > 0).sum(1, keepdim=True)
        columns = [log.fields[:, :1], log.item[:, None], log.history, lengths]
        return (torch.cat(columns, 1).float(),)

    def forward(self, X):
        query = self.items(X[:, 1:2].long())
        keys = self.items(X[:, 2 : 2 + STEPS].long())
        lengths = X[:, 2 + STEPS :].long()
        queries = query.expand(-1, STEPS, -1)
        scores = self.unit(torch.cat([queries, keys, queries - keys, queries * keys], -1))
        scores = torch.transpose(scores, 1, 2)
        mask = torch.arange(STEPS, device=X.device)[None, :] < lengths
        paddings = torch.zeros_like(scores)
        scores = torch.where(mask.unsqueeze(1), scores, paddings)
        interest = torch.matmul(scores, keys)
        vectors = torch.cat([self.user(X[:, 0:1].long()), query, interest], dim=-1).squeeze(1)
        return torch.sigmoid(self.mlp(vectors)).squeeze(1)


class DIEN(Interest):
    """Deep interest evolution (Zhou 2019): a GRU, attention, then a GRU with attentional update."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(DIM, DIM, batch_first=True)
        self.attention = nn.Linear(DIM, DIM, bias=False)
        self.from_input, self.from_state = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, 3 * DIM)
        self.mlp = MLP(3 * DIM, (16,), activation=Dice)

    def evolved(self, states, weights):
        """AUGRU: the attention weight scales the update gate."""
        h = torch.zeros(states.shape[0], DIM, device=states.device)
        for step in range(states.shape[1]):
            given = self.from_input(states[:, step]).chunk(3, 1)
            kept = self.from_state(h).chunk(3, 1)
            reset = torch.sigmoid(given[0] + kept[0])
            update = torch.sigmoid(given[1] + kept[1]) * weights[:, step : step + 1]
            fresh = torch.tanh(given[2] + reset * kept[2])
            h = (1.0 - update) * h + update * fresh
        return h

    def forward(self, x):
        query, keys = self.item(x["item"]), self.item(x["history"])
        states, _ = self.gru(keys)
        scores = torch.bmm(self.attention(states), query.unsqueeze(2)).squeeze(2)
        mask = x["history"] != 0
        scores = scores.masked_fill(~mask, -1e9)
        interest = self.evolved(states, torch.softmax(scores, 1) * mask)
        out = self.mlp(torch.cat([self.user(x["user"]), query, interest], 1))
        return torch.sigmoid(out).squeeze(-1)


class GRU4Rec(Interest):
    """GRU4Rec (Hidasi 2016): the last state of two layers against the candidate."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(DIM, 12, num_layers=2, batch_first=True)
        self.out = nn.Linear(12, DIM)

    def forward(self, x):
        states, _ = self.gru(self.item(x["history"]))
        last = self.out(states[:, -1, :])
        return torch.sigmoid((last * self.item(x["item"])).sum(-1))


class BST(Interest):
    """Behaviour sequence transformer (Chen 2019): torch's encoder with a padding mask."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(STEPS + 1, DIM) * 0.1)
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.mlp = MLP((STEPS + 2) * DIM, (16,), activation=nn.LeakyReLU, norm=False)

    def forward(self, x):
        ids = torch.cat([x["history"], x["item"].unsqueeze(1)], 1)
        vectors = self.item(ids) + self.positions
        vectors = self.encoder(vectors, src_key_padding_mask=ids == 0)
        flat = torch.cat([self.user(x["user"]), vectors.flatten(1)], 1)
        return torch.sigmoid(self.mlp(flat)).squeeze(1)


class SASRec(Interest):
    """Self-attentive recommendation (Kang 2018): causal attention, layer norms, last position."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(STEPS, DIM)
        self.norm1, self.norm2 = nn.LayerNorm(DIM, eps=1e-8), nn.LayerNorm(DIM, eps=1e-8)
        self.q, self.k, self.v = (nn.Linear(DIM, DIM) for _ in range(3))
        self.feed = nn.Sequential(nn.Conv1d(DIM, DIM, 1), nn.ReLU(), nn.Conv1d(DIM, DIM, 1))

    def forward(self, x):
        history = x["history"]
        places = torch.arange(history.shape[1], device=history.device).unsqueeze(0)
        vectors = self.item(history) * DIM**0.5 + self.positions(places)
        vectors = vectors * (history != 0).unsqueeze(-1)
        causal = torch.tril(torch.ones(STEPS, STEPS, dtype=torch.bool, device=history.device))
        normed = self.norm1(vectors)
        attended = F.scaled_dot_product_attention(
            self.q(normed), self.k(vectors), self.v(vectors), attn_mask=causal
        )
        vectors = normed + attended
        vectors = vectors + self.feed(self.norm2(vectors).transpose(1, 2)).transpose(1, 2)
        return torch.sigmoid((vectors[:, -1] * self.item(x["item"])).sum(1))


class MIND(Interest):
    """Multi-interest network (Li 2019): dynamic routing to capsules, label-aware attention."""

    def __init__(self, interests=3):
        super().__init__()
        self.shared = nn.Parameter(torch.randn(DIM, DIM) * 0.3)
        self.register_buffer("start", torch.randn(1, interests, STEPS))

    def forward(self, x):
        keys = torch.matmul(self.item(x["history"]), self.shared)
        mask = (x["history"] > 0).unsqueeze(1)
        logits = self.start.expand(keys.shape[0], -1, -1)
        for _ in range(3):
            weights = torch.softmax(logits.masked_fill(~mask, -(2.0**31)), dim=1)
            summed = torch.matmul(weights * mask, keys)
            norm = summed.pow(2).sum(-1, keepdim=True)
            capsules = norm / (1 + norm) * summed / torch.sqrt(norm + 1e-9)
            logits = logits + torch.matmul(capsules, keys.transpose(1, 2))
        query = self.item(x["item"])
        scores = torch.einsum("bkd,bd->bk", capsules, query)
        best = torch.argmax(scores, dim=1)
        chosen = capsules[torch.arange(capsules.shape[0]), best]
        return torch.sigmoid((chosen * query).sum(-1) + self.user(x["user"]).sum(-1))


class SDM(Interest):
    """Sequential deep matching (Lv 2019), simplified: LSTM, self-attention, a gate of two views."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(DIM, DIM, batch_first=True)
        self.attention = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.gate = nn.Linear(3 * DIM, DIM)

    def forward(self, x):
        user = self.user(x["user"])
        keys = self.item(x["history"])
        short, _ = self.lstm(keys)
        short, _ = self.attention(short, short, short)
        short = short.mean(1)
        mask = (x["history"] != 0).float().unsqueeze(-1)
        long = (keys * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        gate = torch.sigmoid(self.gate(torch.cat([user, short, long], -1)))
        mixed = torch.tanh(gate * short + (1 - gate) * long)
        return torch.sigmoid(F.cosine_similarity(mixed, self.item(x["item"]), dim=-1) * 4)


class YoutubeDNN(Interest):
    """Two towers (Covington 2016): mean of the history without padding, normalised vectors."""

    def __init__(self):
        super().__init__()
        self.tower = MLP(2 * DIM, (16,), out=DIM, activation=nn.SiLU)

    def forward(self, x):
        history = x["history"]
        mask = torch.unsqueeze(history != 0, 1).float()
        summed = torch.bmm(mask, self.item(history)).squeeze(1)
        mean = summed / (mask.sum(dim=-1) + 1e-16)
        user = F.normalize(self.tower(torch.cat([self.user(x["user"]), mean], 1)), p=2, dim=1)
        item = F.normalize(self.item(x["item"]), p=2, dim=1)
        return torch.sigmoid(torch.sum(user * item, dim=1) / 0.3)


NETWORKS = (
    DIN, DINWithLengths, DIEN, GRU4Rec, BST, SASRec, MIND, SDM, YoutubeDNN,
)  # fmt: skip
