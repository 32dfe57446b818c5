"""Column blocks: truncated rows in standard operators, by sorting rows and cutting columns.

Rows are sorted by kept width, descending; the table is cut into blocks of a few columns; block j
holds only the rows whose width reaches it, then one zero row. Sorted row r reads row min(r, n_j)
of every block j, so a row that does not reach a block reads zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import BITS, Codec, QuantTable
from ondevice.converters.graph import PackedModel
from ondevice.info import TableBytes

BLOCK_COLUMNS = 4
# Below this many bytes saved, the extra operators cost a request more than the bytes are worth.
LEAST_SAVING = 256
# Reading rows that share bytes takes operators for every value, so only short rows do.
SHORT_ROW_BITS = 32


@dataclass(frozen=True)
class ColumnBlocks:
    """A table cut into column blocks.

    Attributes:
        blocks: arrays [rows reaching the block (+ 1 zero row), columns]; dtype of table.values.
        scales: row scales in sorted order, column scales, or None; as in QuantTable.
        positions: original row -> sorted row [rows], or None when rows keep their order.
        zero_row: whether each block ends with a zero row, so that lookups must take the minimum.
        shared_bytes: whether rows of the only block share bytes: all codes of the table one after
            another, row by row.
    """

    blocks: tuple[npt.NDArray[Any], ...]
    scales: npt.NDArray[Any] | None
    positions: npt.NDArray[np.int64] | None
    zero_row: bool
    shared_bytes: bool = False


def rows_share_bytes(codec: Codec, rows: int, dim: int) -> bool:
    """Whether the rows of a whole table share bytes, because whole bytes a row cost too many."""
    bits = BITS[codec] * dim
    saved = rows * -(-bits // 8) - -(-rows * bits // 8)
    # codes are numbered in int32
    return bits < SHORT_ROW_BITS and saved >= LEAST_SAVING and rows * dim < 2**31


def cut(table: QuantTable) -> ColumnBlocks:
    """Cut a table into column blocks, or keep it whole where that saves nothing."""
    shared = rows_share_bytes(table.codec, table.rows, table.dim)
    whole = ColumnBlocks((table.values,), table.scales, None, False, shared)
    if table.widths is None:
        return whole
    widths = table.widths.astype(np.int64)
    order = np.argsort(-widths, kind="stable")
    counts = [int((widths > start).sum()) for start in range(0, table.dim, BLOCK_COLUMNS)]
    values = table.values[order]
    blocks, start = [], 0
    while start < table.dim and counts[start // BLOCK_COLUMNS]:
        count = counts[start // BLOCK_COLUMNS]
        stop = start
        while stop < table.dim and counts[stop // BLOCK_COLUMNS] == count:
            stop = min(stop + BLOCK_COLUMNS, table.dim)
        block = values[:count, start:stop]
        blocks.append(np.concatenate([block, np.zeros_like(block[:1])]))
        start = stop
    if start < table.dim:  # columns that no row reaches
        blocks.append(np.zeros((1, table.dim - start), dtype=values.dtype))
    positions = None
    if not np.array_equal(order, np.arange(table.rows)):
        positions = np.empty(table.rows, dtype=np.int64)
        positions[order] = np.arange(table.rows)
    if _bytes(table, blocks, positions) + LEAST_SAVING > _payload(table, whole):
        return whole
    scales = table.scales[order] if table.scale_axis == "row" and table.scales is not None else None
    return ColumnBlocks(tuple(blocks), table.scales if scales is None else scales, positions, True)


def position_dtype(rows: int) -> np.dtype[Any]:
    """The smallest dtype that both holds a row number and can be gathered."""
    return np.dtype(np.uint16 if rows <= 65_536 else np.int32)


def stored_tables(packed: PackedModel) -> tuple[TableBytes, ...]:
    """What the tables of a model take in a file that stores column blocks."""
    column_scales = {
        lookup.table: lookup.column_scales.nbytes
        for lookup in packed.lookups
        if lookup.column_scales is not None
    }
    return tuple(
        _stored(name, table, column_scales.get(name, 0)) for name, table in packed.tables.items()
    )


def _stored(name: str, table: QuantTable, column_scale_bytes: int) -> TableBytes:
    parts = cut(table)
    positions = 0 if parts.positions is None else position_dtype(table.rows).itemsize * table.rows
    return TableBytes(
        name=name,
        rows=table.rows,
        dim=table.dim,
        kept=table.dim if table.widths is None else float(table.widths.mean()),
        codec=table.codec,
        scale_axis=table.scale_axis,
        payload=_payload(table, parts),
        scales=column_scale_bytes + (0 if parts.scales is None else parts.scales.nbytes),
        widths=0,
        permutation=positions,
    )


def _payload(table: QuantTable, parts: ColumnBlocks) -> int:
    if parts.shared_bytes:
        return -(-table.rows * table.dim * BITS[table.codec] // 8)
    return _bytes(table, list(parts.blocks), None)


def _bytes(
    table: QuantTable,
    blocks: list[npt.NDArray[Any]],
    positions: npt.NDArray[np.int64] | None,
) -> int:
    bits = BITS[table.codec]
    values: int = sum(block.shape[0] * -(-block.shape[1] * bits // 8) for block in blocks)
    if positions is not None:
        values += table.rows * position_dtype(table.rows).itemsize
    return values
