"""Lowering rules of matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.einsum import einsum_terms
from ondevice.converters.lowering.free_sizes import is_batch, reshape_target
from ondevice.converters.lowering.operands import (
    constant_array,
    optional_input,
    rank_of,
    shape_of,
)
from ondevice.converters.lowering.symbolic_shapes import Size
from ondevice.errors import UnsupportedError


def _matmul(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A product with a vector as one with a matrix of one row or column."""
    left, right = rank_of(node.inputs[0]), rank_of(node.inputs[1])
    a, b = node.inputs
    if left > 1 and right > 1:
        sizes = shape_of(a)
        if left == 2 and isinstance(sizes[0], str) and right > 2:  # rows would become columns
            raise UnsupportedError("it mixes rows of the request")
        return _of_integers(builder, node)
    if left > 1 and (summed := _of_integers(builder, node)):
        return summed
    if left == 1:
        a = builder.op("Unsqueeze", a, builder.ints(0))
    if right == 1:
        b = builder.op("Unsqueeze", b, builder.ints(1))
    out = builder.op("MatMul", a, b)
    removed = [-2] * (left == 1) + [-1] * (right == 1)
    return [builder.op("Squeeze", out, builder.ints(*removed))]


def _of_integers(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A product of integers, which TFLite's matrix operators lack, as products and their sum."""
    left, right = node.inputs
    if node.outputs[0].dtype != ir.DataType.INT64:
        return None
    if rank_of(right) == 1:
        product = builder.op("Mul", left, right)
        return [builder.op("ReduceSum", product, builder.ints(-1), keepdims=0)]
    pairs = (builder.op("Unsqueeze", left, builder.ints(-1)), right)
    if rank_of(right) > 2:
        pairs = (pairs[0], builder.op("Unsqueeze", right, builder.ints(-3)))
    return [builder.op("ReduceSum", builder.op("Mul", *pairs), builder.ints(-2), keepdims=0)]


def _gemm(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A product with a computed matrix; one with a constant matrix and bias stays as it is."""
    flags = node.attributes
    c = optional_input(node, 2)
    is_dense = constant_array(node.inputs[1]) is not None and not flags.get_int("transA", 0)
    if is_dense and (c is None or constant_array(c) is not None):
        return None
    a, b = node.inputs[:2]
    a = builder.op("Transpose", a, perm=[1, 0]) if flags.get_int("transA", 0) else a
    b = builder.op("Transpose", b, perm=[1, 0]) if flags.get_int("transB", 0) else b
    out = builder.op("MatMul", a, b)
    if (alpha := flags.get_float("alpha", 1.0)) != 1.0:
        out = builder.op("Mul", out, builder.constant(alpha))
    if c is not None:
        beta = flags.get_float("beta", 1.0)
        scaled = c if beta == 1.0 else builder.op("Mul", c, builder.constant(beta))
        out = builder.op("Add", out, scaled)
    return [out]


def _einsum(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """Products of operands, two at a time from the left.

    Raises:
        UnsupportedError: a letter has two sizes, or the free axes of a product are on its right.
    """
    values = [value for value in node.inputs if value is not None]
    equation = node.attributes.get_string("equation") or ""
    letters, out = einsum_terms(equation, [rank_of(value) for value in values])
    sizes: dict[str, Size] = {}
    for term, value in zip(letters, values, strict=True):
        for letter, size in zip(term, shape_of(value), strict=True):
            if sizes.setdefault(letter, size) != size:
                raise UnsupportedError(f"the letter {letter} of {equation!r} has two sizes")
    x, term = values[0], letters[0]
    if len(values) == 1:
        return [_sum_to(builder, x, term, out)]
    for i in range(1, len(values)):
        later = "".join([out, *letters[i + 1 :]])
        both = dict.fromkeys(term + letters[i])
        result = out if i == len(values) - 1 else "".join(c for c in both if c in later)
        x = _contracted(builder, (x, term), (values[i], letters[i]), result, sizes)
        term = result
    return [x]


def _contracted(
    builder: NodeBuilder,
    first: tuple[ir.Value, str],
    second: tuple[ir.Value, str],
    out: str,
    sizes: dict[str, Size],
) -> ir.Value:
    """The product of two operands: [shared, left, summed] x [shared, summed, right].

    Raises:
        UnsupportedError: without shared axes, a free axis of the result is on the right.
    """
    if not any(is_batch(builder, sizes[c]) for c in first[1]):  # whose rows come first
        first, second = second, first
    (x, a), (y, b) = first, second
    a, b = ("".join(c for c in term if c in other + out) for term, other in ((a, b), (b, a)))
    x, y = (
        _sum_to(builder, value, term, letters)
        for (value, term), letters in ((first, a), (second, b))
    )
    # the rows stay in front
    batch = [c for c in a if is_batch(builder, sizes[c])]
    rows = [c for c in batch if c not in b and c in out]
    shared = sorted((c for c in out if c in a and c in b), key=lambda c: c not in batch)
    summed = [c for c in a if c in b and c not in out]
    left = [c for c in out if c in a and c not in b and (not shared or c not in rows)]
    right = [c for c in out if c in b and c not in a]
    if not shared and any(isinstance(sizes[c], str) for c in right):
        raise UnsupportedError("only its right operand has the rows of the request")
    outer = [*rows, *shared] if shared else []
    x = _transposed(builder, x, a, [*outer, *left, *summed])
    y = _transposed(builder, y, b, [*shared, *summed, *right])
    # without a shared axis the left ones stay as they are: rows must not join another axis
    left_groups = [left] if shared else [[c] for c in left]
    x = _merged(builder, x, [sizes[c] for c in outer], [*left_groups, summed], sizes)
    y = _merged(builder, y, [sizes[c] for c in shared], [summed, right], sizes)
    product = builder.op("MatMul", x, y)
    order = [*outer, *left, *right]
    target = reshape_target(builder, [sizes[c] for c in order])
    product = builder.op("Reshape", product, target)
    return _transposed(builder, product, "".join(order), list(out))


def _sum_to(builder: NodeBuilder, x: ir.Value, term: str, out: str) -> ir.Value:
    """A sum over the letters that `out` lacks, the others in its order."""
    removed = [i for i, c in enumerate(term) if c not in out]
    for axis in reversed(removed):
        x = builder.op("ReduceSum", x, builder.ints(axis), keepdims=0)
    return _transposed(builder, x, "".join(c for c in term if c in out), list(out))


def _transposed(builder: NodeBuilder, x: ir.Value, term: str, order: list[str]) -> ir.Value:
    if list(term) == order:
        return x
    return builder.op("Transpose", x, perm=[term.index(c) for c in order])


def _merged(
    builder: NodeBuilder,
    x: ir.Value,
    shared: list[Size],
    groups: Sequence[Sequence[str]],
    sizes: dict[str, Size],
) -> ir.Value:
    """Reshape to [*shared, product of the first group, product of the second, ...]."""
    shape = list(shared)
    for group in groups:
        free = [sizes[c] for c in group if isinstance(sizes[c], str)]
        known = math.prod(int(sizes[c]) for c in group if not isinstance(sizes[c], str))
        if free:
            shape.append(free[0] if len(group) == 1 else -1)
        else:
            shape.append(known)
    return builder.op("Reshape", x, reshape_target(builder, shape))


RULES: dict[str, Rule] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
