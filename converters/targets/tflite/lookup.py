"""The body of one embedding lookup in TFLite operators: IDs to rows, rows to float32 vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import BITS, CODE_RANGE, NARROW_CODECS, Codec, StoredSection, StoredTable
from ondevice.converters.graph import PackedLookup
from ondevice.converters.tables.byte_codes import (
    byte_codes,
    codes_per_byte,
    fill_bytes,
    pack_codes,
)
from ondevice.converters.tables.column_blocks import BlockWriter, cut, is_bit_stream
from ondevice.converters.tables.row_arithmetic import (
    HeadArithmetic,
    ResidueArithmetic,
    RowArithmetic,
    cell_arithmetic,
    head_arithmetic,
    residue_arithmetic,
    row_arithmetic,
    squeeze_single_input,
)
from ondevice.converters.targets.section_merge import level_firsts
from ondevice.converters.targets.tflite.shapes import flat_size, reshape
from ondevice.converters.targets.tflite.writer import Shape, Tensor, TfliteWriter
from ondevice.errors import UnsupportedError
from ondevice.spec import LookupSpec, Retrieval

# A byte table is two to nine times as fast as shifts for blocks of many bit runs (Skip), but takes
# 256 int32 rows for each byte of the code. Its size may be this share of the embedding table's; a
# block of two runs, cut by a word border, gains nothing from it.
BYTE_TABLE_SHARE = 1 / 16
EXACT_FLOAT = 2**24  # float32 has all whole numbers up to this one

# What GATHER accepts in both runtimes: float16 is stored as integers, narrow codes as bytes.
VALUE_DTYPES: dict[Codec, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.int16),
    "q8": np.dtype(np.int8),
    **dict.fromkeys(NARROW_CODECS, np.dtype(np.uint8)),
}


class TfliteTable:
    """An embedding table in the file, shared by every lookup that reads it.

    Rows are gathered first and dequantised after, so no run dequantises the whole table.
    """

    def __init__(self, writer: TfliteWriter, name: str, table: StoredTable) -> None:
        """Reserve room for the sections of the table."""
        self.rows, self.dim = table.rows, table.dim
        several = len(table.sections) > 1
        self._writer = writer
        self._sections = [
            _TfliteSection(writer, f"{name}.{number}" if several else name, section)
            for number, section in enumerate(table.sections)
        ]
        self.bytes = sum(section.bytes for section in self._sections)
        # column scales of a table of one section are left to `scale_columns`
        self._only = self._sections[0] if table.sections[0].dim == table.dim else None
        self._only = None if several else self._only

    def rows_writers(self) -> list[BlockWriter]:
        """The writers of the rows into the file, once `TfliteWriter.write` has written it."""
        return [section.rows_writer() for section in self._sections]

    @property
    def rejects_outside(self) -> bool:
        """Whether reading a row beyond the table fails by itself; a negative one always fails."""
        return self._only is not None and self._only.rejects_outside

    def read(self, rows: Tensor) -> Tensor:
        """Rows int32 or int64 [...] to values float32 [..., dim], perhaps without column scales.

        Every section is read; a row outside one reads its first or last row, which is dropped. A
        negative row fails in GATHER, in the first section.
        """
        if self._only is not None:
            return self._only.read(rows)
        writer = self._writer
        values: list[Tensor] = []
        start, last = 0, len(self._sections) - 1
        for number, section in enumerate(self._sections):
            inside = rows
            if start:
                constant, zero = (writer.constant(n, rows.dtype) for n in (start, 0))
                inside = writer.op("SUB", [rows, constant], rows.shape, rows.dtype)
                inside = writer.op("MAXIMUM", [inside, zero], rows.shape, rows.dtype)
            if number < last:
                constant = writer.constant(section.table.rows - 1, rows.dtype)
                inside = writer.op("MINIMUM", [inside, constant], rows.shape, rows.dtype)
            values.append(self._whole(section.scale_columns(section.read(inside))))
            start += section.table.rows
        chosen, stop = values.pop(), start - self._sections[-1].table.rows
        for section in reversed(self._sections[:-1]):
            constant = writer.constant(stop, rows.dtype)
            before = writer.op("LESS", [rows, constant], rows.shape, np.bool_)
            before = reshape(writer, before, (*rows.shape, 1))
            chosen = writer.op(
                "SELECT_V2", [before, values.pop(), chosen], chosen.shape, np.float32
            )
            stop -= section.table.rows
        return chosen

    def read_sum(self, rows: Tensor, inputs: int) -> Tensor:
        """Sums over the blocks of rows int32 [n, blocks * inputs]: float32 [n, inputs, dim].

        Column blocks are added up before they are joined, so that fewer values are copied. Column
        scales are left out, as by `read`.
        """
        parts = [self.read(rows)] if self._only is None else self._only.read_parts(rows)
        size, blocks = rows.shape[0], rows.shape[1] // inputs
        sums = []
        for part in parts:
            columns = part.shape[-1]
            if blocks > 1:  # a long last axis: SUM is up to six times as fast
                part = reshape(self._writer, part, (size, blocks, inputs * columns))
                part = _sum_axis(self._writer, part, 1)
            sums.append(reshape(self._writer, part, (size, inputs, columns)))
        if len(sums) == 1:
            return sums[0]
        shape = (size, inputs, self.dim)
        return self._writer.op("CONCATENATION", sums, shape, np.float32, axis=2)

    def scale_columns(self, vectors: Tensor) -> Tensor:
        """Apply the column scales that `read` left out; they commute with sums over rows."""
        return vectors if self._only is None else self._only.scale_columns(vectors)

    def _whole(self, values: Tensor) -> Tensor:
        """Values of a section, filled with zeros to whole rows."""
        if values.shape[-1] == self.dim:
            return values
        places = [[0, 0]] * (len(values.shape) - 1) + [[0, self.dim - values.shape[-1]]]
        constants = self._writer.constant(places, np.int32), self._writer.constant(0, np.float32)
        shape = (*values.shape[:-1], self.dim)
        return self._writer.op("PADV2", [values, *constants], shape, np.float32)


class _TfliteSection:
    """Rows of one codec in the file, as column blocks where truncation saves bytes."""

    def __init__(self, writer: TfliteWriter, name: str, table: StoredSection) -> None:
        """Reserve room for the rows.

        Raises:
            UnsupportedError: more codes that are read bit by bit than int32 can number.
        """
        if is_bit_stream(table) and table.rows * table.dim >= 2**31:
            raise UnsupportedError(
                f"table {name!r}: {table.rows} x {table.dim} codes with levels or of 3 bits exceed "
                "what TFLite can number; use q8, q4 or q2 without levels"
            )
        self.table = table
        self.bytes = table.rows * table.dim * BITS[table.codec] // 8
        self._writer = writer
        self._parts = parts = cut(table)
        self._zero_row = parts.zero_row
        self._shared_bytes = parts.shared_bytes
        self._planar = table.codec == "q4" and len(parts.blocks) == 1 and not parts.shared_bytes
        dtype = VALUE_DTYPES[table.codec]
        self._blocks = [
            writer.reserve(f"{name}.values.{number}", parts.block_shape(number), dtype)
            for number in range(len(parts.blocks))
        ]
        self._positions: Tensor | None = None
        if parts.positions is not None:
            # GATHER takes no uint16, but int16: the same bits
            dtype = np.dtype(np.int16 if parts.positions == np.uint16 else np.int32)
            self._positions = writer.reserve(f"{name}.positions", (table.rows,), dtype)
        self._row_scales: Tensor | None = None
        self._column_scales: Tensor | None = None
        if parts.row_scales:
            self._row_scales = writer.reserve(f"{name}.scales", (table.rows, 1), np.int16)
        elif table.column_scales is not None:
            self._column_scales = writer.table(f"{name}.scales", table.column_scales)

    def rows_writer(self) -> BlockWriter:
        """The writer of the rows into the file, once `TfliteWriter.write` has written it."""
        places: dict[int | str, Tensor | None] = dict(enumerate(self._blocks))
        places |= {"scales": self._row_scales, "positions": self._positions}
        offsets = {place: self._writer.offset(tensor) for place, tensor in places.items() if tensor}
        return BlockWriter(self._parts, offsets, self._payload)

    @property
    def rejects_outside(self) -> bool:
        """Whether reading a row beyond the table fails by itself, in GATHER.

        Column blocks take the minimum of the row number and their last row, which would turn
        such a row into zeros; gathering its position first fails. The last byte of rows that share
        bytes may have room for more rows.
        """
        return not self._shared_bytes and (not self._zero_row or self._positions is not None)

    def read(self, rows: Tensor) -> Tensor:
        """Rows int32 or int64 [...] to values float32 [..., dim], still without column scales.

        A negative row fails in GATHER.
        """
        if self._positions is not None:
            rows = self._position(self._positions, rows)
        if is_bit_stream(self.table):
            values = self._read_stream(rows)
        elif self._shared_bytes:
            values = self._read_shared(rows)
        else:
            values = self._decode(self._read_blocks(rows), self.table.dim)
        return self._scale_rows([values], rows)[0]

    def read_parts(self, rows: Tensor) -> list[Tensor]:
        """Rows int32 [...] to values float32 [..., columns] of each column block, as `read`."""
        if len(self._blocks) == 1:
            return [self.read(rows)]
        if self._positions is not None:
            rows = self._position(self._positions, rows)
        parts = [
            self._decode(self._gather(stored, place), block.columns)
            for stored, place, block in zip(
                self._blocks, self._all_within(rows), self._parts.blocks, strict=True
            )
        ]
        return self._scale_rows(parts, rows)

    def _scale_rows(self, parts: list[Tensor], rows: Tensor) -> list[Tensor]:
        """Values float32 [..., columns] times the scales of their rows, if rows have scales."""
        if self._row_scales is None:
            return parts
        scales = self._float16(self._gather(self._row_scales, rows))
        return [self._writer.op("MUL", [part, scales], part.shape, np.float32) for part in parts]

    def _read_blocks(self, rows: Tensor) -> Tensor:
        gathered = [
            self._gather(block, place)
            for block, place in zip(self._blocks, self._all_within(rows), strict=True)
        ]
        if len(gathered) == 1:
            return gathered[0]
        shape = (*rows.shape, sum(part.shape[-1] for part in gathered))
        axis, dtype = len(shape) - 1, gathered[0].dtype
        return self._writer.op("CONCATENATION", gathered, shape, dtype, axis=axis)

    def _read_shared(self, rows: Tensor) -> Tensor:
        """Values float32 [..., dim] of rows that share bytes: the byte of a code, then the code.

        In int32, as runtimes lack shifts and remainders of int64; rows out of range are -1.
        """
        writer, codec = self._writer, self.table.codec
        per_byte = codes_per_byte(codec)
        places = self._code_places(rows)
        shape = places.shape
        shift = writer.constant([per_byte.bit_length() - 1], np.int32)
        stored = self._gather(
            self._blocks[0], writer.op("RIGHT_SHIFT", [places, shift], shape, np.int32)
        )
        number = writer.constant(per_byte, np.int32)
        first = writer.op("MUL", [writer.cast(stored, np.int32), number], shape, np.int32)
        within = writer.op("FLOOR_MOD", [places, number], shape, np.int32)
        code = writer.op("ADD", [first, within], shape, np.int32)
        return self._gather(writer.constant(byte_codes(codec).reshape(-1), np.float32), code)

    def _code_places(self, rows: Tensor) -> Tensor:
        """The number of each code of rows in their table: [...] -> int32 [..., dim]."""
        writer, dim = self._writer, self.table.dim
        places = writer.cast(rows, np.int32)
        places = reshape(writer, places, (*rows.shape, 1))
        if dim == 1:
            return places
        constant = writer.constant(dim, np.int32)
        places = writer.op("MUL", [places, constant], places.shape, np.int32)
        constant = writer.constant(list(range(dim)), np.int32)
        return writer.op("ADD", [places, constant], (*rows.shape, dim), np.int32)

    def _read_stream(self, rows: Tensor) -> Tensor:
        """Values float32 [..., dim] of codes that are taken out of a stream of bits.

        Eight codes are as many bytes as a code has bits.
        """
        writer, table, bits = self._writer, self.table, BITS[self.table.codec]
        places = self._code_places(rows)
        shape = places.shape

        def calculate(opcode: str, left: Tensor, right: Tensor | int | list[int]) -> Tensor:
            other = right if isinstance(right, Tensor) else writer.constant(right, np.int32)
            return writer.op(opcode, [left, other], shape, np.int32)

        bit = calculate("MUL", calculate("FLOOR_MOD", places, 8), bits)
        group = calculate("MUL", calculate("RIGHT_SHIFT", places, [3]), bits)
        byte = calculate("ADD", group, calculate("RIGHT_SHIFT", bit, [3]))
        word = writer.cast(self._gather(self._blocks[0], byte), np.int32)
        if not fill_bytes(table.codec):
            high = self._gather(self._blocks[0], calculate("ADD", byte, 1))
            word = calculate("ADD", word, calculate("MUL", writer.cast(high, np.int32), 256))
        word = calculate("RIGHT_SHIFT", word, calculate("FLOOR_MOD", bit, 8))
        code = calculate("FLOOR_MOD", word, 2**bits)
        if table.levels is None:
            low, top = CODE_RANGE[table.codec]
            values = np.array([*range(top + 1), *range(low, 0)], dtype=np.float32)
        else:
            values = table.levels.reshape(-1)
            firsts = level_firsts(table)
            if firsts is not None:
                constant = writer.constant(firsts, np.int32)
                code = writer.op("ADD", [code, constant], shape, np.int32)
        return self._gather(writer.constant(values, np.float32), code)

    def scale_columns(self, vectors: Tensor) -> Tensor:
        """Apply the column scales, if any; they commute with sums over rows."""
        if self._column_scales is None:
            return vectors
        return self._writer.op("MUL", [vectors, self._column_scales], vectors.shape, np.float32)

    def _payload(self, block: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The stored form of a block of values; float16 and narrow codes become integers."""
        if self.table.codec == "f16":
            return block.view(np.int16)
        if self.table.codec not in NARROW_CODECS:
            return block
        if self._planar:
            return _planar_nibbles(block)
        return pack_codes(block, self.table.codec, self._shared_bytes)

    def _position(self, positions: Tensor, rows: Tensor) -> Tensor:
        """Sorted row numbers int32 of rows in the original order."""
        gathered = self._gather(positions, rows)
        if positions.dtype == np.int32:
            return gathered
        unsigned = self._writer.op("BITCAST", [gathered], rows.shape, np.uint16)
        return self._writer.cast(unsigned, np.int32)

    def _all_within(self, rows: Tensor) -> list[Tensor]:
        """Row numbers for each block; rows that do not reach it read its last row, of zeros.

        The minimum is taken in float32 where that is exact: it is four times as fast there.
        """
        lasts = [block.shape[0] - 1 for block in self._blocks]
        cut = [last for last in lasts if self._zero_row and last < self.table.rows]
        if not cut:
            return [rows] * len(lasts)
        exact = self.table.rows <= EXACT_FLOAT and self._positions is not None
        numbers = self._writer.cast(rows, np.float32) if exact else rows
        places = []
        for last in lasts:
            if last not in cut:
                places.append(rows)
                continue
            constant = self._writer.constant(last, numbers.dtype)
            least = self._writer.op("MINIMUM", [numbers, constant], rows.shape, numbers.dtype)
            places.append(self._writer.cast(least, np.int32) if exact else least)
        return places

    def _gather(self, source: Tensor, rows: Tensor) -> Tensor:
        shape = (*rows.shape, *source.shape[1:])
        return self._writer.op("GATHER", [source, rows], shape, source.dtype, axis=0)

    def _float16(self, bits: Tensor) -> Tensor:
        """int16 bit patterns of float16 numbers to float32.

        tflite-runtime 2.14 cannot gather float16, and casts it only in a delegate.
        """
        half = self._writer.op("BITCAST", [bits], bits.shape, np.float16)
        return self._writer.op("DEQUANTIZE", [half], bits.shape, np.float32)

    def _decode(self, stored: Tensor, columns: int) -> Tensor:
        """Values float32 [..., columns] of stored rows, still without scales."""
        if self.table.codec == "f32":
            return stored
        if self.table.codec == "f16":
            return self._float16(stored)
        if self.table.codec == "q8":
            return self._writer.cast(stored, np.float32)
        values = self._decode_planar(stored) if self._planar else self._decode_bytes(stored)
        return self._drop_filling(values, columns)

    def _decode_planar(self, packed: Tensor) -> Tensor:
        """Nibbles by arithmetic, exact in float32: twice as fast as `_decode_bytes`."""
        writer = self._writer
        both = writer.cast(packed, np.float32)
        shape = both.shape
        sixteenth = writer.constant(1 / 16, np.float32)
        high = writer.op("MUL", [both, sixteenth], shape, np.float32)
        high = writer.op("FLOOR", [high], shape, np.float32)
        raised = writer.op("MUL", [high, writer.constant(16, np.float32)], shape, np.float32)
        low = writer.op("SUB", [both, raised], shape, np.float32)
        whole = (*shape[:-1], 2 * shape[-1])
        axis = len(shape) - 1
        values = writer.op("CONCATENATION", [low, high], whole, np.float32, axis=axis)
        return writer.op("SUB", [values, writer.constant(8, np.float32)], whole, np.float32)

    def _decode_bytes(self, packed: Tensor) -> Tensor:
        """Codes by a table of all 256 bytes; unlike planar codes, columns stay in order."""
        writer, codec = self._writer, self.table.codec
        indices = writer.cast(packed, np.int32)
        codes = self._gather(writer.constant(byte_codes(codec), np.float32), indices)
        columns = codes_per_byte(codec) * packed.shape[-1]
        return reshape(writer, codes, (*packed.shape[:-1], columns))

    def _drop_filling(self, values: Tensor, columns: int) -> Tensor:
        if values.shape[-1] == columns:
            return values
        shape = (*values.shape[:-1], columns)
        begin = self._writer.constant([0] * len(shape), np.int32)
        size = self._writer.constant([-1] * (len(shape) - 1) + [columns], np.int32)
        return self._writer.op("SLICE", [values, begin, size], shape, np.float32)


def write_lookup(
    writer: TfliteWriter, lookup: PackedLookup, table: TfliteTable, inputs: list[Tensor]
) -> Tensor:
    """Add the operators of a lookup. An ID that its specification rejects makes GATHER fail.

    Args:
        writer: the graph.
        lookup: the lookup.
        table: the table that it reads.
        inputs: IDs, one int64 [...] or several int64 [n], or the matrix [n, inputs] of several.

    Returns:
        Vectors float32 [..., dim], concatenated where there are several inputs.
    """
    spec, first = lookup.spec, inputs[0]
    if len(lookup.specs) > 1:
        return _write_merged(writer, lookup, table, inputs)
    flat = first if len(first.shape) == 1 else reshape(writer, first, (flat_size(first.shape),))
    if spec.retrieval is not None:
        vectors = _retrieved(writer, lookup, spec.retrieval, table, flat)
    elif spec.scheme == "full":
        vectors = table.scale_columns(table.read(_full_rows(writer, lookup, table, flat)))
    else:
        rows = _hashed_rows(writer, lookup, table, flat)
        vectors = _fuse(writer, lookup, table, rows)
    present = None
    if spec.padding_id is not None:
        present = _not_padding(writer, spec.padding_id, flat)
        vectors = writer.op("MUL", [vectors, present], vectors.shape, np.float32)
    if flat is first:
        return vectors
    vectors = reshape(writer, vectors, (*first.shape, spec.dim), like=first)
    if spec.pooling == "none" or present is None:
        return vectors
    total = _sum_axis(writer, vectors, -2)
    if spec.pooling == "sum":
        return total
    count = _sum_axis(writer, reshape(writer, present, (*first.shape, 1), like=first), -2)
    count = writer.op("MAXIMUM", [count, writer.constant(1, np.float32)], count.shape, np.float32)
    return writer.op("DIV", [total, count], total.shape, np.float32)


def _retrieved(
    writer: TfliteWriter, lookup: PackedLookup, cells: Retrieval, table: TfliteTable, ids: Tensor
) -> Tensor:
    """Vectors float32 [n, dim] of a retrieval structure: sums of codes, unless IDs are unknown.

    Codes are whole numbers in float32, so their sums and differences are exact.
    """
    spec = lookup.spec
    numbers = _rows_by_residues(writer, cell_arithmetic(spec), ids)
    start = _slice(writer, numbers, cells.hashes, 1)
    places = _slice(writer, numbers, 0, cells.hashes)
    places = writer.op("ADD", [places, start], places.shape, np.int32)
    if spec.cells_wrap:
        count = writer.constant(spec.cells, np.int32)
        places = writer.op("FLOOR_MOD", [places, count], places.shape, np.int32)
    codes = _sum_axis(writer, table.read(places), 1)
    if not cells.fingerprints:
        return _cell_values(writer, codes, cells.bits, lookup)
    expected = _slice(writer, numbers, cells.hashes + 1, cells.fingerprints)
    present = _slice(writer, codes, spec.dim, cells.fingerprints)
    difference = writer.op(
        "SUB", [present, writer.cast(expected, np.float32)], present.shape, np.float32
    )
    wrong = _sum_axis(writer, _modulo(writer, difference, cells.bits), 1)
    unknown = writer.op("GREATER", [wrong, writer.constant(0, np.float32)], wrong.shape, np.bool_)
    unknown = reshape(writer, unknown, (ids.shape[0], 1))
    last = table.read(writer.constant([spec.cells], np.int32))
    codes = writer.op("SELECT_V2", [unknown, last, codes], codes.shape, np.float32)
    return _cell_values(writer, _slice(writer, codes, 0, spec.dim), cells.bits, lookup)


def _cell_values(writer: TfliteWriter, codes: Tensor, bits: int, lookup: PackedLookup) -> Tensor:
    """What sums of codes float32 [n, dim] stand for, modulo 2**bits."""
    values = np.asarray(lookup.cell_values, dtype=np.float32)
    if values.ndim == 1:
        half = writer.constant(2 ** (bits - 1), np.float32)
        codes = writer.op("ADD", [codes, half], codes.shape, np.float32)
        codes = writer.op("SUB", [_modulo(writer, codes, bits), half], codes.shape, np.float32)
        scales = writer.constant(values, np.float32)
        return writer.op("MUL", [codes, scales], codes.shape, np.float32)
    numbers = writer.cast(_modulo(writer, codes, bits), np.int32)
    firsts = writer.constant(np.arange(len(values)) << bits, np.int32)
    numbers = writer.op("ADD", [numbers, firsts], codes.shape, np.int32)
    levels = writer.constant(values.reshape(-1), np.float32)
    return writer.op("GATHER", [levels, numbers], codes.shape, np.float32, axis=0)


def _modulo(writer: TfliteWriter, values: Tensor, bits: int) -> Tensor:
    """Whole numbers float32 modulo 2**bits: 0..2**bits-1."""
    share = writer.constant(2.0**-bits, np.float32)
    quotient = writer.op("MUL", [values, share], values.shape, np.float32)
    quotient = writer.op("FLOOR", [quotient], values.shape, np.float32)
    whole = writer.op(
        "MUL", [quotient, writer.constant(2.0**bits, np.float32)], values.shape, np.float32
    )
    return writer.op("SUB", [values, whole], values.shape, np.float32)


def _slice(writer: TfliteWriter, values: Tensor, start: int, count: int) -> Tensor:
    """`count` columns of a matrix [n, m], from column `start` on."""
    if not start and count == values.shape[1]:
        return values
    begin, size = writer.constant([0, start], np.int32), writer.constant([-1, count], np.int32)
    return writer.op("SLICE", [values, begin, size], (values.shape[0], count), values.dtype)


def _write_merged(
    writer: TfliteWriter, lookup: PackedLookup, table: TfliteTable, inputs: list[Tensor]
) -> Tensor:
    """Vectors float32 [n, inputs * dim] of several inputs int64 [n]: rows, their sums or means."""
    spec, count, size = lookup.spec, len(lookup.specs), inputs[0].shape[0]
    ids = inputs[0]
    if len(inputs) > 1:
        ids = writer.op("PACK", inputs, (size, count), np.int64, axis=1, values_count=count)
    zero_row = table.rows - 1
    if spec.scheme == "full":
        rows = _full_rows(writer, lookup, table, ids)
    elif spec.scheme == "hash":
        rows = _rows_by_residues(
            writer, residue_arithmetic(lookup.specs, zero_row, lookup.starts), ids
        )
    else:
        code = ids
        factors = np.array([spec.multiplier for spec in lookup.specs], dtype=np.uint64)
        if (factors != 1).any():
            constant = writer.constant(factors.view(np.int64), np.int64)
            code = writer.op("MUL", [ids, constant], ids.shape, np.int64)
        numbers = row_arithmetic(lookup.specs, 32, zero_row, lookup.starts)
        rows = _rows_by_shifts(writer, numbers, code)
    head = head_arithmetic(lookup.specs, zero_row, lookup.starts)
    if head is not None:
        rows = _head_rows(writer, head, ids, rows)
    blocks = rows.shape[1] // count
    vectors = table.read_sum(rows, count)
    shape = vectors.shape
    if lookup.column_scales is not None:
        scales = writer.constant(lookup.column_scales, np.float32)
        vectors = writer.op("MUL", [vectors, scales], shape, np.float32)
    if spec.fuse == "mean":
        share = writer.constant(1 / blocks, np.float32)
        vectors = writer.op("MUL", [vectors, share], shape, np.float32)
    if spec.padding_id is not None:
        paddings = np.array([spec.padding_id for spec in lookup.specs], dtype=np.int64)
        constant = writer.constant(paddings, np.int64)
        other = writer.op("NOT_EQUAL", [ids, constant], ids.shape, np.bool_)
        present = reshape(writer, writer.cast(other, np.float32), (size, count, 1))
        vectors = writer.op("MUL", [vectors, present], shape, np.float32)
    return reshape(writer, vectors, (size, count * spec.dim))


def _full_rows(
    writer: TfliteWriter, lookup: PackedLookup, table: TfliteTable, ids: Tensor
) -> Tensor:
    """Rows int64 [n] or [n, inputs] of plain tables; all comparisons are made on the int64 IDs."""
    specs = lookup.specs

    def by_input(values: npt.ArrayLike) -> Tensor:
        return writer.constant(squeeze_single_input(np.asarray(values)), np.int64)

    rows = ids
    for number, (firsts, shifts) in enumerate(lookup.row_shifts()):
        moved = ids
        if shifts.any():
            moved = writer.op("ADD", [ids, by_input(shifts)], ids.shape, np.int64)
        if number:
            beyond = [ids, by_input(firsts)]
            after = writer.op("GREATER_EQUAL", beyond, ids.shape, np.bool_)
            moved = writer.op("SELECT_V2", [after, moved, rows], ids.shape, np.int64)
        rows = moved
    if len(specs) > 1 or lookup.spec.oov_row is not None or not table.rejects_outside:
        limits = by_input([spec.rows for spec in specs])
        below = writer.op("LESS", [ids, limits], ids.shape, np.bool_)
        above = _compare(writer, "GREATER_EQUAL", ids, 0)
        inside = writer.op("LOGICAL_AND", [above, below], ids.shape, np.bool_)
        fallback = by_input(
            [
                -1 if spec.oov_row is None else lookup.row_in_table(number, spec.oov_row)
                for number, spec in enumerate(specs)
            ]
        )
        rows = writer.op("SELECT_V2", [inside, rows, fallback], ids.shape, np.int64)
    if any(spec.padding_outside for spec in specs):
        paddings = by_input([spec.first_row_id for spec in specs])
        is_padding = writer.op("EQUAL", [ids, paddings], ids.shape, np.bool_)
        rows = writer.op(
            "SELECT_V2", [is_padding, by_input(lookup.starts), rows], ids.shape, np.int64
        )
    return rows


def _hashed_rows(
    writer: TfliteWriter, lookup: PackedLookup, table: TfliteTable, ids: Tensor
) -> Tensor:
    """Rows int32 [n, rows_per_id] of a hash or a binary code."""
    zero_row = table.rows - 1
    if lookup.spec.scheme == "hash":
        rows = _rows_by_residues(writer, residue_arithmetic(lookup.specs), ids)
    else:
        rows = _code_rows(writer, lookup.spec, table, ids)
    head = head_arithmetic(lookup.specs, zero_row)
    return rows if head is None else _head_rows(writer, head, ids, rows)


def _rows_by_residues(writer: TfliteWriter, numbers: ResidueArithmetic, ids: Tensor) -> Tensor:
    """IDs int64 [n] of one input or [n, inputs] become rows int32 [n, residues * inputs].

    FLOOR_MOD is floored and exact for int64 in both runtimes, RIGHT_SHIFT logical for uint32.
    """
    inputs, count = numbers.moduli.shape
    size = ids.shape[0]
    shape, places = (size, count * inputs), (size, count, inputs)
    code = reshape(writer, ids, (size, 1, inputs))
    moduli = numbers.moduli.T.reshape(-1)
    if numbers.high or (numbers.multipliers != 1).any():
        factors = writer.constant(numbers.multipliers.view(np.int64).T, np.int64)
        code = writer.op("MUL", [code, factors], places, np.int64)
    if numbers.high:
        words = writer.op("BITCAST", [reshape(writer, code, shape)], (*shape, 2), np.uint32)
        shifts = writer.constant([1, 1], np.uint32)
        words = writer.op("RIGHT_SHIFT", [words, shifts], words.shape, np.uint32)
        words = writer.op("BITCAST", [words], words.shape, np.int32)
        high = writer.op("GATHER", [words, writer.constant(1, np.int32)], shape, np.int32, axis=2)
        rows = writer.op("FLOOR_MOD", [high, writer.constant(moduli, np.int32)], shape, np.int32)
    else:
        constant = writer.constant(numbers.moduli.T, np.int64)
        rest = writer.op("FLOOR_MOD", [code, constant], places, np.int64)
        rows = writer.cast(reshape(writer, rest, shape), np.int32)
    if (numbers.divisors != 1).any():
        divisors = writer.constant(numbers.divisors.T.reshape(-1), np.int32)
        rows = writer.op("DIV", [rows, divisors], shape, np.int32)
    return _add_offsets(writer, numbers.offsets.T.reshape(-1).tolist(), rows)


def _head_rows(writer: TfliteWriter, head: HeadArithmetic, ids: Tensor, rows: Tensor) -> Tensor:
    """Rows int32 [n, places * inputs]; those of IDs of the head are replaced by the head's rows."""
    inputs, count = head.factors.shape
    size = ids.shape[0]
    heads = writer.constant(squeeze_single_input(head.heads), np.int64)
    above = _compare(writer, "GREATER_EQUAL", ids, 0)
    below = writer.op("LESS", [ids, heads], ids.shape, np.bool_)
    in_head = writer.op("LOGICAL_AND", [above, below], ids.shape, np.bool_)
    zero = writer.constant(0, np.int64)
    number = writer.cast(
        writer.op("SELECT_V2", [in_head, ids, zero], ids.shape, np.int64), np.int32
    )
    column, all_places = (size, 1, inputs), (size, count, inputs)
    arrays = (head.factors.T, head.offsets.T)
    factors, offsets = (writer.constant(array, np.int32) for array in arrays)
    number = reshape(writer, number, column)
    number = writer.op("MUL", [number, factors], all_places, np.int32)
    number = writer.op("ADD", [number, offsets], all_places, np.int32)
    rows = reshape(writer, rows, all_places)
    in_head = reshape(writer, in_head, column)
    rows = writer.op("SELECT_V2", [in_head, number, rows], all_places, np.int32)
    return reshape(writer, rows, (size, count * inputs))


def _code_rows(writer: TfliteWriter, spec: LookupSpec, table: TfliteTable, ids: Tensor) -> Tensor:
    """Rows int32 [n, blocks] of a binary code."""
    code = ids
    if spec.multiplier != 1:  # int64 multiplication wraps in both runtimes
        factor = np.array(spec.multiplier, dtype=np.uint64).view(np.int64)
        code = writer.op("MUL", [ids, writer.constant(factor, np.int64)], ids.shape, np.int64)
    for word_bits in (16, 8):
        if all(
            b.stride == 1 and b.bits == word_bits and not b.start % word_bits for b in spec.blocks
        ):
            values = _whole_words(writer, spec, code, word_bits)
            return _add_offsets(writer, [block.offset for block in spec.blocks], values)
    byte_table = _byte_table(spec)
    many = max(len(pieces) for pieces in spec.pieces(32)) > 2
    if many and byte_table.nbytes <= table.bytes * BYTE_TABLE_SHARE:
        return _rows_by_bytes(writer, byte_table, code)
    return _rows_by_shifts(writer, row_arithmetic([spec], 32), code)


def _whole_words(writer: TfliteWriter, spec: LookupSpec, code: Tensor, bits: int) -> Tensor:
    """Block values where every block is an aligned word: the bytes of the code."""
    count = 64 // bits
    words = writer.op("BITCAST", [code], (*code.shape, count), np.dtype(f"uint{bits}"))
    values = writer.cast(words, np.int32)
    return _columns(writer, values, [block.start // bits for block in spec.blocks])


def _rows_by_shifts(writer: TfliteWriter, numbers: RowArithmetic, code: Tensor) -> Tensor:
    """Rows by a shift and a remainder, with a column for every bit run.

    Codes int64 [n] of one input or [n, inputs] become rows int32 [n, blocks * inputs]. The shift
    is arithmetic and the remainder a floor, so the sign bit does no harm.
    """
    inputs, blocks, runs = numbers.masks.shape
    size = code.shape[0]
    source = _words(writer, numbers, reshape(writer, code, (size, inputs)))
    shape = (size, numbers.masks.size)
    shifts, moduli, weights = (
        writer.constant(array.transpose(2, 1, 0).reshape(-1), np.int32)
        for array in (numbers.shifts, numbers.masks + 1, numbers.weights)
    )
    bits = writer.op("RIGHT_SHIFT", [source, shifts], shape, np.int32)
    bits = writer.op("FLOOR_MOD", [bits, moduli], shape, np.int32)
    if runs > 1:
        bits = writer.op("MUL", [bits, weights], shape, np.int32)
        bits = reshape(writer, bits, (size, runs, blocks * inputs))
        bits = _sum_axis(writer, bits, 1)
    return _add_offsets(writer, numbers.offsets.T.reshape(-1).tolist(), bits)


def _words(writer: TfliteWriter, numbers: RowArithmetic, code: Tensor) -> Tensor:
    """The word int32 [n, runs * blocks * inputs] of codes int64 [n, inputs] of every bit run.

    A single column where all are the same.
    """
    inputs = code.shape[1]
    used = np.where(numbers.masks > 0, numbers.words, -1).transpose(2, 1, 0).reshape(-1, inputs)
    columns = [sorted(set(words.tolist()) - {-1}) or [0] for words in used]
    if any(len(words) > 1 for words in columns):
        halves = writer.op("BITCAST", [code], (*code.shape, 2), np.int32)
        halves = reshape(writer, halves, (code.shape[0], 2 * inputs))
        places = np.maximum(used, 0) + 2 * np.arange(inputs)
        return _columns(writer, halves, places.reshape(-1).tolist())
    chosen = [words[0] for words in columns]
    by_word = {word: _word(writer, code, word) for word in sorted(set(chosen))}
    if len(chosen) == 1 or (inputs == 1 and len(by_word) == 1):
        return by_word[chosen[0]]  # a single column broadcasts against all shifts
    shape = (code.shape[0], len(chosen) * inputs)
    parts = [by_word[word] for word in chosen]
    return writer.op("CONCATENATION", parts, shape, np.int32, axis=1)


def _word(writer: TfliteWriter, code: Tensor, word: int) -> Tensor:
    """The low (0) or high (1) half int32 of codes int64 [n, inputs]. CAST drops the high half."""
    if not word:
        return writer.cast(code, np.int32)
    halves = writer.op("BITCAST", [code], (*code.shape, 2), np.int32)
    return writer.op("GATHER", [halves, writer.constant(1, np.int32)], code.shape, np.int32, axis=2)


def _byte_table(spec: LookupSpec) -> npt.NDArray[np.int32]:
    """What each byte of a code adds to each block's row: int32 [bytes, 256, blocks].

    The first byte carries the blocks' offsets.
    """
    count = -(-spec.code_bits // 8)
    weights = np.zeros((8 * count, len(spec.blocks)), dtype=np.int64)
    for number, block in enumerate(spec.blocks):
        for position in range(block.bits):
            weights[block.start + position * block.stride, number] += 2**position
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    table = np.stack([bits @ weights[8 * byte : 8 * byte + 8] for byte in range(count)])
    table[0] += np.array([block.offset for block in spec.blocks])
    return table.astype(np.int32)


def _rows_by_bytes(writer: TfliteWriter, table: npt.NDArray[np.int32], code: Tensor) -> Tensor:
    """Rows as the sum of what each byte of the code contributes."""
    count, _, blocks = table.shape
    values = writer.op("BITCAST", [code], (*code.shape, 8), np.uint8)
    values = _columns(writer, values, list(range(count)))
    values = writer.cast(values, np.int32)
    starts = writer.constant(256 * np.arange(count), np.int32)
    values = writer.op("ADD", [values, starts], values.shape, np.int32)
    source = writer.constant(table.reshape(-1, blocks), np.int32)
    parts = writer.op("GATHER", [source, values], (*values.shape, blocks), np.int32, axis=0)
    axis = writer.constant([1], np.int32)
    return writer.op("SUM", [parts, axis], (*code.shape, blocks), np.int32, keep_dims=False)


def _add_offsets(writer: TfliteWriter, offsets: list[int], values: Tensor) -> Tensor:
    if not any(offsets):
        return values
    return writer.op("ADD", [values, writer.constant(offsets, np.int32)], values.shape, np.int32)


def _fuse(writer: TfliteWriter, lookup: PackedLookup, table: TfliteTable, rows: Tensor) -> Tensor:
    """Rows [n, rows_per_id] to fused vectors float32 [n, dim]."""
    spec, count = lookup.spec, lookup.spec.rows_per_id
    size = rows.shape[0]

    def scaled(vectors: Tensor) -> Tensor:
        if lookup.column_scales is None:
            return table.scale_columns(vectors)
        scales = writer.constant(lookup.column_scales[0], np.float32)
        return writer.op("MUL", [vectors, scales], vectors.shape, np.float32)

    if count == 1:
        return scaled(table.read(reshape(writer, rows, (size,))))
    if spec.fuse == "concat":
        return reshape(writer, scaled(table.read(rows)), (size, spec.dim))
    if spec.fuse == "mul":  # column scales do not commute with a product
        axis = writer.constant([1], np.int32)
        values = scaled(table.read(rows))
        return writer.op(
            "REDUCE_PROD", [values, axis], (size, spec.dim), np.float32, keep_dims=False
        )
    fused = scaled(reshape(writer, table.read_sum(rows, 1), (size, spec.dim)))
    if spec.fuse == "mean":
        share = writer.constant(1 / count, np.float32)
        fused = writer.op("MUL", [fused, share], fused.shape, np.float32)
    return fused


def _not_padding(writer: TfliteWriter, padding: int, ids: Tensor) -> Tensor:
    """float32 [n, 1] of IDs [n]: 0 where the ID is the padding ID, 1 elsewhere."""
    present = writer.cast(_compare(writer, "NOT_EQUAL", ids, padding), np.float32)
    return reshape(writer, present, (*ids.shape, 1))


def _sum_axis(writer: TfliteWriter, values: Tensor, axis: int) -> Tensor:
    """The sum over an axis, which disappears."""
    place = axis % len(values.shape)
    shape = (*values.shape[:place], *values.shape[place + 1 :])
    constant = writer.constant([place], np.int32)
    return writer.op("SUM", [values, constant], shape, values.dtype, keep_dims=False)


def _compare(writer: TfliteWriter, opcode: str, ids: Tensor, value: int) -> Tensor:
    return writer.op(opcode, [ids, writer.constant(value, np.int64)], ids.shape, np.bool_)


def _columns(writer: TfliteWriter, values: Tensor, columns: list[int]) -> Tensor:
    """Columns of a matrix [n, m], in the order of `columns`."""
    if columns == list(range(values.shape[1])):
        return values
    shape: Shape = (values.shape[0], len(columns))
    indices = writer.constant(columns, np.int32)
    return writer.op("GATHER", [values, indices], shape, values.dtype, axis=1)


def _planar_nibbles(codes: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Codes [rows, columns] plus 8, the first half of the columns low, the second half high."""
    shifted = codes.astype(np.int8) + np.int8(8)
    if shifted.shape[1] % 2:
        shifted = np.pad(shifted, ((0, 0), (0, 1)))
    half = shifted.shape[1] // 2
    order = np.arange(2 * half).reshape(2, half).T.reshape(-1)
    return pack_codes(shifted[:, order], "q4")
