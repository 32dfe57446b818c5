"""Packing passes: cut rows to their kept widths and quantise every embedding table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.codecs import Codec, QuantTable, quantise
from ondevice.converters.graph import (
    DOMAIN,
    LOOKUP,
    CapturedLookup,
    CapturedModel,
    PackedLookup,
    PackedModel,
)
from ondevice.errors import SpecError


def pack(captured: CapturedModel, codec: Codec) -> PackedModel:
    """Quantise and truncate the tables; the captured graph is changed in place.

    A table that several lookups share keeps, per row, the largest of their widths.

    Raises:
        SpecError: a table has another shape than its lookup says, or cannot be quantised.
    """
    tables = {name: _pack_table(captured, name, codec) for name in captured.tables}
    lookups = tuple(_pack_lookup(captured.model.graph, lookup) for lookup in captured.lookups)
    _drop_unused_initializers(captured.model.graph)
    return PackedModel(captured.model, lookups, tables)


def _pack_table(captured: CapturedModel, name: str, codec: Codec) -> QuantTable:
    table = captured.tables[name]
    users = [lookup for lookup in captured.lookups if lookup.table == name]
    for lookup in users:
        expected = (lookup.spec.rows, lookup.spec.row_dim)
        if table.shape != expected:
            raise SpecError(f"table {name!r}: expected shape {list(expected)}, got {table.shape}")
    try:
        return quantise(table, codec, widths=_shared_widths(users))
    except SpecError as error:
        raise SpecError(f"table {name!r}: {error}") from error


def _shared_widths(users: list[CapturedLookup]) -> npt.NDArray[np.integer] | None:
    widths = [lookup.widths for lookup in users]
    if any(kept is None for kept in widths):
        return None
    stacked = np.stack([kept for kept in widths if kept is not None])
    widest: npt.NDArray[np.int64] = stacked.max(axis=0).astype(np.int64)
    return widest


def _pack_lookup(graph: ir.Graph, lookup: CapturedLookup) -> PackedLookup:
    old = lookup.node
    node = ir.Node(
        DOMAIN,
        LOOKUP,
        [old.inputs[0]],
        {"spec": ir.AttrString("spec", lookup.spec.to_json())},
        num_outputs=1,
        name=old.name,
        metadata_props=dict(old.metadata_props),
    )
    ir.convenience.replace_nodes_and_values(graph, old, [old], [node], old.outputs, node.outputs)
    return PackedLookup(node, lookup.spec, lookup.table)


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
