"""Column blocks: truncated rows in standard operators, by sorting rows and cutting columns.

Rows are sorted by width, descending; the table is cut into blocks of a few columns; block j stores
only the n_j rows whose width reaches it, then one zero row. Sorted row r reads row min(r, n_j) of
every block j, so a row that does not reach a block reads zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ondevice.codecs import (
    BITS,
    Codec,
    QuantTable,
    StoredSection,
    StoredTable,
    TablePart,
    value_dtype,
)
from ondevice.converters.graph import PackedModel
from ondevice.converters.tables.byte_codes import fill_bytes
from ondevice.info import TableBytes

BLOCK_COLUMNS = 4
# Below this many bytes saved, the extra operators cost a request more than the bytes are worth.
LEAST_SAVING = 256
# Reading rows that share bytes takes operators for every value, so only short rows do.
SHORT_ROW_BITS = 32
COUNTED_ROWS = 2**20  # at once: a histogram takes 8 bytes a row

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Columns `start` to `stop` of the first `count` sorted rows, then perhaps a zero row."""

    start: int
    stop: int
    count: int
    zero_row: bool

    @property
    def rows(self) -> int:
        """Rows of the block, with the zero row."""
        return self.count + self.zero_row

    @property
    def columns(self) -> int:
        """Columns of the block."""
        return self.stop - self.start


@dataclass(frozen=True)
class ColumnBlocks:
    """How a table is cut into column blocks; a single block where cutting saves nothing.

    Attributes:
        table: the table.
        blocks: at least one.
        zero_row: whether each block ends with a zero row, so that lookups must take the minimum.
        row_scales: whether there is an array of row scales, float16, in sorted order.
        positions: dtype of an array "original row -> sorted row", None when rows keep their order.
        shared_bytes: whether rows of the only block share bytes: the codes of all rows are stored
            one after another.
    """

    table: StoredSection
    blocks: tuple[Block, ...]
    zero_row: bool
    row_scales: bool
    positions: np.dtype[Any] | None
    shared_bytes: bool = False

    def block_shape(self, number: int) -> tuple[int, ...]:
        """Shape of a block as it is stored: codes narrower than a byte are packed."""
        block, bits = self.blocks[number], BITS[self.table.codec]
        if self.shared_bytes:  # the last code too is read from two bytes, where codes may be in two
            size = -(-block.rows * block.columns * bits // 8)
            return (size + (not fill_bytes(self.table.codec)),)
        return (block.rows, -(-block.columns * bits // 8) if bits < 8 else block.columns)

    def row_bits(self, place: int | str) -> int:
        """Bits of one row of a block, of one scale, or of one position."""
        if place == "scales":
            return 16
        if not isinstance(place, int):
            return 0 if self.positions is None else 8 * self.positions.itemsize
        bits = self.blocks[place].columns * BITS[self.table.codec]
        return bits if self.shared_bytes else -(-bits // 8) * 8


def rows_share_bytes(codec: Codec, rows: int, dim: int) -> bool:
    """Whether rows of an uncut table share bytes, as padding each to whole bytes costs too much."""
    bits = BITS[codec] * dim
    saved = rows * -(-bits // 8) - -(-rows * bits // 8)
    # codes are numbered in int32
    return bits < SHORT_ROW_BITS and saved >= LEAST_SAVING and rows * dim < 2**31


def is_bit_stream(table: StoredSection) -> bool:
    """Whether codes are stored one after another and taken out by arithmetic: levels, and q3.

    Levels are looked up by the code and its column; signed codes of whole bytes, by the byte.
    """
    return table.levels is not None or not fill_bytes(table.codec)


def cut(table: StoredSection) -> ColumnBlocks:
    """Cut a table into column blocks, or into a single one where cutting saves nothing."""
    row_scales = table.scale_axis == "row"
    only = (Block(0, table.dim, table.rows, False),)
    stream = is_bit_stream(table)
    shared = stream or rows_share_bytes(table.codec, table.rows, table.dim)
    whole = ColumnBlocks(table, only, False, row_scales, None, shared)
    if table.widths is None or stream:  # a zero row has no code where zero is no level
        return whole
    histogram = _histogram(table)
    counts = [int(histogram[start + 1 :].sum()) for start in range(0, table.dim, BLOCK_COLUMNS)]
    blocks, start = [], 0
    while start < table.dim and counts[start // BLOCK_COLUMNS]:
        count = counts[start // BLOCK_COLUMNS]
        stop = start
        while stop < table.dim and counts[stop // BLOCK_COLUMNS] == count:
            stop = min(stop + BLOCK_COLUMNS, table.dim)
        blocks.append(Block(start, stop, count, True))
        start = stop
    if start < table.dim:  # columns that no row reaches
        blocks.append(Block(start, table.dim, 0, True))
    in_order = bool((table.widths[:-1] >= table.widths[1:]).all())
    positions = None if in_order else position_dtype(table.rows)
    parts = ColumnBlocks(table, tuple(blocks), True, row_scales, positions)
    if _payload(parts) + _positions(parts) + LEAST_SAVING > _payload(whole):
        return whole
    return parts


class BlockWriter:
    """Writes a cut table into a file with room for its arrays; see `draft.TableWriter`."""

    def __init__(
        self,
        blocks: ColumnBlocks,
        offsets: Mapping[int | str, int],
        encode: Callable[[Array], Array],
    ) -> None:
        """Begin with the first row.

        Args:
            blocks: the table.
            offsets: byte of the file at which each array begins: that of a block by its number,
                "scales" and "positions".
            encode: values [rows, columns] of a block, in the dtype of QuantTable.values, to rows
                as the file stores them.
        """
        self.table = blocks.table
        self.parts: tuple[TablePart, ...] = blocks.table.parts
        self._blocks, self._offsets, self._encode = blocks, offsets, encode
        self._row = 0
        # of rows that share bytes: the last ones, which do not fill a byte yet
        self._remainder = np.empty((0, self.table.dim), value_dtype(self.table.codec))
        if blocks.zero_row:
            # where the next row of each width goes: rows of one width keep their order
            histogram = _histogram(self.table)
            self._places = np.cumsum(histogram[::-1])[::-1] - histogram

    def write(self, file: BinaryIO, chunk: QuantTable) -> None:
        """Write the next rows."""
        if self._blocks.zero_row:
            self._write_sorted(file, chunk)
        else:
            values, row = chunk.values, self._row
            if self._blocks.shared_bytes:
                values, row = np.concatenate([self._remainder, values]), row - len(self._remainder)
                whole = len(values) - len(values) % 8  # eight rows of any codes fill bytes
                values, self._remainder = values[:whole], values[whole:]
            self._put(file, 0, row, values)
            if self._blocks.row_scales:
                self._put(file, "scales", self._row, np.asarray(chunk.scales))
        self._row += chunk.rows

    def finish(self, file: BinaryIO) -> None:
        """Write the zero rows of the blocks, or the last rows of those that share bytes."""
        if len(self._remainder):
            self._put(file, 0, self._row - len(self._remainder), self._remainder)
        for number, block in enumerate(self._blocks.blocks):
            if block.zero_row:
                zeros = np.zeros((1, block.columns), self._remainder.dtype)
                self._put(file, number, block.count, zeros)

    def _write_sorted(self, file: BinaryIO, chunk: QuantTable) -> None:
        """Write the next rows, all rows of a width at a time, to their places in every block."""
        parts, places = self._blocks, self._places
        widths = np.asarray(chunk.widths).astype(np.int64)
        order = np.argsort(-widths, kind="stable")
        values = chunk.values[order]
        scales = np.asarray(chunk.scales)[order] if parts.row_scales else None
        positions = np.empty(chunk.rows, dtype=np.int64)
        ordered = widths[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], chunk.rows], strict=True):
            width = int(ordered[start])
            row, run = int(places[width]), slice(start, stop)
            for number, block in enumerate(parts.blocks):
                if row < block.count:
                    self._put(file, number, row, values[run, block.start : block.stop])
            if scales is not None:
                self._put(file, "scales", row, scales[run])
            positions[order[run]] = np.arange(row, row + stop - start)
            places[width] += stop - start
        if parts.positions is not None:
            self._put(file, "positions", self._row, positions.astype(parts.positions))

    def _put(self, file: BinaryIO, place: int | str, row: int, values: Array) -> None:
        """Write rows of one array, from `row` on, which begins at a whole byte."""
        rows = self._encode(values) if isinstance(place, int) else values
        stored = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        file.seek(self._offsets[place] + row * self._blocks.row_bits(place) // 8)
        file.write(stored.reshape(-1).view(np.uint8).data)


def position_dtype(rows: int) -> np.dtype[Any]:
    """The smallest dtype that both holds a row number and can be gathered."""
    return np.dtype(np.uint16 if rows <= 65_536 else np.int32)


def stored_tables(packed: PackedModel) -> tuple[TableBytes, ...]:
    """The bytes of each table of a model in a file that stores column blocks."""
    column_scales = {
        lookup.table: lookup.column_scales.nbytes
        for lookup in packed.lookups
        if lookup.column_scales is not None
    }
    return tuple(
        item
        for name, table in packed.tables.items()
        for item in _sections_bytes(name, table, column_scales.get(name, 0))
    )


def _sections_bytes(name: str, table: StoredTable, column_scale_bytes: int) -> list[TableBytes]:
    """The bytes of each section; `column_scale_bytes` is the size of the scales at the lookup."""
    firsts = np.cumsum([0, *(section.rows for section in table.sections)]).tolist()
    items = [
        _table_bytes(name, section, first)
        for section, first in zip(table.sections, firsts, strict=False)
    ]
    return [replace(items[0], scales=items[0].scales + column_scale_bytes), *items[1:]]


def _table_bytes(name: str, table: StoredSection, first_row: int) -> TableBytes:
    """The bytes of a section."""
    parts = cut(table)
    if parts.row_scales:
        scale_bytes = 2 * table.rows
    else:
        stored = (table.column_scales, table.levels)
        scale_bytes = sum(scales.nbytes for scales in stored if scales is not None)
    return TableBytes(
        name=name,
        rows=table.rows,
        dim=table.dim,
        kept=table.dim if table.widths is None else float(table.widths.mean()),
        codec=table.codec,
        scale_axis=table.scale_axis,
        payload=_payload(parts),
        scales=scale_bytes,
        widths=0,
        permutation=_positions(parts),
        first_row=first_row,
    )


def _histogram(table: StoredSection) -> npt.NDArray[np.int64]:
    """How many rows have each width, int64 [dim + 1]."""
    widths = np.asarray(table.widths)
    counts = np.zeros(table.dim + 1, dtype=np.int64)
    for start in range(0, table.rows, COUNTED_ROWS):
        counts += np.bincount(widths[start : start + COUNTED_ROWS], minlength=table.dim + 1)
    return counts


def _payload(parts: ColumnBlocks) -> int:
    """Bytes of the values in all blocks."""
    return sum(
        -(-block.rows * parts.row_bits(number) // 8) for number, block in enumerate(parts.blocks)
    )


def _positions(parts: ColumnBlocks) -> int:
    """Bytes of the array of positions."""
    return 0 if parts.positions is None else parts.table.rows * parts.positions.itemsize
