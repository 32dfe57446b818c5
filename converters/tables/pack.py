"""Packing: cut the rows of every embedding table to their widths and quantise them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.codecs import Codec
from ondevice.converters.graph import (
    DOMAIN,
    LOOKUP,
    CapturedLookup,
    CapturedModel,
    PackedLookup,
    PackedModel,
)
from ondevice.converters.initializers import drop_unused_initializers
from ondevice.converters.tables.packed_table import (
    CODEC_OF_BITS,
    CellSection,
    PackedTable,
    pack_table,
)
from ondevice.errors import SpecError
from ondevice.sections import TableCodec, codec_text, table_codec

# The key for the codec of all tables that have no key, and their codec where this key is missing.
OTHERS = "*"
DEFAULT_CODEC: Codec = "q8"


def pack_tables(
    captured: CapturedModel, codec: str | TableCodec | Mapping[str, str | TableCodec]
) -> dict[str, PackedTable]:
    """Check every table and choose its scales, in one pass over each table.

    A row of a table that several lookups share has the largest of their widths.

    Args:
        captured: the graph.
        codec: of all tables, or their sections; or by the name of a table, or of an input that is
            looked up in it (the table's name has priority), and OTHERS for the rest.

    Raises:
        SpecError: a table has another shape than its lookup says, or cannot be quantised; a name
            that is neither a table's nor an input's; two inputs that share a table with two codecs.
    """
    codecs = table_codecs(captured, codec)
    return {name: _packed(captured, name, codecs[name]) for name in captured.tables}


def pack(captured: CapturedModel, tables: Mapping[str, PackedTable]) -> PackedModel:
    """A copy of the model with packed tables."""
    captured = captured.cloned()
    lookups = tuple(_pack_lookup(captured.model.graph, lookup) for lookup in captured.lookups)
    drop_unused_initializers(captured.model.graph)
    return PackedModel(captured.model, lookups, tables)


def table_codecs(
    captured: CapturedModel, codec: str | TableCodec | Mapping[str, str | TableCodec]
) -> dict[str, TableCodec]:
    """The codec of each table, or its sections; see `pack_tables`. Raises SpecError."""
    if not isinstance(codec, Mapping):
        return dict.fromkeys(captured.tables, table_codec(codec))
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
    asked = {name: table_codec(value) for name, value in codec.items()}
    codecs: dict[str, TableCodec] = {}
    for table, names in readers.items():
        by_input = {asked[name] for name in names if name in asked}
        if table not in asked and len(by_input) > 1:
            texts = sorted(map(codec_text, by_input))
            raise SpecError(f"table {table!r}: its inputs ask for {' and '.join(texts)}")
        others = asked.get(OTHERS, DEFAULT_CODEC)
        codecs[table] = asked.get(table, by_input.pop() if by_input else others)
    return codecs


def _packed(captured: CapturedModel, name: str, codec: TableCodec) -> PackedTable:
    table = captured.tables[name]
    lookups = [lookup for lookup in captured.lookups if lookup.table == name]
    for lookup in lookups:
        actual, expected = [table.rows, table.dim], [lookup.spec.rows, lookup.spec.row_dim]
        if actual != expected:
            raise SpecError(f"table {name!r}: expected shape {expected}, got {actual}")
    if (cells := lookups[0].spec.retrieval) is not None:
        scales = lookups[0].scales
        if scales is None:
            raise SpecError(f"table {name!r}: the cells of a retrieval structure have no scales")
        section = CellSection(table, CODEC_OF_BITS[cells.bits], None, scales)
        return PackedTable(table.dim, (section,))
    try:
        return pack_table(table, codec, _shared_widths(lookups))
    except SpecError as error:
        raise SpecError(f"table {name!r}: {error}") from error


def _shared_widths(lookups: list[CapturedLookup]) -> npt.NDArray[np.integer] | None:
    """The largest width of each row; None where a lookup reads whole rows."""
    arrays = [lookup.widths for lookup in lookups if lookup.widths is not None]
    if len(arrays) < len(lookups):
        return None
    widest: npt.NDArray[np.integer] = functools.reduce(np.maximum, arrays)
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
