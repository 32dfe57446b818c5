"""Packing passes: cut rows to their kept widths and quantise every embedding table."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.codecs import CODECS, Codec
from ondevice.converters.graph import (
    DOMAIN,
    LOOKUP,
    CapturedLookup,
    CapturedModel,
    PackedLookup,
    PackedModel,
)
from ondevice.converters.tables.packed_table import PackedTable, pack_table
from ondevice.errors import SpecError

# The key that names the codec of all tables not named themselves, and that codec without the key.
OTHERS = "*"
DEFAULT_CODEC: Codec = "q8"


def pack_tables(
    captured: CapturedModel, codec: Codec | Mapping[str, Codec]
) -> dict[str, PackedTable]:
    """Check every table and choose its scales; reads each table once.

    A table that several lookups share keeps, per row, the largest of their widths.

    Args:
        captured: the graph.
        codec: of all tables, or by the name of a table or of the input that is looked up in it
            (the table's name counts first), with OTHERS for the rest.

    Raises:
        SpecError: a table has another shape than its lookup says, or cannot be quantised; a name
            that is neither a table's nor an input's; two inputs that share a table with two codecs.
    """
    codecs = table_codecs(captured, codec)
    return {name: _pack_table(captured, name, codecs[name]) for name in captured.tables}


def pack(captured: CapturedModel, tables: Mapping[str, PackedTable]) -> PackedModel:
    """The model with its tables packed; the captured one is not changed."""
    captured = captured.cloned()
    lookups = tuple(_pack_lookup(captured.model.graph, lookup) for lookup in captured.lookups)
    _drop_unused_initializers(captured.model.graph)
    return PackedModel(captured.model, lookups, tables)


def table_codecs(captured: CapturedModel, codec: Codec | Mapping[str, Codec]) -> dict[str, Codec]:
    """The codec of each table; see `pack_tables`. Raises SpecError."""
    if isinstance(codec, str):
        return dict.fromkeys(captured.tables, codec)
    readers: dict[str, set[str]] = {name: set() for name in captured.tables}
    for lookup in captured.lookups:
        ids = lookup.node.inputs[0]
        if ids is not None and ids.name:
            readers[lookup.table].add(ids.name)
    known = {*captured.tables, *(name for names in readers.values() for name in names)}
    if unknown := sorted(set(codec) - known - {OTHERS}):
        raise SpecError(
            f"codecs for {', '.join(unknown)}: no such table or input; there are "
            f"{', '.join(sorted(known))}"
        )
    if wrong := sorted({item for item in codec.values() if item not in CODECS}):
        raise SpecError(f"unknown codecs {', '.join(wrong)}; choose from {', '.join(CODECS)}")
    found: dict[str, Codec] = {}
    for table, names in readers.items():
        wanted = {codec[name] for name in names if name in codec}
        if table not in codec and len(wanted) > 1:
            raise SpecError(f"table {table!r}: its inputs ask for {' and '.join(sorted(wanted))}")
        others = codec.get(OTHERS, DEFAULT_CODEC)
        found[table] = codec.get(table, min(wanted, default=others))
    return found


def _pack_table(captured: CapturedModel, name: str, codec: Codec) -> PackedTable:
    table = captured.tables[name]
    users = [lookup for lookup in captured.lookups if lookup.table == name]
    for lookup in users:
        found, expected = [table.rows, table.dim], [lookup.spec.rows, lookup.spec.row_dim]
        if found != expected:
            raise SpecError(f"table {name!r}: expected shape {expected}, got {found}")
    try:
        return pack_table(table, codec, _shared_widths(users))
    except SpecError as error:
        raise SpecError(f"table {name!r}: {error}") from error


def _shared_widths(users: list[CapturedLookup]) -> npt.NDArray[np.integer] | None:
    widths = [lookup.widths for lookup in users]
    if any(kept is None for kept in widths):
        return None
    widest: npt.NDArray[np.integer] = functools.reduce(
        np.maximum, [kept for kept in widths if kept is not None]
    )
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
    return PackedLookup(node, (lookup.spec,), lookup.table)


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
