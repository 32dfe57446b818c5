"""What the transposes around a node do: their order, what they read, two that become one."""

from __future__ import annotations

import onnx_ir as ir

from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.lowering.operands import first_input, rank_of
from ondevice.errors import UnsupportedError


def permutation(transpose: ir.Node) -> list[int]:
    """The order of a transpose, int per axis; without one it reverses the axes."""
    if "perm" in transpose.attributes:
        return list(transpose.attributes.get_ints("perm", []))
    return list(range(rank_of(first_input(transpose))))[::-1]


def transposed_source(node: ir.Node) -> tuple[ir.Value, list[int]] | None:
    """The source and order of a transpose that makes a node's first input."""
    producer = first_input(node).producer()
    if producer is None or producer.op_type != "Transpose" or producer.domain:
        return None
    source = first_input(producer)
    return source, permutation(producer)


def swap_leading_axes(builder: NodeBuilder, value: ir.Value | None) -> ir.Value:
    """[b, a, ...] of [a, b, ...], without a second transpose where there is one already."""
    if value is None:
        raise UnsupportedError("an input is left out")
    rest = list(range(2, rank_of(value)))
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and not node.domain:
        source = first_input(node)
        perm = permutation(node)
        perm = [perm[1], perm[0], *perm[2:]]
        if perm == list(range(len(perm))):
            return source
        return builder.op("Transpose", source, perm=perm)
    return builder.op("Transpose", value, perm=[1, 0, *rest])
