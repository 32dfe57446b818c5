"""Writes and sums at places that the request names, by comparing every index with every place.

ONNX has operators for them that run in ONNX Runtime alone: the native engine and TFLite compare.
"""

from __future__ import annotations

from typing import Any

import torch


def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    """What torch.scatter_add returns; NotImplemented for sums across the rows of a request.

    Args:
        input: what the sums are added to, [batch, ...].
        dim: the axis along which an index names a place.
        index: the places, int64, of the shape of `input` but for the size of that axis.
        src: what is added, of the shape of `index`.
    """
    places = _places(input, dim, index)
    if places is None or tuple(index.shape) != tuple(src.shape):
        return NotImplemented
    return input + _sum(places, src, dim % input.dim())


def scatter(
    input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: Any = None
) -> Any:
    """What torch.scatter returns for a single number, or for one element of `src` in each row.

    NotImplemented for anything else: of several elements at one place, any may remain.
    """
    written = value if src is None else src
    places = _places(input, dim, index)
    if places is None or reduce is not None or written is None:
        return NotImplemented
    axis = dim % input.dim()
    if not isinstance(written, torch.Tensor):
        number = torch.full((), written, dtype=input.dtype)
        return torch.where(places.any(axis + 1), number, input)
    if index.shape[axis] != 1 or tuple(index.shape) != tuple(written.shape):
        return NotImplemented
    return torch.where(places.squeeze(axis + 1), written, input)


def scatter_reduce(
    input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """What torch.scatter_reduce returns for sums, means, greatest and least elements."""
    places = _places(input, dim, index)
    if places is None or tuple(index.shape) != tuple(src.shape) or not src.is_floating_point():
        return NotImplemented
    axis = dim % input.dim()
    if reduce in ("sum", "mean"):
        found = _sum(places, src, axis) + (input if include_self else 0)
        if reduce == "mean":
            found = found / (places.sum(axis + 1) + int(include_self)).clamp(min=1)
    elif reduce in ("amax", "amin"):
        nothing = -torch.inf if reduce == "amax" else torch.inf
        each = torch.where(places, src.unsqueeze(axis), nothing)
        found = each.amax(axis + 1) if reduce == "amax" else each.amin(axis + 1)
        if include_self:
            both = torch.maximum if reduce == "amax" else torch.minimum
            found = both(found, input)
    else:
        return NotImplemented
    return found if include_self else torch.where(places.any(axis + 1), found, input)


def _places(input: Any, dim: int, index: Any) -> Any:
    """Whether an index names a place, bool [..., places, indices, ...]; None where rows would mix.

    The axis `dim` of the input becomes two: its places, and the indices beside them.
    """
    if input.dim() != index.dim() or input.dim() == 0:
        return None
    axis = dim % input.dim()
    others = [place for place in range(input.dim()) if place != axis]
    if axis == 0 or any(index.shape[place] != input.shape[place] for place in others):
        return None
    numbers = torch.arange(input.shape[axis])
    return index.unsqueeze(axis) == numbers.reshape(-1, *[1] * (input.dim() - axis))


def _sum(places: Any, src: Any, axis: int) -> Any:
    """The sum of the elements at each place; those at others count nothing, not even infinities."""
    nothing = torch.zeros((), dtype=src.dtype)
    return torch.where(places, src.unsqueeze(axis), nothing).sum(axis + 1)
