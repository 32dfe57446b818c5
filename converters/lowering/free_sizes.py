"""Target shapes at conversion: a constant, or, with several free sizes, computed by the request."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.operands import shape_of
from ondevice.converters.lowering.symbolic_shapes import Size
from ondevice.errors import UnsupportedError


def reshape_target(builder: NodeBuilder, sizes: Sequence[Size]) -> ir.Value:
    """The shape to give Reshape, int64 [axes]: one free size is -1, more are read at run time.

    Raises:
        UnsupportedError: a size is neither known nor that of an input's axis.
    """
    free = [size for size in sizes if isinstance(size, str)]
    if len(free) + list(sizes).count(-1) <= 1:
        return builder.ints(*(-1 if isinstance(size, str) else size for size in sizes))
    return sizes_at_run_time(builder, sizes)


def sizes_at_run_time(builder: NodeBuilder, sizes: Sequence[Size]) -> ir.Value:
    """Sizes as a value, int64 [axes]; the free ones are read from the inputs that have them.

    Raises:
        UnsupportedError: a size is neither known nor that of an input's axis.
    """
    parts = [
        _size(builder, size) if isinstance(size, str) else builder.ints(size) for size in sizes
    ]
    return parts[0] if len(parts) == 1 else builder.op("Concat", *parts, axis=0)


def _size(builder: NodeBuilder, name: str) -> ir.Value:
    """A free size, int64 [1]; also a product such as "2*batch"."""
    product: ir.Value | None = None
    for factor in name.split("*"):
        part = builder.ints(int(factor)) if factor.isdigit() else _axis_size(builder, factor)
        product = part if product is None else builder.op("Mul", product, part)
    if product is None:
        raise UnsupportedError("a free size has no name")
    return product


def _axis_size(builder: NodeBuilder, name: str) -> ir.Value:
    for value in builder.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and str(size) == name:
                return builder.op("Shape", value, start=axis, end=axis + 1)
    raise UnsupportedError(f"it has the free size {name}, which no input has")


def request_rows(builder: NodeBuilder) -> ir.Value:
    """A value whose first axis is the request's rows: the first input of the graph."""
    return builder.graph.inputs[0]


def is_batch(builder: NodeBuilder, size: Size) -> bool:
    """Whether a size is the number of the request's rows."""
    return isinstance(size, str) and size == shape_of(request_rows(builder))[0]
