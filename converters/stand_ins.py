"""Functions of torch that its ONNX exporter lacks, written with those it has, during an export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]

_BAG_OPTIONS = (  # of functional.embedding_bag, after input and weight
    "offsets", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse",
    "per_sample_weights", "include_last_offset", "padding_idx",
)  # fmt: skip


def pooled(vectors: torch.Tensor, mode: str, kept: torch.Tensor | None = None) -> torch.Tensor:
    """Sum, mean or maximum of each bag as `nn.EmbeddingBag` defines it.

    Args:
        vectors: float32 [bags, n, dim].
        mode: "sum", "mean" or "max".
        kept: which vectors count, bool [bags, n]; None: all. A bag of none is zero.

    Returns:
        float32 [bags, dim].
    """
    if kept is None:
        if mode == "max":
            return vectors.amax(1)
        return vectors.sum(1) if mode == "sum" else vectors.mean(1)
    kept = kept.unsqueeze(-1)
    if mode == "max":
        lowest = torch.where(kept, vectors, torch.finfo(torch.float32).min).amax(1)
        return torch.where(kept.any(1), lowest, 0.0)
    total = torch.where(kept, vectors, 0.0).sum(1)
    return total if mode == "sum" else total / kept.sum(1).clamp(min=1)


@contextmanager
def stand_ins(module: nn.Module) -> Iterator[None]:
    """Let functions stand in for others while a module is traced inside the block."""
    with _StandIns(module):
        yield


class _StandIns(TorchFunctionMode):
    """Answers calls of the functions below; the rest goes on as usual."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self._masks = {  # now, as a list: while a module is traced, no tensor has values
            name: value.reshape(-1).nonzero().reshape(-1).tolist()
            for name, value in module.named_buffers()
            if value.dtype == torch.bool
        }
        self._functions: dict[Any, Function] = {
            functional.embedding_bag: self._embedding_bag,
            functional.scaled_dot_product_attention: self._attention,
            torch.masked_select: self._masked_select,
            torch.Tensor.masked_select: self._masked_select,
        }

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        stand_in = self._functions.get(function)
        kwargs = dict(kwargs or {})
        if stand_in is not None:
            found = stand_in(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return function(*args, **kwargs)

    def _embedding_bag(self, input: Any, weight: Any, *rest: Any, **options: Any) -> Any:
        """Bags of one size, the rows of a matrix: a lookup and a sum, mean or maximum."""
        given = {**dict(zip(_BAG_OPTIONS, rest, strict=False)), **options}
        if input.dim() != 2 or given.get("max_norm") is not None:
            return NotImplemented
        vectors = functional.embedding(input, weight)
        mode, padding = given.get("mode", "mean"), given.get("padding_idx")
        weights = given.get("per_sample_weights")
        if weights is not None:
            vectors = vectors * weights.unsqueeze(-1)
        kept = None if padding is None else input != padding % weight.shape[0]
        return pooled(vectors, mode, kept)

    def _attention(self, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
        """Attention of three axes as attention of four with one head."""
        if query.dim() != 3:
            return NotImplemented
        if rest and isinstance(rest[0], torch.Tensor) and rest[0].dim() == 3:
            rest = (rest[0].unsqueeze(1), *rest[1:])
        mask = options.get("attn_mask")
        if mask is not None and mask.dim() == 3:
            options["attn_mask"] = mask.unsqueeze(1)
        heads = (part.unsqueeze(1) for part in (query, key, value))
        return functional.scaled_dot_product_attention(*heads, *rest, **options).squeeze(1)

    def _masked_select(self, input: Any, mask: Any, **options: Any) -> Any:
        """Selection by a mask that is a buffer of the module: its places are known."""
        places = next(
            (
                self._masks[name]
                for name, value in self._module.named_buffers()
                if value is mask and name in self._masks
            ),
            None,
        )
        axes = mask.dim()
        if places is None or input.dim() < axes or options:
            return NotImplemented
        if tuple(input.shape[input.dim() - axes :]) != tuple(mask.shape):
            return NotImplemented
        return input.flatten(input.dim() - axes)[..., places].reshape(-1)
