"""What the runner takes of a library's file: a network and random example inputs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SEED = 5


@dataclass(frozen=True)
class Case:
    """A network as a library's public interface builds it.

    Attributes:
        module: the network, or a thin module around it where `note` says so.
        inputs: example inputs, as `convert` takes them, for a number of rows.
        note: how a user has to call the network, where that is not `module(*inputs)`.
    """

    module: nn.Module
    inputs: Callable[[int], Any]
    note: str = ""


Builders = Mapping[str, Callable[[], Case]]


def ids(rows: int, size: int, *shape: int) -> torch.Tensor:
    """Random IDs [rows, *shape] from 1 to size - 1; 0 often means padding."""
    return torch.randint(1, size, (rows, *shape))


def padded_history(rows: int, size: int, steps: int, pad_left: bool = False) -> torch.Tensor:
    """Random histories [rows, steps] of 1 to `steps` items, zeros elsewhere."""
    lengths = torch.randint(1, steps + 1, (rows, 1))
    places = torch.arange(steps)
    valid = places >= steps - lengths if pad_left else places < lengths
    return ids(rows, size, steps) * valid


def make_informative(module: nn.Module) -> nn.Module:
    """Give a network, in place, parameters with which its scores differ from row to row.

    Libraries start tables near zero and batch norms at the identity: a comparison of scores would
    then see hardly anything of either.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in module.parameters():
            if parameter.ndim > 1 and parameter.numel() > 1 and parameter.std() < 0.05:
                parameter.normal_(0, 0.3, generator=generator)
    return module.eval()
