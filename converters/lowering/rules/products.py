"""Lowering rules of matrix products: MatMul, Gemm, Einsum, Conv."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.einsum import einsum_terms
from ondevice.converters.lowering.free_sizes import (
    reshape_target,
)
from ondevice.converters.lowering.operands import (
    constant_array,
    first_input,
    optional_input,
    rank_of,
    shape_of,
)
from ondevice.converters.lowering.symbolic_shapes import Size
from ondevice.errors import UnsupportedError


def _matmul(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    left, right = rank_of(node.inputs[0]), rank_of(node.inputs[1])
    a, b = node.inputs
    if left > 1 and right > 1:
        sizes = shape_of(a)
        if left == 2 and isinstance(sizes[0], str) and right > 2:  # rows would become columns
            raise UnsupportedError("it mixes rows")
        return None
    if left == 1:
        a = builder.op("Unsqueeze", a, builder.ints(0))
    if right == 1:
        b = builder.op("Unsqueeze", b, builder.ints(1))
    out = builder.op("MatMul", a, b)
    gone = [-2] * (left == 1) + [-1] * (right == 1)
    return [builder.op("Squeeze", out, builder.ints(*gone))]


def _gemm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    flags = node.attributes
    c = optional_input(node, 2)
    constant = constant_array(node.inputs[1]) is not None and (
        c is None or constant_array(c) is not None
    )
    if constant and not flags.get_int("transA", 0):
        return None
    a, b = node.inputs[:2]
    a = builder.op("Transpose", a, perm=[1, 0]) if flags.get_int("transA", 0) else a
    b = builder.op("Transpose", b, perm=[1, 0]) if flags.get_int("transB", 0) else b
    out = builder.op("MatMul", a, b)
    if (alpha := flags.get_float("alpha", 1.0)) != 1.0:
        out = builder.op("Mul", out, builder.constant(alpha))
    if c is not None:
        beta = flags.get_float("beta", 1.0)
        out = builder.op(
            "Add", out, c if beta == 1.0 else builder.op("Mul", c, builder.constant(beta))
        )
    return [out]


def _einsum(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Products of operands, two at a time from the left."""
    values = list(node.inputs)
    equation = node.attributes.get_string("equation") or ""
    letters, out = einsum_terms(equation, [rank_of(value) for value in values])
    sizes: dict[str, Size] = {}
    for term, value in zip(letters, values, strict=True):
        for letter, size in zip(term, shape_of(value), strict=True):
            if sizes.setdefault(letter, size) != size:
                raise UnsupportedError(f"sizes that differ in {equation!r}")
    x, term = values[0], letters[0]
    if len(values) == 1:
        return [_summed(builder, x, term, out)]
    for place in range(1, len(values)):
        later = "".join([out, *letters[place + 1 :]])
        both = dict.fromkeys(term + letters[place])
        kept = out if place == len(values) - 1 else "".join(c for c in both if c in later)
        x, term = (
            _contracted(builder, (x, term), (values[place], letters[place]), kept, sizes),
            kept,
        )
    return [x]


def _contracted(
    builder: NodeBuilder,
    first: tuple[ir.Value | None, str],
    second: tuple[ir.Value | None, str],
    out: str,
    sizes: dict[str, Size],
) -> ir.Value:
    """The product of two operands: [both, left, summed] x [both, summed, right]."""
    (_, a), (_, b) = first, second
    reduced = []
    for (value, term), other in ((first, b), (second, a)):
        kept = "".join(c for c in term if c in other + out)
        reduced.append((_summed(builder, value, term, kept), kept))
    (x, a), (y, b) = reduced
    both = [c for c in out if c in a and c in b]
    summed = [c for c in a if c in b and c not in out]
    left = [c for c in out if c in a and c not in b]
    right = [c for c in out if c in b and c not in a]
    x = _ordered(builder, x, a, [*both, *left, *summed])
    y = _ordered(builder, y, b, [*both, *summed, *right])
    if not both and any(isinstance(sizes[c], str) for c in right):
        raise UnsupportedError("rows on the right alone")
    # without a shared axis the left ones stay as they are: rows must not join another axis
    lefts = [left] if both else [[c] for c in left]
    x = _merged(builder, x, [sizes[c] for c in both], [*lefts, summed], sizes)
    y = _merged(builder, y, [sizes[c] for c in both], [summed, right], sizes)
    product = builder.op("MatMul", x, y)
    order = [*both, *left, *right]
    target = reshape_target(builder, [sizes[c] for c in order])
    product = builder.op("Reshape", product, target)
    return _ordered(builder, product, "".join(order), list(out))


def _summed(builder: NodeBuilder, value: ir.Value | None, term: str, out: str) -> ir.Value:
    gone = [i for i, c in enumerate(term) if c not in out]
    x = value
    for axis in reversed(gone):
        x = builder.op("ReduceSum", x, builder.ints(axis), keepdims=0)
    if x is None:
        raise UnsupportedError("an input is left out")
    return _ordered(builder, x, "".join(c for c in term if c in out), list(out))


def _ordered(builder: NodeBuilder, x: ir.Value | None, term: str, order: list[str]) -> ir.Value:
    if x is None:
        raise UnsupportedError("an input is left out")
    if list(term) == order:
        return x
    return builder.op("Transpose", x, perm=[term.index(c) for c in order])


def _merged(
    builder: NodeBuilder,
    x: ir.Value,
    both: list[Size],
    groups: Sequence[Sequence[str]],
    sizes: dict[str, Size],
) -> ir.Value:
    """Reshape to [*both, product of the first group, product of the second]."""
    shape = list(both)
    for group in groups:
        free = [sizes[c] for c in group if isinstance(sizes[c], str)]
        alone = len(group) == 1 and free
        known = math.prod(int(sizes[c]) for c in group if not isinstance(sizes[c], str))
        shape.append(free[0] if alone else -1 if free else known)
    return builder.op("Reshape", x, reshape_target(builder, shape))


def _conv(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A convolution as one matrix product: windows [b, positions, taps * channels] x weights."""
    x, weight, bias = (
        first_input(node),
        constant_array(node.inputs[1]),
        constant_array(optional_input(node, 2)),
    )
    sizes, attributes = shape_of(x), node.attributes
    if weight is None or (optional_input(node, 2) is not None and bias is None):
        raise UnsupportedError("its weights are not constant")
    if any(isinstance(size, str) for size in sizes[1:]):
        raise UnsupportedError("a free size beside the batch")
    space = weight.ndim - 2
    strides = list(attributes.get_ints("strides", [1] * space))
    dilations = list(attributes.get_ints("dilations", [1] * space))
    pads = _pads(node, [int(size) for size in sizes[2:]], weight.shape[2:], strides, dilations)
    groups = attributes.get_int("group", 1)
    extents = [int(s) + pads[i] + pads[i + space] for i, s in enumerate(sizes[2:])]
    if any(pads):
        full = [0, 0, *pads[:space], 0, 0, *pads[space:]]
        x = builder.op("Pad", x, builder.ints(*full), builder.constant(0.0))
    counts = [
        (extents[i] - dilations[i] * (weight.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(space)
    ]
    windows = []
    for tap in np.ndindex(*weight.shape[2:]):
        part = x
        for i, at in enumerate(tap):
            start, step = at * dilations[i], strides[i]
            if counts[i] != extents[i] or step != 1:
                part = builder.slice(part, 2 + i, start, start + (counts[i] - 1) * step + 1, step)
        windows.append(part)
    per_group, outs = weight.shape[1], weight.shape[0] // groups
    taps = math.prod(weight.shape[2:])
    results = []
    for group in range(groups):
        parts = windows
        if groups > 1:
            first = group * per_group
            parts = [builder.slice(part, 1, first, first + per_group) for part in windows]
        joined = parts[0] if taps == 1 else builder.op("Concat", *parts, axis=1)
        if space != 1:
            joined = builder.op(
                "Reshape", joined, builder.ints(-1, taps * per_group, math.prod(counts))
            )
        rows = builder.op("Transpose", joined, perm=[0, 2, 1])
        own = weight[group * outs : (group + 1) * outs].reshape(outs, per_group, taps)
        matrix = own.transpose(2, 1, 0).reshape(taps * per_group, outs)
        product = builder.op("MatMul", rows, builder.constant(matrix))
        if bias is not None:
            product = builder.op(
                "Add", product, builder.constant(bias[group * outs : (group + 1) * outs])
            )
        results.append(product)
    out = results[0] if groups == 1 else builder.op("Concat", *results, axis=2)
    out = builder.op("Transpose", out, perm=[0, 2, 1])
    if space != 1:
        out = builder.op("Reshape", out, builder.ints(-1, weight.shape[0], *counts))
    return [out]


def _pads(
    node: ir.Node,
    sizes: Sequence[int],
    taps: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        return list(node.attributes.get_ints("pads", [0] * 2 * len(sizes)))
    before, after = [], []
    for size, tap, step, gap in zip(sizes, taps, strides, dilations, strict=True):
        total = max((-(-size // step) - 1) * step + gap * (tap - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if kind == "SAME_UPPER" else more)
        after.append(more if kind == "SAME_UPPER" else less)
    return before + after


RULES: dict[str, Rule] = {
    "Conv": _conv,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
