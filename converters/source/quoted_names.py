"""Lets modules and parameters have names that Python code must quote, during an export.

torch writes graphs as Python code, where it names a parameter `embeddings.from.weight` so, and a
name with a quote, a backslash or a line break between quotes as it is: syntax errors.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.fx.graph


@contextmanager
def quoted_names() -> Iterator[None]:
    """Let torch quote the parts of names that are no names of Python inside the block."""
    code: Any = torch.fx.graph
    plain = code._format_target
    code._format_target = _attribute
    try:
        yield
    finally:
        code._format_target = plain


def _attribute(base: str, target: str) -> str:
    """Python code for an attribute, such as `weight` of `embeddings` of a module, by dots."""
    for part in target.split("."):
        if part.isidentifier() and not keyword.iskeyword(part):
            base = f"{base}.{part}"
        else:
            base = f"getattr({base}, {part!r})"
    return base
