"""Which attributes the operators of a plan have, and of what type; all others are refused.

The C engine has the same table in ondevice/native/ops/attributes.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

LARGEST_FLOAT = 3.4028234663852886e38  # float32

Attribute = int | float | str | list[int]

_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
_ARGS = ("ArgMax", "ArgMin")

# Name: type, and the operators that have it.
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "aggregate": ("TEXT", ("TreeEnsemble",)),
    "allowzero": ("INT", ("Reshape",)),
    "alpha": ("REAL", ("Elu", "Gemm", "LeakyRelu")),
    "axis": (
        "INT",
        (*_ARGS, "Concat", "Flatten", "Gather", "GatherElements", "Softmax", "TopKIndices"),
    ),
    "batch_dims": ("INT", ("GatherND",)),
    "beta": ("REAL", ("Gemm",)),
    "codec": ("TEXT", ("Dense",)),
    "end": ("INT", ("Shape",)),
    "exclusive": ("INT", ("CumSum",)),
    "features": ("INT", ("Dense",)),
    "fmod": ("INT", ("Mod",)),
    "k": ("INT", ("TopKIndices",)),
    "keepdims": ("INT", (*_ARGS, *_REDUCTIONS)),
    "largest": ("INT", ("TopKIndices",)),
    "mode": ("TEXT", ("Pad",)),
    "noop_with_empty_axes": ("INT", _REDUCTIONS),
    "perm": ("INTS", ("Transpose",)),
    "relu": ("INT", ("Dense",)),
    "reverse": ("INT", ("CumSum",)),
    "saturate": ("INT", ("Cast",)),
    "select_last_index": ("INT", _ARGS),
    "start": ("INT", ("Shape",)),
    "targets": ("INT", ("TreeEnsemble",)),
    "to": ("INT", ("Cast",)),
    "transA": ("INT", ("Gemm",)),
    "transB": ("INT", ("Gemm",)),
    "units": ("INT", ("Dense",)),
}


def check_attributes(op: str, attributes: Mapping[str, Any]) -> None:
    """Refuse an attribute that the operator does not have, or of another type.

    Raises:
        ValueError, TypeError: it says which attribute.
    """
    if not isinstance(attributes, dict):
        raise TypeError(f"{op}: attributes must be an object")
    for name, value in attributes.items():
        kind, operators = ATTRIBUTES.get(name, ("", ()))
        if op not in operators:
            raise ValueError(f"{op} has no attribute {name!r}")
        if not _KINDS[kind](value):
            raise TypeError(f"{op}: attribute {name!r} must be {kind}, got {value!r}")


def _is_int(value: Any) -> bool:
    return type(value) is int and -(2**31) <= value < 2**31


def _is_real(value: Any) -> bool:
    return type(value) in (int, float) and bool(abs(value) <= LARGEST_FLOAT)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "INT": _is_int,
    "REAL": _is_real,
    "TEXT": lambda value: isinstance(value, str),
    "INTS": lambda value: isinstance(value, list) and all(map(_is_int, value)),
}
