"""Networks of the zoo from next-item recommendation: a history's state scores the candidate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from zoo.click_log import ITEMS, STEPS
from zoo.sequence_networks import DIM, Interest


class BERT4Rec(Interest):
    """BERT4Rec (Sun 2019): written-out attention to both sides, logits by the item table."""

    def __init__(self, heads=2):
        super().__init__()
        self.heads = heads
        self.positions = nn.Embedding(STEPS, DIM)
        self.q, self.k, self.v, self.out = (nn.Linear(DIM, DIM) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.feed1, self.feed2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        self.item_bias = nn.Parameter(torch.zeros(ITEMS))

    def split(self, x):
        return x.view(x.size(0), -1, self.heads, DIM // self.heads).transpose(1, 2)

    def forward(self, x):
        history = x["history"]
        rows = history.size(0)
        mask = (history > 0).unsqueeze(1).repeat(1, history.size(1), 1).unsqueeze(1)
        vectors = self.item(history) + self.positions.weight.unsqueeze(0).repeat(rows, 1, 1)
        query, key, value = (self.split(part(vectors)) for part in (self.q, self.k, self.v))
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
        weights = F.softmax(scores.masked_fill(mask == 0, -1e9), dim=-1)
        attended = torch.matmul(weights, value).transpose(1, 2).contiguous().view(rows, -1, DIM)
        vectors = self.norm1(vectors + self.out(attended))
        hidden = self.feed1(vectors)
        wave = torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * torch.pow(hidden, 3)))
        vectors = self.norm2(vectors + self.feed2(0.5 * hidden * (1 + wave)))
        logits = vectors[:, -1] @ self.item.weight.t() + self.item_bias
        return torch.sigmoid(logits.gather(1, x["item"].unsqueeze(1)).squeeze(1))


class Caser(Interest):
    """Caser (Tang 2018): convolutions over steps and over dimensions, item weights looked up."""

    def __init__(self, across=3, along=4):
        super().__init__()
        self.across = nn.Conv2d(1, across, (STEPS, 1))
        self.along = nn.ModuleList([nn.Conv2d(1, along, (n + 1, DIM)) for n in range(STEPS)])
        self.dense = nn.Linear(across * DIM + along * STEPS, DIM)
        self.item_weight = nn.Embedding(ITEMS, 2 * DIM)
        self.item_bias = nn.Embedding(ITEMS, 1)
        nn.init.normal_(self.item_weight.weight, std=0.1)

    def forward(self, x):
        image = self.item(x["history"]).unsqueeze(1)
        parts = [self.across(image).flatten(1)]
        for layer in self.along:
            found = F.relu(layer(image).squeeze(3))
            parts.append(F.max_pool1d(found, found.size(2)).squeeze(2))
        state = torch.cat([F.relu(self.dense(torch.cat(parts, 1))), self.user(x["user"])], 1)
        item = x["item"].unsqueeze(1)
        weight, bias = self.item_weight(item), self.item_bias(item)
        score = torch.baddbmm(bias, weight, state.unsqueeze(2)).squeeze(2)
        return torch.sigmoid(score.squeeze(1))


class NextItNet(Interest):
    """NextItNet (Yuan 2019): causal convolutions with growing dilation in residual blocks."""

    def __init__(self, dilations=(1, 2, 4)):
        super().__init__()
        self.dilations = dilations
        self.convolutions = nn.ModuleList([nn.Conv1d(DIM, DIM, 3, dilation=d) for d in dilations])
        self.norms = nn.ModuleList([nn.LayerNorm(DIM) for _ in dilations])

    def forward(self, x):
        vectors = self.item(x["history"])
        blocks = zip(self.convolutions, self.norms, self.dilations, strict=True)
        for convolution, norm, dilation in blocks:
            padded = F.pad(vectors.permute(0, 2, 1), (2 * dilation, 0))
            vectors = vectors + F.relu(norm(convolution(padded).permute(0, 2, 1)))
        return torch.sigmoid((vectors[:, -1, :] * self.item(x["item"])).sum(-1))


class STAMP(Interest):
    """STAMP (Liu 2018): attention by the last click and the mean of the session."""

    def __init__(self):
        super().__init__()
        self.w0 = nn.Linear(DIM, 1, bias=False)
        self.w1, self.w2, self.w3 = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(DIM))
        self.session, self.last = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        history = x["history"]
        length = (history > 0).sum(1).clamp(min=1)
        vectors = self.item(history)
        places = (length - 1).view(-1, 1, 1).expand(-1, 1, DIM)
        last = vectors.gather(1, places).squeeze(1)
        mean = vectors.sum(1) / length.unsqueeze(1).float()
        hidden = self.w2(last).unsqueeze(1).expand_as(vectors) + self.w3(mean).unsqueeze(1)
        scores = self.w0(torch.sigmoid(self.w1(vectors) + hidden + self.bias)).squeeze(-1)
        state = torch.bmm(scores.unsqueeze(1), vectors).squeeze(1) + mean
        joined = torch.tanh(self.session(state)) * torch.tanh(self.last(last))
        return torch.sigmoid((joined * self.item(x["item"])).sum(1))


class NARM(Interest):
    """NARM (Li 2017): a GRU's states, attended by the one at the last click of each row."""

    def __init__(self, hidden=64):
        super().__init__()
        self.hidden = hidden
        self.gru = nn.GRU(DIM, hidden, batch_first=True)
        self.each, self.query = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.score = nn.Linear(hidden, 1, bias=False)
        self.bilinear = nn.Linear(DIM, 2 * hidden, bias=False)

    def forward(self, x):
        history = x["history"]
        states, _ = self.gru(self.item(history))
        length = (history > 0).sum(1).clamp(min=1)
        last = states[torch.arange(history.size(0)), length - 1]
        keys = self.each(states.contiguous().view(-1, self.hidden)).view(states.size())
        mask = torch.where(history > 0, torch.tensor([1.0]), torch.tensor([0.0]))
        query = mask.unsqueeze(2).expand_as(keys) * self.query(last).unsqueeze(1).expand_as(keys)
        weights = self.score(torch.sigmoid(keys + query).view(-1, self.hidden)).view(mask.size())
        summed = torch.sum(weights.unsqueeze(2).expand_as(states) * states, 1)
        joined = torch.cat([summed, last], 1)
        return torch.sigmoid((self.bilinear(self.item(x["item"])) * joined).sum(1))


class TiSASRec(Interest):
    """TiSASRec (Li 2020): causal attention with vectors of clipped intervals and of positions."""

    def __init__(self, largest=16):
        super().__init__()
        self.largest = largest
        self.intervals = nn.Embedding(largest + 1, DIM)
        self.relative = nn.Embedding(2 * STEPS - 1, DIM)
        self.q, self.k, self.v = (nn.Linear(DIM, DIM) for _ in range(3))

    def forward(self, x):
        history = x["history"]
        steps = torch.arange(history.size(1))
        vectors = self.item(history)
        # the log has no times: IDs stand for them
        gaps = (history[:, :, None] - history[:, None, :]).abs().clamp(max=self.largest)
        gap = self.intervals(gaps)
        place = self.relative(steps[:, None] - steps[None, :] + STEPS - 1)
        query = self.q(vectors)
        scores = query @ self.k(vectors).transpose(1, 2)
        scores = scores + torch.matmul(gap, query.unsqueeze(-1)).squeeze(-1)
        scores = scores + torch.einsum("bid,ijd->bij", query, place)
        later = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), diagonal=1)
        weights = scores.masked_fill(later[None], float("-inf")).softmax(-1)
        state = weights @ self.v(vectors) + (weights.unsqueeze(-1) * gap).sum(2)
        state = state + torch.einsum("bij,ijd->bid", weights, place)
        return torch.sigmoid((state[:, -1] * self.item(x["item"])).sum(1))


class SRGNN(Interest):
    """SR-GNN (Wu 2019), one gated step over the session's graph of equal and following items."""

    def __init__(self):
        super().__init__()
        self.message, self.gate = nn.Linear(DIM, DIM), nn.Linear(2 * DIM, DIM)
        self.read = nn.Linear(2 * DIM, 1)

    def forward(self, x):
        history = x["history"]
        vectors = self.item(history)
        same = (history[:, :, None] == history[:, None, :]).float()
        edges = same + torch.diag(torch.ones(STEPS - 1), 1)
        edges = edges / edges.sum(2, keepdim=True)
        messages = torch.bmm(edges, self.message(vectors))
        gate = torch.sigmoid(self.gate(torch.cat([messages, vectors], 2)))
        vectors = (1 - gate) * vectors + gate * torch.tanh(messages)
        last = vectors[:, -1:].expand(-1, STEPS, -1)
        weights = torch.sigmoid(self.read(torch.cat([vectors, last], -1)))
        return torch.sigmoid(((weights * vectors).sum(1) * self.item(x["item"])).sum(1))


NETWORKS = (BERT4Rec, Caser, NextItNet, STAMP, NARM, TiSASRec, SRGNN)
