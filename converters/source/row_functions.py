"""Functions of each row of a packed sequence by itself, computed for all rows of the batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils import _pytree as pytree

from ondevice.converters.source.step_rows import Rows, StepRows, tensor_of
from ondevice.converters.source.step_sizes import is_count, number_of, refused

Function = Callable[..., Any]

_VALUES = (
    "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__",
    "nonzero", "argwhere", "masked_select", "unique",
)  # fmt: skip
_SIZED = ("view", "reshape", "expand", "broadcast_to", "unflatten")
# Functions along one axis: its place among the arguments, and which it is where none is given.
_AXES = {
    "softmax": (1, -1), "log_softmax": (1, -1), "softmin": (1, -1), "gumbel_softmax": (4, -1),
    "cumsum": (1, -1), "cumprod": (1, -1), "cummax": (1, -1), "cummin": (1, -1),
    "logcumsumexp": (1, -1), "flip": (1, 0), "flipud": (1, 0), "roll": (2, 0), "sort": (1, -1),
    "argsort": (1, -1), "gather": (1, -1), "scatter": (1, -1), "scatter_add": (1, -1),
    "index_add": (1, -1), "index_copy": (1, -1), "normalize": (2, 1), "unbind": (1, 0),
    "chunk": (2, 0), "split": (2, 0), "tensor_split": (2, 0), "select": (1, 0), "stack": (1, 0),
    "index_select": (1, 0), "narrow": (1, 0), "renorm": (2, 0), "repeat_interleave": (2, 0),
}  # fmt: skip
_ASSIGNMENTS = (
    "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__", "__imod__",
    "__iand__", "__ior__", "__ixor__",
)  # fmt: skip


def by_row(function: Function, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a function returns for rows of steps.

    Raises:
        UnsupportedError: it is no function of each row by itself, or its arguments differ in rows.
    """
    leaves, structure = pytree.tree_flatten((args, kwargs))
    base = next(leaf.rows for leaf in leaves if isinstance(leaf, StepRows))
    _check_axis(function, args, kwargs)
    flat = base.flat
    computed = [_plain(leaf, base, function) for leaf in leaves]
    if writes(function, args, kwargs):
        computed = [
            part.clone() if isinstance(leaf, StepRows) else part
            for leaf, part in zip(leaves, computed, strict=True)
        ]
    given, options = pytree.tree_unflatten(computed, structure)
    found = function(*given, **options)
    return pytree.tree_map_only(
        torch.Tensor, lambda part: _wrapped(function, part, base, flat), found
    )


def writes(function: Function, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function writes to its first argument."""
    name = name_of(function)
    if name in _ASSIGNMENTS or (name.endswith("_") and not name.endswith("__")):
        return True
    if not inspect.isfunction(function):
        return False
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return False
    return given.get("inplace") is True


def name_of(function: Function) -> str:
    """A function's name; that of its property, if it reads one."""
    name = str(getattr(function, "__name__", function))
    if name == "__get__":
        name = str(getattr(getattr(function, "__self__", None), "__name__", name))
    return name


def axis_of(given: Any, rank: int) -> Any:
    """An axis counted from the first."""
    return given + rank if isinstance(given, int) and given < 0 else given


def _check_axis(function: Function, args: Any, kwargs: dict[str, Any]) -> None:
    name = name_of(function)
    if name in _VALUES:
        raise refused(f"{name} of rows of a step; a graph has no values while it is made")
    place, axis = _AXES.get(name, (-1, None))
    if place < 0:
        return
    axis = next((kwargs[key] for key in ("dim", "dims", "axis") if key in kwargs), axis)
    if len(args) > place:
        axis = args[place]
    first = args[0] if args else kwargs.get("input")
    tensor = next((part for part in pytree.tree_leaves(first) if isinstance(part, StepRows)), None)
    if tensor is None:
        return
    rank = tensor.rows.rank + (name == "stack")
    if 0 in {axis_of(part, rank) for part in pytree.tree_leaves(axis)}:
        raise refused(f"{name} along the rows of its steps; pad it first (pad_packed_sequence)")


def _plain(leaf: Any, base: Rows, function: Function) -> Any:
    """An argument with the rows of the whole batch."""
    if isinstance(leaf, StepRows):
        rows = leaf.rows.labelled(base.of)
        if rows.segments != base.segments:
            raise refused(f"{name_of(function)} of tensors with different rows")
        return rows.flat
    if is_count(leaf):
        if name_of(function) in _SIZED and number_of(leaf) == base.count:
            return base.flat.shape[0]
        if name_of(function) in _SIZED or base.of.has(abs(number_of(leaf))):
            raise refused(f"{name_of(function)} with a number of rows")
    if isinstance(leaf, torch.Tensor) and any(
        isinstance(size, torch.SymInt) for size in leaf.shape
    ):
        raise refused(
            f"{name_of(function)} of rows of a step and a tensor of the whole batch; cut that by "
            "batch_sizes too"
        )
    return leaf


def _wrapped(function: Function, part: torch.Tensor, base: Rows, flat: torch.Tensor) -> Any:
    """A result with the rows of all segments as a tensor of these rows."""
    same = part.dim() > 0 and statically_known_true(part.shape[0] == flat.shape[0])
    if not same or any(isinstance(size, torch.SymInt) for size in part.shape[1:]):
        raise refused(
            f"{name_of(function)} mixes or moves the rows of its steps; pad it first "
            "(pad_packed_sequence), or keep rows the first axis"
        )
    return tensor_of(Rows.from_flat(base.of, base.segments, part))
