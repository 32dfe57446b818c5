"""Cells of retrieval structures as plain codes: stock targets add these, and scale the sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ondevice.codecs import BITS, QuantTable, StoredTable
from ondevice.converters.graph import PackedModel
from ondevice.errors import SpecError


def split_cells(packed: PackedModel) -> PackedModel:
    """A model whose retrieval structures read codes without scales, and keep these at the lookup.

    Raises:
        SpecError: a plain lookup reads the cells too.
    """
    if all(lookup.spec.retrieval is None for lookup in packed.lookups):
        return packed
    packed = packed.cloned()
    tables, lookups = dict(packed.tables), []
    plain = {lookup.table for lookup in packed.lookups if lookup.spec.retrieval is None}
    for lookup in packed.lookups:
        if lookup.spec.retrieval is None:
            lookups.append(lookup)
            continue
        if lookup.table in plain:
            raise SpecError(f"table {lookup.table!r}: cells of a retrieval structure, read as rows")
        section = packed.tables[lookup.table].sections[0]
        values = section.column_scales if section.levels is None else section.levels
        if values is None:
            raise SpecError(f"table {lookup.table!r}: cells need column scales or levels")
        tables[lookup.table] = _codes(packed.tables[lookup.table])
        lookups.append(replace(lookup, cell_values=values[: lookup.spec.dim]))
    return replace(packed, lookups=tuple(lookups), tables=tables)


def _codes(table: StoredTable) -> QuantTable:
    """The codes of a table of one section, as two's complement, in memory and without scales."""
    section = table.sections[0]
    chunks = [chunk.values for part in section.parts for chunk in part.chunks()]
    up = np.int8(8 - BITS[section.codec])
    values = np.concatenate(chunks).astype(np.int8, copy=False) << up >> up
    return QuantTable(section.codec, values)
