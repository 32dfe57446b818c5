"""Structured pruning of a trained network: its least important hidden units are taken out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ondevice.errors import SpecError
from ondevice.models.click_log import ClickLog
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.networks import ClickModel


@torch.no_grad()
def prune_units(model: ClickModel, log: ClickLog, hidden: tuple[int, ...]) -> ClickModel:
    """A copy of a trained "dnn" with fewer units in its hidden layers; it wants some training.

    A unit is worth the mean of its activations on the log times the norm of the weights that read
    it; each layer keeps its most important units, in their order.

    Args:
        model: of hidden layers with ReLU, without batch norm or dropout; not changed.
        log: rows to weigh the units on, encoded for the model.
        hidden: the new size of each hidden layer, at most the present one.

    Raises:
        SpecError: another kind of network, another number of layers, or a size that grows.
    """
    settings = model.settings
    plain = settings.kind == "dnn" and not settings.batch_norm and not settings.dropout
    fits = len(hidden) == len(settings.hidden) and all(
        0 < new <= old for new, old in zip(hidden, settings.hidden, strict=False)
    )
    if not plain or not fits:
        raise SpecError(
            f"pruning takes a dnn without batch norm and dropout to at most its sizes "
            f"{list(settings.hidden)}; got {settings.kind} to {list(hidden)}"
        )
    tables = {}
    for name in model.fields:
        tables[name] = Embedding(model.embedding(name).spec)
        tables[name].weight.copy_(model.embedding(name).weight)
    pruned = ClickModel(tables, replace(settings, hidden=hidden), labels=model.labels)
    layers, smaller = _linear(model), _linear(pruned)
    activations = _vectors(model, log)
    inputs = torch.arange(layers[0].in_features)
    for number, (layer, target) in enumerate(zip(layers, smaller, strict=True)):
        units = torch.arange(layer.out_features)
        if number < len(hidden):
            activations = torch.relu(layer(activations))
            worth = activations.mean(0) * layers[number + 1].weight.norm(dim=0)
            units = worth.topk(hidden[number]).indices.sort().values
        target.weight.copy_(layer.weight[units][:, inputs])
        target.bias.copy_(layer.bias[units])
        inputs = units
    return pruned


def _linear(model: ClickModel) -> list[nn.Linear]:
    return [layer for layer in model.network if isinstance(layer, nn.Linear)]


def _vectors(model: ClickModel, log: ClickLog) -> Tensor:
    """The joined field vectors float32 [n, width] of a log."""
    ids = {name: torch.from_numpy(np.ascontiguousarray(log.ids[name])) for name in model.fields}
    return torch.cat([model.embedding(name)(ids[name]) for name in model.fields], -1)
