"""Checks that a plan's shapes and types fit, and what it takes, before the numpy engine runs it.

Shapes are inferred for a number of rows that no axis has by chance. Values that do not depend on
the request are computed, since shapes and axes may be among them. The C engine's shape rules, which
demand more (rows must stay independent), are in ondevice/native/ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.dense import DENSE
from ondevice.errors import FileFormatError, InputError
from ondevice.info import InputSpec
from ondevice.limits import (
    MAX_CONSTANT_ELEMENTS,
    MAX_CONSTANT_WORK,
    MAX_RANK,
    MAX_ROW_ELEMENTS,
    MAX_ROW_WORK,
    MAX_SESSION_BYTES,
    MAX_TREE_DEPTH,
)
from ondevice.ops import CASTS, apply
from ondevice.plan import Node, Plan
from ondevice.trees import check_ensemble

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]
Shape = tuple[int, ...]

ROWS = 10_007  # a prime that no axis of a model has by chance
SHAPE_ELEMENTS = 64  # values of so many elements may be shapes, and are computed

FLOATS, INTS, BOOLS = "f", "i", "b"
_KINDS = {
    np.dtype(np.float32): FLOATS,
    np.dtype(np.int64): INTS,
    np.dtype(np.bool_): BOOLS,
    np.dtype(np.uint8): BOOLS,  # a bool of the file
}
_DTYPES: dict[str, type[np.generic]] = {FLOATS: np.float32, INTS: np.int64, BOOLS: np.bool_}
_SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "Unsqueeze": 1, "Squeeze": 1, "Slice": 2}
VIEWS = {
    *("Identity", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Reshape", "Slice"),
    *("Expand", "ExpandRows", "Shape"),
}


class MisfitError(Exception):
    """What does not fit in a node; `check_plan` says in which."""


def check_plan(
    plan: Plan,
    inputs: tuple[InputSpec, ...],
    weights: Mapping[str, Array],
    sizes: Mapping[str, int],
) -> dict[str, Array]:
    """Check a plan for any number of rows and the given sizes of its free axes, by name.

    Returns the values that depend on nothing but the file, by name, without its weights.

    Raises:
        FileFormatError: the shapes or types of a node's inputs do not fit it, or one of
            ondevice.limits is exceeded; the message names the node.
    """
    checker = _Checker(dict(weights), constant=set(weights))
    for item in inputs:
        shape = [sizes.get(size, ROWS) if isinstance(size, str) else size for size in item.shape]
        checker.rows = max(checker.rows, ROWS if isinstance(item.shape[0], str) else 1)
        checker.values[item.name] = _stand_in(FLOATS if item.dtype == "float32" else INTS, shape)
    for number, node in enumerate(plan.nodes):
        try:
            checker.add(node)
        except (MisfitError, InputError, ValueError, IndexError, TypeError, KeyError) as error:
            shapes = ", ".join(str(list(checker.values[name].shape)) for name in node.inputs)
            raise FileFormatError(
                f"plan: node {number} ({node.op}) of shapes {shapes} for {checker.rows} rows: "
                f"{error}"
            ) from error
    return checker.computed


def _stand_in(kind: str, shape: Any) -> Array:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), _DTYPES[kind]), tuple(shape))


@dataclass
class _Checker:
    """Values so far: those that depend on the file only are computed, others are stand-ins."""

    values: dict[str, Array]
    constant: set[str]  # depends on nothing but the file
    computed: dict[str, Array] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)  # depends on the number of rows only
    rows: int = 1
    elements: int = 0
    constant_work: int = 0
    row_work: int = 0
    row_bytes: int = 0

    def add(self, node: Node) -> None:
        """Infer a node's result. Raises MisfitError, and what the operators of numpy raise."""
        read = [self.values[name] for name in node.inputs]
        name = node.outputs[0]
        if node.op == "TreeEnsemble":
            _check_trees(node, read, self.constant.issuperset(node.inputs[1:]))
        out = _infer(node, read)
        constant = self.constant.issuperset(node.inputs)
        counted = not constant and (
            node.op == "Shape" or (self.constant | self.counted).issuperset(node.inputs)
        )
        if out.ndim > MAX_RANK or 0 in out.shape:
            raise MisfitError(f"its result would be {list(out.shape)}")
        self._count(node, read, out, constant)
        if constant or (counted and out.size <= SHAPE_ELEMENTS):
            out = apply(node.op, read, node.attributes)
            if constant:
                self.constant.add(name)
                self.computed[name] = out
            else:
                self.counted.add(name)
        self.values[name] = out

    def _count(self, node: Node, read: list[Array], out: Array, constant: bool) -> None:
        """Add up what a node takes. Raises MisfitError."""
        work = 0 if node.op in VIEWS else _work(node, read, out)
        if constant:
            self.elements += out.size
            self.constant_work += work
            if self.elements > MAX_CONSTANT_ELEMENTS or self.constant_work > MAX_CONSTANT_WORK:
                raise MisfitError(
                    f"computing what is constant takes more than {MAX_CONSTANT_ELEMENTS} elements "
                    f"or {MAX_CONSTANT_WORK} steps"
                )
            return
        self.row_work += work
        self.row_bytes += 0 if node.op in VIEWS else out.nbytes
        if out.size > MAX_ROW_ELEMENTS * self.rows:
            raise MisfitError(f"a row would have more than {MAX_ROW_ELEMENTS} elements")
        if (
            self.row_work > MAX_ROW_WORK * self.rows
            or self.row_bytes > MAX_SESSION_BYTES * self.rows
        ):
            raise MisfitError(
                f"a row takes more than {MAX_ROW_WORK} steps or {MAX_SESSION_BYTES} bytes"
            )


def _check_trees(node: Node, read: list[Array], stored: bool) -> None:
    if len(read) != 5 or not stored:
        raise MisfitError("features and stored thresholds, links, roots and vectors needed")
    check_ensemble(read[1:], read[0].shape[-1], node.attributes)


def _work(node: Node, read: list[Array], out: Array) -> int:
    """About how many steps a node takes: elements read or written, and products summed up."""
    axis: Any
    size, results = math.prod(read[0].shape) if read else 0, math.prod(out.shape)
    if node.op in ("MatMul", "Gemm", DENSE):
        axis = 0 if node.attributes.get("transA", 0) else -1
        return results * int(read[0].shape[axis])
    if node.lookup is not None:
        return size * node.lookup.dim
    if node.op == "TreeEnsemble":
        return len(read[0]) * len(read[3]) * (MAX_TREE_DEPTH + int(out.shape[-1]))
    if node.op == "TopKIndices":
        axis = node.attributes.get("axis", -1)
        return size * int(out.shape[axis])
    return size if node.op.startswith(("Reduce", "Arg")) else results


def _infer(node: Node, read: list[Array]) -> Array:
    """A stand-in for a node's result; of views, the result itself."""
    if node.lookup is not None:
        _need(read, 1, INTS)
        pooled = node.lookup.pooling != "none"
        if pooled and read[0].ndim < 2:
            raise MisfitError("pooling needs IDs with a sequence axis")
        return _stand_in(FLOATS, (*read[0].shape[: -1 if pooled else None], node.lookup.dim))
    if node.op == DENSE:
        _need(read, 1, FLOATS)
        if read[0].ndim < 2 or read[0].shape[-1] != node.attributes.get("features"):
            raise MisfitError(f"{node.attributes.get('features')} features expected")
        return _stand_in(FLOATS, (*read[0].shape[:-1], node.attributes["units"]))
    if not read:
        raise MisfitError("too few inputs")
    if node.op in VIEWS:
        _kind(read[0])
        if len(read) < 1 + _SHAPE_INPUTS.get(node.op, 0):
            raise MisfitError("too few inputs")
        for other in read[1 : 5 if node.op == "Slice" else 1 + _SHAPE_INPUTS.get(node.op, 0)]:
            if _kind(other) != INTS:
                raise MisfitError("axes, shapes and places must be int64")
        return apply(node.op, read, node.attributes)
    kind, shape = _RULES[node.op](read, node.attributes)
    return _stand_in(kind, shape)


# Rules: kind and shape of a result


def _kind(array: Array) -> str:
    """Raises MisfitError: the operators take no such type."""
    if array.dtype not in _KINDS:
        raise MisfitError(f"no operator takes {array.dtype}")
    return _KINDS[array.dtype]


def _need(read: list[Array], count: int, kinds: str) -> str:
    """The kind that the first `count` inputs share, one of `kinds`. Raises MisfitError."""
    if len(read) < count:
        raise MisfitError(f"{count} inputs needed")
    found = {_kind(array) for array in read[:count]}
    if len(found) != 1 or not found <= set(kinds):
        raise MisfitError(f"inputs of one type needed, got {[str(array.dtype) for array in read]}")
    if any(array.size == 0 for array in read[:count]):
        raise MisfitError("an input is empty")
    return found.pop()


Rule = Callable[[list[Array], Attributes], tuple[str, Shape]]


def _elementwise(count: int, kinds: str, result: str = "") -> Rule:
    def rule(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
        kind = _need(read, count, kinds)
        return result or kind, np.broadcast_shapes(*(array.shape for array in read[:count]))

    return rule


def _where(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    _need(read, 1, FLOATS + INTS + BOOLS)
    kind = _need(read[1:], 2, FLOATS + INTS + BOOLS)
    return kind, np.broadcast_shapes(*(array.shape for array in read[:3]))


def _cast(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    _need(read, 1, FLOATS + INTS + BOOLS)
    return _KINDS[np.dtype(CASTS[attributes["to"]])], read[0].shape


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise MisfitError(f"axis {axis} of {rank}")
    return axis % rank


def _softmax(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    _axis(attributes.get("axis", -1), read[0].ndim)
    return _need(read, 1, FLOATS), read[0].shape


def _reduce(kinds: str) -> Rule:
    def rule(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
        kind, x = _need(read, 1, kinds), read[0]
        axes = _ints(read[1]) if len(read) > 1 else []
        gone = {_axis(axis, x.ndim) for axis in axes}
        if not axes and not attributes.get("noop_with_empty_axes", 0):
            gone = set(range(x.ndim))
        if len(gone) != len(axes) and axes:
            raise MisfitError("an axis twice")
        keep = attributes.get("keepdims", 1)
        return kind, tuple(
            1 if i in gone else size for i, size in enumerate(x.shape) if keep or i not in gone
        )

    return rule


def _ints(array: Array) -> list[int]:
    if _kind(array) != INTS or array.ndim > 1 or array.size > SHAPE_ELEMENTS:
        raise MisfitError("a list of int64 needed")
    return [int(number) for number in array.reshape(-1)]


def _concat(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, len(read), FLOATS + INTS + BOOLS)
    axis = _axis(attributes["axis"], read[0].ndim)
    rests = {(*array.shape[:axis], -1, *array.shape[axis + 1 :]) for array in read}
    if len(rests) != 1 or len({array.ndim for array in read}) != 1:
        raise MisfitError("the shapes differ beside the joined axis")
    total = sum(array.shape[axis] for array in read)
    return kind, (*read[0].shape[:axis], total, *read[0].shape[axis + 1 :])


def _gemm(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 2, FLOATS)
    left = read[0].shape[::-1] if attributes.get("transA", 0) else read[0].shape
    right = read[1].shape[::-1] if attributes.get("transB", 0) else read[1].shape
    if len(left) != 2 or len(right) != 2 or left[1] != right[0]:
        raise MisfitError("the matrices do not fit each other")
    shape = (left[0], right[1])
    if len(read) > 2:
        _need(read[2:], 1, FLOATS)
        if np.broadcast_shapes(shape, read[2].shape) != shape:
            raise MisfitError("the bias does not fit")
    return kind, shape


def _matmul(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind, left, right = _need(read, 2, FLOATS), read[0].shape, read[1].shape
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise MisfitError("the matrices do not fit each other")
    return kind, (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])


def _gather(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 1, FLOATS + INTS + BOOLS)
    _need(read[1:], 1, INTS)
    axis = _axis(attributes.get("axis", 0), read[0].ndim)
    return kind, (*read[0].shape[:axis], *read[1].shape, *read[0].shape[axis + 1 :])


def _gather_elements(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 1, FLOATS + INTS + BOOLS)
    _need(read[1:], 1, INTS)
    data, indices = read[0].shape, read[1].shape
    axis = _axis(attributes.get("axis", 0), len(data))
    if len(data) != len(indices) or any(
        size > data[i] for i, size in enumerate(indices) if i != axis
    ):
        raise MisfitError("the indices have other axes than the data")
    return kind, indices


def _gather_nd(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 1, FLOATS + INTS + BOOLS)
    _need(read[1:], 1, INTS)
    data, indices = read[0].shape, read[1].shape
    batch, depth = attributes.get("batch_dims", 0), indices[-1] if indices else 0
    fits = 0 <= batch < len(indices) and batch + depth <= len(data)
    if not fits or depth < 1 or data[:batch] != indices[:batch]:
        raise MisfitError("the indices do not fit the data")
    return kind, (*indices[:-1], *data[batch + depth :])


def _arg(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    _need(read, 1, FLOATS + INTS)
    axis, shape = _axis(attributes.get("axis", 0), read[0].ndim), read[0].shape
    middle = (1,) if attributes.get("keepdims", 1) else ()
    return INTS, (*shape[:axis], *middle, *shape[axis + 1 :])


def _top_k(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    _need(read, 1, FLOATS + INTS)
    axis, shape, k = _axis(attributes.get("axis", -1), read[0].ndim), read[0].shape, attributes["k"]
    if not 1 <= k <= shape[axis]:
        raise MisfitError(f"the first {k} of {shape[axis]}")
    return INTS, (*shape[:axis], k, *shape[axis + 1 :])


def _cum_sum(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 1, FLOATS + INTS)
    axes = _ints(read[1]) if len(read) > 1 else []
    if len(axes) != 1:
        raise MisfitError("one axis needed")
    _axis(axes[0], read[0].ndim)
    return kind, read[0].shape


def _pad(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 1, FLOATS + INTS + BOOLS)
    pads = _ints(read[1]) if len(read) > 1 else []
    rank = read[0].ndim
    if len(read) > 3 or len(pads) != 2 * rank or attributes.get("mode", "constant") != "constant":
        raise MisfitError("constant padding of every axis needed")
    if len(read) > 2 and (_kind(read[2]) != kind or read[2].size != 1):
        raise MisfitError("one value to pad with needed")
    if any(abs(pad) > MAX_ROW_ELEMENTS for pad in pads):
        raise MisfitError("padding out of range")
    return kind, tuple(
        max(size + before + after, 0)
        for size, before, after in zip(read[0].shape, pads[:rank], pads[rank:], strict=True)
    )


def _trees(read: list[Array], attributes: Attributes) -> tuple[str, Shape]:
    kind = _need(read, 1, FLOATS)
    if read[0].ndim != 2:
        raise MisfitError("features [rows, features] needed")
    return kind, (len(read[0]), attributes["targets"])


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mod", "Mul", "Sub"), _elementwise(2, "fi")),
    **dict.fromkeys(("Pow", "PRelu"), _elementwise(2, FLOATS)),
    **dict.fromkeys(
        ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _elementwise(2, "fi", BOOLS)
    ),
    **dict.fromkeys(("And", "Or", "Xor", "Equal"), _elementwise(2, "fib", BOOLS)),
    **dict.fromkeys(("Abs", "Neg", "Relu", "Sign"), _elementwise(1, "fi")),
    **dict.fromkeys(
        (
            *("Ceil", "Elu", "Erf", "Exp", "Floor", "LeakyRelu", "Log", "Reciprocal", "Round"),
            *("Sigmoid", "Softplus", "Sqrt", "Tanh"),
        ),
        _elementwise(1, FLOATS),
    ),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"), _reduce("fi")),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "Not": _elementwise(1, "fib", BOOLS),
    "ReduceMean": _reduce(FLOATS),
    "Cast": _cast,
    "Concat": _concat,
    "CumSum": _cum_sum,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Softmax": _softmax,
    "TopKIndices": _top_k,
    "TreeEnsemble": _trees,
    "Where": _where,
}


def is_sized(inputs: tuple[InputSpec, ...]) -> bool:
    """Whether all axes but the first have fixed sizes."""
    return all(isinstance(size, int) for item in inputs for size in item.shape[1:])
