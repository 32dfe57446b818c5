"""Lowering rule of Conv: a matrix product of the elements under a window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder, Outputs, Rule
from ondevice.converters.lowering.operands import (
    constant_array,
    first_input,
    optional_input,
    shape_of,
)
from ondevice.errors import UnsupportedError

Array = npt.NDArray[Any]


def _conv(builder: NodeBuilder, node: ir.Node) -> Outputs | None:
    """A convolution as one matrix product: windows [b, positions, taps * channels] x weights.

    Raises:
        UnsupportedError: weights that are not constant, or a free size beside the batch.
    """
    weight, bias = constant_array(node.inputs[1]), constant_array(optional_input(node, 2))
    if weight is None or (optional_input(node, 2) is not None and bias is None):
        raise UnsupportedError("its weights are not constant")
    windows, counts = _windows(builder, node, weight.shape[2:])
    groups = node.attributes.get_int("group", 1)
    channels, units = weight.shape[1], weight.shape[0] // groups
    results = []
    for group in range(groups):
        parts = windows
        if groups > 1:
            start = group * channels
            parts = [builder.slice(part, 1, start, start + channels) for part in windows]
        rows = _rows_of_windows(builder, parts, channels, counts)
        group_units = slice(group * units, (group + 1) * units)
        product = builder.op("MatMul", rows, builder.constant(_matrix(weight[group_units])))
        if bias is not None:
            product = builder.op("Add", product, builder.constant(bias[group_units]))
        results.append(product)
    out = results[0] if groups == 1 else builder.op("Concat", *results, axis=2)
    out = builder.op("Transpose", out, perm=[0, 2, 1])
    if len(counts) != 1:
        out = builder.op("Reshape", out, builder.ints(-1, weight.shape[0], *counts))
    return [out]


def _windows(
    builder: NodeBuilder, node: ir.Node, kernel: Sequence[int]
) -> tuple[list[ir.Value], list[int]]:
    """For every tap of the kernel the elements under it [b, channels, *counts], and the counts.

    Raises:
        UnsupportedError: a size beside the batch is free.
    """
    x, attributes, space = first_input(node), node.attributes, len(kernel)
    if any(isinstance(size, str) for size in shape_of(x)[1:]):
        raise UnsupportedError("a size beside the batch is free")
    sizes = [int(size) for size in shape_of(x)[2:]]
    strides = list(attributes.get_ints("strides", [1] * space))
    dilations = list(attributes.get_ints("dilations", [1] * space))
    pads = _pads(node, sizes, kernel, strides, dilations)
    padded = [size + pads[i] + pads[i + space] for i, size in enumerate(sizes)]
    if any(pads):
        edges = builder.ints(0, 0, *pads[:space], 0, 0, *pads[space:])
        x = builder.op("Pad", x, edges, builder.constant(0.0))
    counts = [
        (padded[i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(space)
    ]
    windows = []
    for tap in np.ndindex(*kernel):
        part = x
        for i, place in enumerate(tap):
            start, step = place * dilations[i], strides[i]
            if counts[i] != padded[i] or step != 1:
                part = builder.slice(part, 2 + i, start, start + (counts[i] - 1) * step + 1, step)
        windows.append(part)
    return windows, counts


def _rows_of_windows(
    builder: NodeBuilder, windows: Sequence[ir.Value], channels: int, counts: Sequence[int]
) -> ir.Value:
    """Windows [b, channels, *counts], one for each tap, as [b, positions, taps * channels]."""
    taps = len(windows)
    joined = windows[0] if taps == 1 else builder.op("Concat", *windows, axis=1)
    if len(counts) != 1:
        sizes = builder.ints(-1, taps * channels, math.prod(counts))
        joined = builder.op("Reshape", joined, sizes)
    return builder.op("Transpose", joined, perm=[0, 2, 1])


def _matrix(weight: Array) -> Array:
    """Weights [units, channels, *kernel] as a matrix [taps * channels, units]."""
    units, channels = weight.shape[:2]
    return weight.reshape(units, channels, -1).transpose(2, 1, 0).reshape(-1, units)


def _pads(
    node: ir.Node,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """The padding in front of every axis, and behind every axis."""
    kind = node.attributes.get_string("auto_pad", "NOTSET")
    if kind in ("NOTSET", "VALID"):
        return list(node.attributes.get_ints("pads", [0] * 2 * len(sizes)))
    before, after = [], []
    for size, taps, step, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // step) - 1) * step + dilation * (taps - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(less if kind == "SAME_UPPER" else more)
        after.append(more if kind == "SAME_UPPER" else less)
    return before + after


RULES: dict[str, Rule] = {"Conv": _conv}
