"""What a conversion must leave as it was: a module, states of random numbers, settings of torch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def state_of(module: nn.Module) -> dict[str, Any]:
    """Everything of a module by name, to be compared with what it is later.

    Tensors are told apart by identity, memory, values and kind; other attributes by what they show.
    """
    found: dict[str, Any] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        found[f"{path}:class"] = type(part)
        for hooks in HOOKS:
            found[f"{path}:{hooks}"] = list(getattr(part, hooks).items())
        for name, value in _attributes(part):
            found[f"{path}.{name}"] = _shown(value)
    return found


def surroundings() -> dict[str, Any]:
    """States of random numbers, and settings of torch that hold for the whole process."""
    generator = np.random.get_state()
    return {
        "torch.random": torch.get_rng_state().numpy().tobytes(),
        "numpy.random": (generator[0], generator[1].tobytes(), *generator[2:]),
        "random": random.getstate(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _attributes(part: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from part._parameters.items()
    yield from part._buffers.items()
    hidden = {"_parameters", "_buffers", "_modules", *HOOKS}
    yield from ((name, value) for name, value in vars(part).items() if name not in hidden)


def _shown(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    plain = value.detach()
    return (
        id(value), value.data_ptr(), type(value), plain.dtype, plain.device, plain.shape,
        plain.stride(), value.requires_grad, value.is_leaf, value._version,
        None if value.is_meta else hashlib.sha256(plain.numpy().tobytes()).hexdigest(),
        None if not value.is_leaf or value.grad is None else _shown(value.grad),
        None if value._backward_hooks is None else list(value._backward_hooks.items()),
    )  # fmt: skip
