"""Padding as the inference path of torch's nn.TransformerEncoder leaves it, without that path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def encoder_padding(module: nn.Module) -> Iterator[None]:
    """Let encoders compute by the path that can be exported, with zeros in place of padding.

    In evaluation mode without gradients, torch packs the steps that src_key_padding_mask leaves,
    and fills up with zeros behind them: a network that also reads padded steps depends on it.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, nn.TransformerEncoder) and getattr(
                part, "use_nested_tensor", False
            ):
                hooks.callback(part.register_forward_hook(_fill, with_kwargs=True).remove)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)


def _fill(encoder: nn.TransformerEncoder, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    mask = kwargs.get("src_key_padding_mask", args[2] if len(args) > 2 else None)
    if mask is None or out.dim() != 3:
        return out
    padded = (mask if mask.dtype == torch.bool else mask != 0).unsqueeze(-1)
    zeros = torch.zeros(out.shape[-1], dtype=out.dtype)
    return torch.where(padded, zeros if encoder.norm is None else encoder.norm(zeros), out)
