"""Batch-first rules of matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import replace
from itertools import compress

import numpy as np
import onnx_ir as ir

from ondevice.converters.lowering.batch_first.context import LayoutRule, Rewrite
from ondevice.converters.lowering.batch_first.layout import (
    Layout,
    LayoutError,
    merged_last,
    permuted,
    with_unit_axis,
)
from ondevice.converters.lowering.batch_first.regroup import with_common_axes
from ondevice.converters.lowering.einsum import einsum_terms
from ondevice.converters.lowering.operands import constant_array, optional_input, rank_of, shape_of
from ondevice.converters.lowering.symbolic_shapes import Size
from ondevice.errors import UnsupportedError


def _matmul(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    left, right = node.inputs
    matrix = constant_array(right)
    if matrix is not None and matrix.ndim == 2:
        return [_times_constant(rewrite, rewrite.layout_of(left), right, matrix.shape[1])]
    if matrix is None and constant_array(left) is None:
        return [_product(rewrite, rewrite.layout_of(left), rewrite.layout_of(right))]
    return [_by_letters(rewrite, node)]


def _by_letters(rewrite: Rewrite, node: ir.Node) -> Layout:
    """A product with a constant that has a matrix for each of some axes, as an Einsum.

    Raises:
        LayoutError: an operand is a vector, or an axis of size 1 is repeated.
    """
    ranks = [rank_of(value) for value in node.inputs]
    if min(ranks) < 2:
        raise LayoutError
    leading = string.ascii_lowercase[: max(ranks) - 2]
    terms = [leading[len(leading) - rank + 2 :] for rank in ranks]
    letters = [f"{terms[0]}yz", f"{terms[1]}zx"]
    sizes: dict[str, set[Size]] = {}
    for term, value in zip(letters, node.inputs, strict=True):
        for letter, size in zip(term, shape_of(value), strict=True):
            sizes.setdefault(letter, set()).add(size)
    if any(len(found) > 1 for found in sizes.values()):
        raise LayoutError
    return _in_letters(rewrite, node, letters, f"{leading}yx")


def _gemm(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """A dense layer: a product with a constant matrix, and a constant bias."""
    flags = node.attributes
    matrix, bias = constant_array(node.inputs[1]), constant_array(optional_input(node, 2))
    if bias is None and optional_input(node, 2) is not None:
        raise LayoutError
    plain = flags.get_float("alpha", 1.0) == flags.get_float("beta", 1.0) == 1.0
    if matrix is None or flags.get_int("transA", 0) != 0 or not plain:
        raise LayoutError
    matrix = matrix.T if flags.get_int("transB", 0) else matrix
    constant = rewrite.builder.constant(np.ascontiguousarray(matrix), matrix.dtype)
    x = rewrite.layout_of(node.inputs[0])
    out = _times_constant(rewrite, x, constant, matrix.shape[1])
    if bias is None:
        return [out]
    inputs = [out.value, rewrite.builder.constant(bias.reshape(-1), bias.dtype)]
    return [replace(out, value=rewrite.builder.typed_op("Add", inputs, out.sizes, out.value.dtype))]


def _times_constant(rewrite: Rewrite, x: Layout, matrix: ir.Value | None, columns: int) -> Layout:
    """The last axis of the original times a constant matrix."""
    x = merged_last(rewrite.builder, x, x.rank - 1)
    if len(x.sizes) < 2:
        raise LayoutError
    sizes = (*x.sizes[:-1], columns)
    out = rewrite.builder.typed_op("MatMul", [x.value, matrix], sizes, x.value.dtype)
    return replace(x, value=out, sizes=sizes)


def _product(rewrite: Rewrite, a: Layout, b: Layout) -> Layout:
    """The product of the last two axes of originals whose other axes are the same.

    Raises:
        LayoutError: their ranks differ or are below 3, or the batch is among the last two axes.
    """
    if a.rank != b.rank or a.rank < 3:
        raise LayoutError
    builder, rank = rewrite.builder, a.rank
    a, b = with_common_axes(builder, {0: a, 1: b}, rank - 2).values()
    for axis in (rank - 2, rank - 1):
        a, b = (x if x.groups[axis] else with_unit_axis(builder, x, axis) for x in (a, b))
    for x in (a, b):
        if any(0 in group or len(group) != 1 for group in x.groups[-2:]):
            raise LayoutError
    leading = [(axis, n) for axis in range(rank - 2) for n in range(len(a.groups[axis]))]
    if [len(group) for group in a.groups[:-2]] != [len(group) for group in b.groups[:-2]]:
        raise LayoutError
    leading.sort(key=lambda key: a.groups[key[0]][key[1]] != 0)  # the batch first
    left, right = (
        permuted(
            builder,
            x,
            [*(x.groups[axis][n] for axis, n in leading), x.groups[-2][0], x.groups[-1][0]],
        )
        for x in (a, b)
    )
    sizes = (*left.sizes[:-1], right.sizes[-1])
    out = builder.typed_op("MatMul", [left.value, right.value], sizes, a.value.dtype)
    return Layout(out, sizes, (*left.groups[:-1], (len(sizes) - 1,)))


def _einsum(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """The same product with the letters of every operand in the order of its value's axes.

    Raises:
        LayoutError: the batch is not one letter of all operands that vary and of the result, an
            axis is cut in several ways, or a constant has an axis that is cut.
    """
    return [_in_letters(rewrite, node, *_equation(node))]


def _in_letters(rewrite: Rewrite, node: ir.Node, letters: list[str], out: str) -> Layout:
    """The Einsum of a node's operands: `letters` has those of their originals' axes."""
    unused = (c for c in string.ascii_letters if c not in "".join([*letters, out]))
    parts: dict[str, str] = {}  # for every letter, the letters of its parts
    terms: list[str] = []
    values: list[ir.Value | None] = []
    size_of: dict[str, Size] = {}
    constants = [constant_array(value) for value in node.inputs]
    for value, array, term in zip(node.inputs, constants, letters, strict=True):
        if array is not None:
            terms.append(term)
            values.append(value)
            size_of.update(zip(term, array.shape, strict=True))
            continue
        layout = rewrite.layout_of(value)
        for axis, group in enumerate(layout.groups):
            if not group:  # an axis of size 1, which the other operand or the result has too
                layout = with_unit_axis(rewrite.builder, layout, axis)
        terms.append(_term(layout, term, parts, unused))
        values.append(layout.value)
        size_of.update(zip(terms[-1], layout.sizes, strict=True))
    is_constant = [array is not None for array in constants]
    batch = {term[0] for term, fixed in zip(terms, is_constant, strict=True) if not fixed}
    result = "".join(parts.get(letter, letter) for letter in out)
    if len(batch) != 1 or not batch <= set(result):
        raise LayoutError
    if any(len(parts.get(c, c)) > 1 for term in compress(terms, is_constant) for c in term):
        raise LayoutError
    order = "".join(sorted(result, key=lambda letter: letter not in batch))
    sizes = tuple(size_of[letter] for letter in order)
    equation = f"{','.join(terms)}->{order}"
    dtype = node.outputs[0].dtype
    product = rewrite.builder.typed_op("Einsum", values, sizes, dtype, equation=equation)
    groups = tuple(tuple(order.index(c) for c in parts.get(letter, letter)) for letter in out)
    return Layout(product, sizes, groups)


def _equation(node: ir.Node) -> tuple[list[str], str]:
    """The letters of the operands and of the result of an Einsum."""
    try:
        ranks = [rank_of(value) for value in node.inputs]
        return einsum_terms(node.attributes.get_string("equation") or "", ranks)
    except UnsupportedError as error:
        raise LayoutError from error


def _term(layout: Layout, term: str, parts: dict[str, str], unused: Iterator[str]) -> str:
    """The letters of a layout's axes; `parts` gets those of letters that are new.

    Raises:
        LayoutError: another operand has the axis in more or fewer parts, or an axis of the value
            has no letter.
    """
    letters = [""] * len(layout.sizes)
    for letter, group in zip(term, layout.groups, strict=True):
        if letter not in parts:
            parts[letter] = "".join([letter, *(next(unused) for _ in group[1:])])
        if len(parts[letter]) != len(group):
            raise LayoutError
        for part, axis in zip(parts[letter], group, strict=True):
            letters[axis] = part
    if not all(letters):
        raise LayoutError
    return "".join(letters)


RULES: dict[str, LayoutRule] = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
