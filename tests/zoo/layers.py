"""Layers that several networks of the zoo share."""

from __future__ import annotations

import torch
from torch import nn


class MLP(nn.Module):
    """Hidden layers with batch norm, an activation and dropout, then a linear output."""

    def __init__(self, size, hidden, out=1, activation=nn.ReLU, norm=True, dropout=0.1):
        super().__init__()
        layers = []
        for width in hidden:
            layers.append(nn.Linear(size, width))
            if norm:
                layers.append(nn.BatchNorm1d(width))
            layers += [activation(width) if activation is Dice else activation()]
            layers.append(nn.Dropout(dropout))
            size = width
        if out:
            layers.append(nn.Linear(size, out))
        self.mlp = nn.Sequential(*layers)

    def forward(self, x):
        return self.mlp(x)


class Dice(nn.Module):
    """The data-adaptive activation of DIN: a gate by the input's own distribution."""

    def __init__(self, width, epsilon=1e-9):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=epsilon, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        gate = torch.sigmoid(self.norm(x))
        return self.alpha * (1.0 - gate) * x + gate * x


class FM(nn.Module):
    """Second-order factorisation: half of square of sum minus sum of squares."""

    def __init__(self, reduce_sum=True):
        super().__init__()
        self.reduce_sum = reduce_sum

    def forward(self, x):
        difference = torch.sum(x, dim=1) ** 2 - torch.sum(x**2, dim=1)
        if self.reduce_sum:
            difference = torch.sum(difference, dim=1, keepdim=True)
        return 0.5 * difference


class OffsetEmbedding(nn.Module):
    """One big table for all fields; every column of the index matrix has its own offset."""

    def __init__(self, sizes, dim):
        super().__init__()
        self.embedding = nn.Embedding(sum(sizes), dim)
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, x):
        return self.embedding(x + self.offsets.unsqueeze(0))
