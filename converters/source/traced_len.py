"""Lets len(tensor) in the code of a module stay a free size while the module is traced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def traced_len(module: nn.Module) -> Iterator[None]:
    """Give the files that define a module's classes a `len` that keeps sizes of tensors free.

    Python turns what `__len__` returns into a number, which fixes the rows of the graph.
    """
    with replaced_name(module, "len", _length):
        yield


@contextmanager
def replaced_name(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Give the files that define a module's classes another meaning of a name of Python."""
    spaces = [space for space in _namespaces(module) if name not in space]
    for space in spaces:
        space[name] = value
    try:
        yield
    finally:
        for space in spaces:
            del space[name]


def _length(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dim():
        return value.shape[0]
    return len(value)


def _namespaces(module: nn.Module) -> list[dict[str, Any]]:
    """The global names of every file with a class of the module or its parts, torch's left out."""
    files = {kind.__module__ for part in module.modules() for kind in type(part).__mro__}
    return [
        vars(sys.modules[file])
        for file in sorted(files)
        if file in sys.modules and file.split(".")[0] not in ("builtins", "torch")
    ]
