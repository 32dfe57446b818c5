"""Hands tensors to an exported module one by one, where its keys are no names of Python.

torch writes keys of dictionaries into Python code: one with a quote is a syntax error there.
"""

from __future__ import annotations

import contextlib
import inspect
import keyword
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from ondevice.converters.source.arguments import Arguments, key_of


@contextlib.contextmanager
def plain_names(
    module: nn.Module, arguments: Arguments, outputs: Sequence[str]
) -> Iterator[Arguments]:
    """Let a copy's forward take and return tensors one by one inside the block, if it must.

    Args:
        module: the copy that is exported.
        arguments: its example arguments.
        outputs: names of its outputs.

    Yields:
        The arguments to export it with: the given ones where all keys are names.
    """
    if all(map(_is_name, (*_keys(arguments), *outputs))):
        yield arguments
        return
    forward, had = module.forward, "forward" in module.__dict__

    def single(*tensors: Any) -> tuple[Any, ...]:
        args, kwargs = arguments.with_tensors(tensors)
        returned = forward(*args, **kwargs)
        return tuple(leaf for leaf in pytree.tree_leaves(returned) if leaf is not None)

    single.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(f"input_{number}", inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for number in range(len(arguments.tensors))
        ]
    )
    module.forward = single
    try:
        yield replace(arguments, args=arguments.tensors, kwargs={})
    finally:
        if had:
            module.forward = forward
        else:
            del module.forward


def _keys(arguments: Arguments) -> Iterator[str]:
    """The keys of all dictionaries among the arguments."""
    leaves, _ = pytree.tree_flatten_with_path((arguments.args, arguments.kwargs))
    for path, _ in leaves:
        yield from (key for step in path if (key := key_of(step)) is not None)


def _is_name(key: str) -> bool:
    return key.isidentifier() and not keyword.iskeyword(key)
