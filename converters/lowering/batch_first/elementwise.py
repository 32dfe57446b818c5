"""Batch-first rules of elementwise operators: operands of any layouts, broadcast to common axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.batch_first.context import LayoutRule, Rewrite
from ondevice.converters.lowering.batch_first.layout import (
    Layout,
    LayoutError,
    known_size,
    permuted,
    reshaped,
)
from ondevice.converters.lowering.batch_first.regroup import with_common_axes
from ondevice.converters.lowering.operands import attribute_values, constant_array, triangle_mask
from ondevice.converters.lowering.symbolic_shapes import Size
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]
AxisKey = tuple[int, int]  # an axis of the original, and the number of a part of it

UNARY = {
    "Abs", "Acos", "Asin", "Atan", "Cast", "Celu", "Ceil", "Clip", "Cos", "Cosh", "Dropout", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu",
    "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
}  # fmt: skip
ELEMENTWISE = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Where", "Xor",
}  # fmt: skip


def _unary(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    x = rewrite.layout_of(node.inputs[0])
    inputs = [x.value, *node.inputs[1:]]
    dtype = node.outputs[0].dtype
    out = rewrite.builder.typed_op(node.op_type, inputs, x.sizes, dtype, **attribute_values(node))
    return [replace(x, value=out)]


def _elementwise(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    dtype = node.outputs[0].dtype
    return [combined(rewrite, node.op_type, node.inputs, dtype, attribute_values(node))]


def combined(
    rewrite: Rewrite,
    kind: str,
    operands: Sequence[ir.Value | Array | Layout | None],
    dtype: ir.DataType | None,
    attributes: Mapping[str, Any] | None = None,
) -> Layout:
    """An elementwise operator over operands that broadcast to each other.

    Args:
        rewrite: the state of the pass.
        kind: the ONNX operator.
        operands: values of the graph, constants, or layouts; None for one that is left out.
        dtype: of the result.
        attributes: of the operator.

    Raises:
        LayoutError: an operand has no layout, or their axes are cut at different sizes.
    """
    layouts, constants = _sorted_operands(rewrite, operands)
    ranks = [layout.rank for layout in layouts.values()] + [a.ndim for a in constants.values()]
    rank = max(ranks)
    layouts = {
        i: replace(layout, groups=((),) * (rank - layout.rank) + layout.groups)
        for i, layout in layouts.items()
    }
    layouts = with_common_axes(rewrite.builder, layouts, rank)
    size_of = _result_axes(layouts, constants.values(), rank)
    keys = list(size_of)
    inputs: list[ir.Value | None] = []
    for i in range(len(operands)):
        if i in layouts:
            inputs.append(_aligned(rewrite, layouts[i], keys))
        elif i in constants:
            array = _aligned_constant(constants[i], size_of, rank)
            inputs.append(rewrite.builder.constant(array, array.dtype))
        else:
            inputs.append(None)
    sizes = tuple(size_of.values())
    out = rewrite.builder.typed_op(kind, inputs, sizes, dtype, **(attributes or {}))
    groups = tuple(
        tuple(keys.index(key) for key in sorted(k for k in keys if k[0] == axis))
        for axis in range(rank)
    )
    return Layout(out, sizes, groups)


def _sorted_operands(
    rewrite: Rewrite, operands: Sequence[ir.Value | Array | Layout | None]
) -> tuple[dict[int, Layout], dict[int, Array]]:
    """The layouts and the constants among operands, by their number."""
    layouts: dict[int, Layout] = {}
    constants: dict[int, Array] = {}
    for i, operand in enumerate(operands):
        if isinstance(operand, Layout):
            layouts[i] = operand
        elif isinstance(operand, np.ndarray):
            constants[i] = operand
        elif (array := constant_array(operand)) is not None:
            constants[i] = array
        elif operand is not None:
            layouts[i] = rewrite.layout_of(operand)
    return layouts, constants


def _result_axes(
    layouts: Mapping[int, Layout], constants: Iterable[Array], rank: int
) -> dict[AxisKey, Size]:
    """Every axis of the result with its size: those of the operand with most axes come first.

    An axis that only constants have, the others being of size 1 there, comes last.
    """
    main = max(layouts, key=lambda i: len(layouts[i].sizes))
    size_of: dict[AxisKey, Size] = {}
    for layout in (layouts[main], *layouts.values()):
        for i, size in enumerate(layout.sizes):
            size_of.setdefault(layout.key(i), size)
    present = {axis for axis, _ in size_of}
    for array in constants:
        for axis, size in enumerate(array.shape, rank - array.ndim):
            if size > 1 and axis not in present:
                size_of[axis, 0] = size
    return size_of


def _aligned(rewrite: Rewrite, layout: Layout, keys: Sequence[AxisKey]) -> ir.Value:
    """The value of a layout with the axes of `keys`, of size 1 where the layout has none."""
    layout_keys = [layout.key(i) for i in range(len(layout.sizes))]
    order = [layout_keys.index(key) for key in keys if key in layout_keys]
    layout = permuted(rewrite.builder, layout, order)
    if len(order) == len(keys):
        return layout.value
    remaining = iter(layout.sizes)
    sizes: list[Size] = [next(remaining) if key in layout_keys else 1 for key in keys]
    return reshaped(rewrite.builder, layout.value, sizes)


def _aligned_constant(array: Array, size_of: Mapping[AxisKey, Size], rank: int) -> Array:
    """A constant of the original's axes with the axes of `size_of`.

    Raises:
        LayoutError: it has other values for every row, or its sizes are not those of the parts.
    """
    if array.size == 1:
        return array.reshape(())
    sizes = (1,) * (rank - array.ndim) + array.shape
    shape: list[int] = []
    order: list[AxisKey] = []
    for axis, size in enumerate(sizes):
        axis_keys = sorted(key for key in size_of if key[0] == axis)
        order += axis_keys
        if size == 1:
            shape += [1] * len(axis_keys)
            continue
        parts = [known_size(size_of[key]) for key in axis_keys]
        if math.prod(parts) != size:
            raise LayoutError
        shape += parts
    return array.reshape(shape).transpose([order.index(key) for key in size_of])


def _triangle(rewrite: Rewrite, node: ir.Node) -> list[Layout]:
    """A selection by a mask over the last two axes of the original.

    Raises:
        LayoutError: a size of the matrices, or the diagonal, is not known.
    """
    try:
        mask = triangle_mask(node)
    except UnsupportedError as error:
        raise LayoutError from error
    x, dtype = rewrite.layout_of(node.inputs[0]), node.outputs[0].dtype
    if dtype == ir.DataType.BOOL:
        return [combined(rewrite, "And", [x, mask], dtype)]
    zero = np.zeros((), np.float32 if dtype in (ir.DataType.FLOAT, None) else np.int64)
    return [combined(rewrite, "Where", [mask, x, zero], dtype)]


RULES: dict[str, LayoutRule] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "Trilu": _triangle,
}
