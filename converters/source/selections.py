"""Which operators select rows of a constant by IDs, and by which IDs."""

from __future__ import annotations

import onnx_ir as ir


def first_axis_ids(node: ir.Node) -> ir.Value | None:
    """The IDs by which a node selects whole rows of its first input; None where it does not.

    A node's output has the shape ids.shape + table.shape[1:].
    """
    if node.domain or len(node.inputs) < 2:
        return None
    if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
        return node.inputs[1]
    if node.op_type == "GatherND" and node.attributes.get_int("batch_dims", 0) == 0:
        return without_last_axis(node.inputs[1])
    return None


def without_last_axis(value: ir.Value | None) -> ir.Value | None:
    """What an Unsqueeze gave a last axis of size 1; None for any other value."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Unsqueeze" or node.domain:
        return None
    source, axes = node.inputs[0], None if node.inputs[1] is None else node.inputs[1].const_value
    if source is None or source.shape is None or axes is None:
        return None
    rank = len(source.shape)
    places = [int(axis) % (rank + 1) for axis in axes.numpy().reshape(-1)]
    return source if places == [rank] else None


def repeated_ids(node: ir.Node) -> ir.Value | None:
    """The IDs [n] by which a GatherElements selects whole rows of a matrix; None otherwise.

    That is what `torch.gather(table, 0, ids[:, None].expand(-1, dim))` exports to.
    """
    table, indices = node.inputs[:2]
    if table is None or table.shape is None or indices is None or indices.shape is None:
        return None
    if node.attributes.get_int("axis", 0) % len(table.shape) != 0:
        return None
    if len(table.shape) == 1:
        return indices
    expand = indices.producer()
    if len(table.shape) != 2 or expand is None or expand.op_type != "Expand":
        return None
    if indices.shape[1] != table.shape[1]:
        return None
    ids = without_last_axis(expand.inputs[0])
    return ids if ids is not None and ids.shape is not None and len(ids.shape) == 1 else None


def index_parts(node: ir.Node) -> list[ir.Value]:
    """The numbers by which a GatherND selects along each of a table's first axes.

    All have the shape of the IDs; there are at least two. An empty list for any other node.
    """
    indices = node.inputs[1] if len(node.inputs) > 1 else None
    joined = None if indices is None else indices.producer()
    if (
        node.op_type != "GatherND"
        or node.attributes.get_int("batch_dims", 0) != 0
        or joined is None
    ):
        return []
    if joined.op_type != "Concat" or indices is None or indices.shape is None:
        return []
    if joined.attributes.get_int("axis", 0) not in (-1, len(indices.shape) - 1):
        return []
    parts = [without_last_axis(value) for value in joined.inputs]
    known = [part for part in parts if part is not None]
    return known if len(known) == len(parts) > 1 else []


def is_column(value: ir.Value | None) -> bool:
    """Whether a value's last axis is of size 1."""
    shape = None if value is None else value.shape
    return shape is not None and len(shape) > 1 and shape[-1] == 1
