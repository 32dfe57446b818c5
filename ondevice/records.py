"""Row records: how the native file stores a table's quantised, truncated rows bit by bit.

A record is one row: its float16 scale if the table has row scales, then its kept values. Records
follow one another without gaps, so rows of narrow codes share bytes; the first value is in the
lowest bits. When rows keep different widths, an index finds them: 12-byte groups, each a uint32
with the byte at which the group's first record begins and 64 bits of width codes: 16 of 4 bits,
32 of 2 or 64 of 1. A row's width is min(dim, base + step * code), so a record's place is the
group's plus an affine function of the sum of the codes before it: no scan, and at most 0.75 bytes
of index a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.codecs import (
    BITS,
    CODECS,
    FLOAT_CODECS,
    Codec,
    FloatArray,
    QuantTable,
    ScaleAxis,
    StoredSection,
)
from ondevice.container import Reserved
from ondevice.errors import FileFormatError, SpecError
from ondevice.levels import read_levels
from ondevice.limits import MAX_DIM, MAX_LEVEL_BITS, MAX_ROWS

Bytes = npt.NDArray[np.uint8]

GROUP_BYTES = 12
GROUP_CODE_BITS = 64
WIDTH_BITS = (1, 2, 4)
SCALE_BITS = 16
COUNTED_ROWS = 2**20  # rows to work on at once: temporaries take up to 30 bytes a row
# Zero bytes after the last record, so that a kernel may load a whole vector at any record.
TAIL_BYTES = 64
TAIL = np.zeros(TAIL_BYTES, dtype=np.uint8)


@dataclass(frozen=True)
class RecordLayout:
    """The shape of a table's records, as stored in the file's plan.

    width_base, width_step and width_bits (of a width code): see the module text. When all rows
    keep `width_base` dimensions there is no index, and width_step and width_bits are 0. None stands
    for what format version 1 had: codes of 4 bits, and every record filled up to whole bytes.
    """

    codec: Codec
    scale_axis: ScaleAxis | None
    rows: int
    dim: int
    width_base: int
    width_step: int
    width_bits: int | None = None

    def __post_init__(self) -> None:
        """Check every number, since a layout is read from files. Raises FileFormatError."""
        faults = []
        if self.codec not in CODECS:
            faults.append(f"unknown codec {self.codec!r}")
        elif (self.scale_axis is None) != (self.codec in FLOAT_CODECS):
            faults.append(f"codec {self.codec} with scale axis {self.scale_axis!r}")
        elif self.scale_axis == "levels" and BITS[self.codec] > MAX_LEVEL_BITS:
            faults.append(f"codec {self.codec} with levels")
        if self.scale_axis not in (None, "row", "column", "levels"):
            faults.append(f"unknown scale axis {self.scale_axis!r}")
        sizes = (self.rows, self.dim, self.width_base, self.width_step)
        if any(not isinstance(size, int) or isinstance(size, bool) for size in sizes):
            faults.append(f"sizes must be integers, got {sizes}")
        elif not (
            1 <= self.rows <= MAX_ROWS
            and 1 <= self.dim <= MAX_DIM
            and 0 <= self.width_base <= self.dim
            and 0 <= self.width_step <= self.dim + 1
        ):
            faults.append(f"rows, dim, width_base, width_step out of range: {sizes}")
        elif self.width_bits is None:
            if self.codec == "q4" and self.width_step and (self.width_step | self.width_base) % 2:
                faults.append(f"q4 rows of version 1 grow by whole bytes, so by twos: {sizes}")
            elif self.codec in ("q3", "q2", "q1") or self.scale_axis == "levels":
                faults.append(f"{self.codec} with scale axis {self.scale_axis} needs width_bits")
        elif type(self.width_bits) is not int or self.width_bits not in (
            WIDTH_BITS if self.width_step else (0,)
        ):
            faults.append(f"width_bits {self.width_bits!r} with width_step {self.width_step}")
        if faults:
            raise FileFormatError("table layout: " + "; ".join(faults))

    @property
    def scale_bits(self) -> int:
        """Bits of the scale that begins a record."""
        return SCALE_BITS if self.scale_axis == "row" else 0

    @property
    def scale_count(self) -> int:
        """Float32 numbers in the array of column scales or levels."""
        if self.scale_axis == "levels":
            return self.dim << BITS[self.codec]
        return self.dim if self.scale_axis == "column" else 0

    @property
    def base_bits(self) -> int:
        """Record length for width code 0."""
        return self.scale_bits + self._value_bits(self.width_base)

    @property
    def step_bits(self) -> int:
        """Record bits added by each step of the width code."""
        return self._value_bits(self.width_step)

    @property
    def group_rows(self) -> int:
        """Rows that share a group of the index."""
        return GROUP_CODE_BITS // (self.width_bits or 4)

    @property
    def index_bytes(self) -> int:
        """Size of the index."""
        return -(-self.rows // self.group_rows) * GROUP_BYTES if self.width_step else 0

    def check_cells(self, bits: int) -> None:
        """Check that rows can be cells of a retrieval structure: whole rows of codes of `bits`.

        Raises:
            FileFormatError: they cannot.
        """
        whole = not self.width_step and self.width_base == self.dim
        if not whole or self.scale_axis in (None, "row") or BITS[self.codec] != bits:
            raise FileFormatError(
                f"cells must be whole rows of codes of {bits} bits with column scales or levels, "
                f"got {self.codec} with scale axis {self.scale_axis!r}"
            )

    def _value_bits(self, count: int) -> int:
        bits = count * BITS[self.codec]
        return -(-bits // 8) * 8 if self.width_bits is None else bits


@dataclass(frozen=True)
class RecordTable:
    """A table in its stored form; arrays may be views of a mapped file.

    records: uint8, all records and TAIL_BYTES zeros. index: uint8 [layout.index_bytes].
    scales: float32 [dim] for column scales, [dim * 2**bits] for levels, else empty.
    """

    layout: RecordLayout
    records: Bytes
    index: Bytes
    scales: FloatArray

    def check_sizes(self, name: str) -> None:
        """Check the arrays' sizes against the layout, without reading them.

        Raises:
            FileFormatError: a size disagrees.
        """
        layout = self.layout
        if self.index.size != layout.index_bytes:
            raise FileFormatError(
                f"table {name!r}: index has {self.index.size} bytes, expected {layout.index_bytes}"
            )
        if self.scales.size != layout.scale_count:
            raise FileFormatError(
                f"table {name!r}: {self.scales.size} column scales or levels, "
                f"expected {layout.scale_count}"
            )
        payload = self.records.size - TAIL_BYTES
        if layout.width_step == 0 and payload != -(-layout.rows * layout.base_bits // 8):
            raise FileFormatError(
                f"table {name!r}: records have {payload} bytes, "
                f"expected {layout.rows} x {layout.base_bits} bits"
            )
        if payload < 0:
            raise FileFormatError(f"table {name!r}: records lack their {TAIL_BYTES} tail bytes")

    def validate(self, name: str) -> None:
        """Check sizes, and that the index leads to the records.

        Raises:
            FileFormatError: a size or an offset disagrees.
        """
        self.check_sizes(name)
        layout = self.layout
        if layout.width_step == 0:
            return
        starts, codes = _split_groups(self.index.reshape(-1, GROUP_BYTES), layout)
        lengths = layout.base_bits + layout.step_bits * codes.astype(np.int64)
        lengths.reshape(-1)[layout.rows :] = 0
        ends = np.cumsum(_whole_bytes(lengths.sum(axis=1)))
        payload = self.records.size - TAIL_BYTES
        if starts[0] or not np.array_equal(starts[1:], ends[:-1]) or int(ends[-1]) != payload:
            raise FileFormatError(f"table {name!r}: the index does not match the records")

    def widths(self) -> npt.NDArray[np.int64]:
        """Kept dimensions of every row, int64 [rows]."""
        layout = self.layout
        if layout.width_step == 0:
            return np.full(layout.rows, layout.width_base, dtype=np.int64)
        _, codes = _split_groups(self.index.reshape(-1, GROUP_BYTES), layout)
        widths = layout.width_base + layout.width_step * codes.reshape(-1).astype(np.int64)
        return np.minimum(widths[: layout.rows], layout.dim)

    def mean_width(self) -> float:
        """Mean of `widths()`, from a part of the index at a time."""
        layout = self.layout
        if layout.width_step == 0:
            return float(layout.width_base)
        groups, total = self.index.reshape(-1, GROUP_BYTES), 0
        step = COUNTED_ROWS // layout.group_rows
        for first in range(0, len(groups), step):
            _, codes = _split_groups(groups[first : first + step], layout)
            widths = layout.width_base + layout.width_step * codes.reshape(-1).astype(np.int64)
            rows = layout.rows - first * layout.group_rows
            total += int(np.minimum(widths[:rows], layout.dim).sum())
        return total / layout.rows

    def read(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Dequantised rows: int64 [...] row numbers, all in range -> float32 [..., dim].

        Raises:
            FileFormatError: the index of an unverified file leads outside the records.
        """
        layout = self.layout
        flat = rows.reshape(-1)
        places, widths = self._locate(flat)
        bits = layout.scale_bits + int(widths.max(initial=0)) * BITS[layout.codec]
        lengths = layout.scale_bits + widths * BITS[layout.codec]
        if (places + lengths > 8 * (self.records.size - TAIL_BYTES)).any():
            raise FileFormatError("the index of a table does not match its records")
        columns = (places // 8)[:, None] + np.arange(-(-bits // 8) + 1)
        raw = self.records[np.minimum(columns, self.records.size - 1)]
        shift = (places % 8)[:, None]
        if shift.any():
            raw = (raw[:, :-1] >> shift | raw[:, 1:].astype(np.uint16) << (8 - shift)).astype(
                np.uint8
            )
        values = self._decode(raw[:, layout.scale_bits // 8 : -(-bits // 8)])
        if layout.scale_axis == "row":
            values *= raw[:, :2].copy().view("<f2").astype(np.float32)
        out = np.zeros((flat.size, layout.dim), dtype=np.float32)
        width = min(values.shape[1], layout.dim)
        out[:, :width] = values[:, :width]
        if layout.scale_axis == "column":
            out *= self.scales
        out[np.arange(layout.dim) >= widths[:, None]] = 0
        return out.reshape(*rows.shape, layout.dim)

    def read_sums(self, rows: npt.NDArray[np.int64], width: int) -> FloatArray:
        """Sums of the codes of rows, column by column modulo 2**bits.

        The table must be one that `check_cells` accepts.

        Args:
            rows: int64 [..., n], all in range.
            width: how many columns to dequantise; the others are fingerprints.

        Returns:
            float32 [..., dim], of fingerprints the codes.
        """
        layout, unit = self.layout, BITS[self.layout.codec]
        columns = np.arange(layout.dim) * unit
        places = (rows * layout.base_bits)[..., None] + columns
        pairs = self.records[places // 8] | self.records[places // 8 + 1].astype(np.uint16) << 8
        codes = (pairs >> (places % 8).astype(np.uint16)).astype(np.uint8)
        sums = codes.sum(axis=-2, dtype=np.uint8) & np.uint8(2**unit - 1)
        values = self._values(sums.reshape(-1, layout.dim)).reshape(sums.shape)
        if layout.scale_axis == "column":
            values = values * self.scales
        values[..., width:] = sums[..., width:]
        return values

    def _decode(self, raw: Bytes) -> FloatArray:
        """Records without their scales, uint8 [rows, bytes], as float32 [rows, values or more]."""
        layout = self.layout
        if layout.codec in FLOAT_CODECS:
            little = np.ascontiguousarray(raw)
            return little.view("<f2" if layout.codec == "f16" else "<f4").astype(np.float32)
        return self._values(_unsigned_codes(raw, BITS[layout.codec]))

    def _values(self, codes: Bytes) -> FloatArray:
        """Codes uint8 [rows, values] as float32, by the levels if the table has any."""
        layout = self.layout
        if layout.scale_axis == "levels":
            levels = self.scales.reshape(layout.dim, -1)
            return read_levels(codes[:, : layout.dim], levels)
        up = np.uint8(8 - BITS[layout.codec])  # the sign bit to the top, and back with the sign
        return ((codes << up).view(np.int8) >> up.view(np.int8)).astype(np.float32)

    def _locate(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The bit at which each row's record begins, and its kept width."""
        layout = self.layout
        if layout.width_step == 0:
            return rows * layout.base_bits, np.full(rows.shape, layout.width_base)
        group, place = np.divmod(rows, layout.group_rows)
        starts, codes = _split_groups(self.index.reshape(-1, GROUP_BYTES)[group], layout)
        before = np.where(np.arange(layout.group_rows) < place[:, None], codes, 0).sum(
            axis=1, dtype=np.int64
        )
        places = 8 * starts + place * layout.base_bits + before * layout.step_bits
        code = codes[np.arange(rows.size), place].astype(np.int64)
        return places, layout.width_base + layout.width_step * code


@dataclass(frozen=True)
class RecordStream:
    """A table in its stored form, its records packed chunk by chunk: `pack`, then `TAIL`."""

    layout: RecordLayout
    records: Reserved
    index: Bytes
    scales: FloatArray

    def pack(self, chunk: QuantTable) -> Bytes:
        """The records of the table's next rows, a multiple of ROW_UNIT except at its end."""
        widths = np.zeros(chunk.rows, np.uint8) if chunk.widths is None else chunk.widths
        group_rows = self.layout.group_rows if self.layout.width_step else chunk.rows
        return _pack_rows(chunk, _lengths(self.layout, widths), group_rows)


def pack_records(table: QuantTable) -> RecordTable:
    """Store a quantised table as records in memory; see `stream_records`."""
    stream = stream_records(table)
    records = np.concatenate([*map(stream.pack, table.chunks()), TAIL])
    return RecordTable(stream.layout, records, stream.index, stream.scales)


def stream_records(table: StoredSection) -> RecordStream:
    """Store a quantised table as records, in the layout that takes the fewest bytes.

    Kept widths are rounded up to what the layout's width codes can express.

    Raises:
        SpecError: rows of different widths whose records exceed 4 GiB, which the index's uint32
            offsets cannot reach.
    """
    layout = _choose_layout(table)
    total = -(-layout.rows * layout.base_bits // 8)
    index = np.empty(0, np.uint8)
    if layout.width_step:
        index, total = _build_index(layout, np.asarray(table.widths))
    records = Reserved(np.dtype(np.uint8), (total + TAIL_BYTES,))
    return RecordStream(layout, records, index, _stored_scales(table))


def _stored_scales(table: StoredSection) -> FloatArray:
    """What stands beside the records: column scales, levels, or nothing; one dimension."""
    for scales in (table.column_scales, table.levels):
        if scales is not None:
            return scales.reshape(-1)
    return np.empty(0, np.float32)


def _choose_layout(table: StoredSection) -> RecordLayout:
    """The layout of least bytes: whole rows, or any size of width code."""
    counts = np.zeros(table.dim + 1, dtype=np.int64)
    if table.widths is None:
        counts[table.dim] = table.rows
    else:
        for start in range(0, table.rows, COUNTED_ROWS):
            counts += np.bincount(table.widths[start : start + COUNTED_ROWS], minlength=len(counts))
    present = np.flatnonzero(counts)
    lowest, highest = int(present[0]), int(present[-1])
    bits = BITS[table.codec]
    least, base, step, chosen = table.rows * highest * bits, highest, 0, 0
    for width_bits in WIDTH_BITS:
        most = 2**width_bits - 1
        index = -(-table.rows * width_bits // GROUP_CODE_BITS) * GROUP_BYTES * 8
        for start in range(lowest, highest):
            stride = -(-(highest - start) // most)
            stored = start + -(-np.maximum(present - start, 0) // stride) * stride
            size = int(counts[present] @ stored) * bits + index
            if size < least:
                least, base, step, chosen = size, start, stride, width_bits
    return RecordLayout(table.codec, table.scale_axis, table.rows, table.dim, base, step, chosen)


def _width_codes(layout: RecordLayout, widths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Width codes of rows that keep `widths` dimensions, all zero without an index."""
    if not layout.width_step:
        return np.zeros(len(widths), dtype=np.int64)
    return -(-np.maximum(widths.astype(np.int64) - layout.width_base, 0) // layout.width_step)


def _lengths(layout: RecordLayout, widths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Bits of the records of rows that keep `widths` dimensions."""
    return layout.base_bits + layout.step_bits * _width_codes(layout, widths)


def _pack_rows(table: QuantTable, lengths: npt.NDArray[np.int64], group_rows: int) -> Bytes:
    """All records, `lengths` bits each; every group of rows begins at a whole byte."""
    unit = _unit_bits(table.codec)
    units = _units(table, unit)
    counts = lengths // unit
    if unit == 8 and (counts == counts[0]).all():
        return units[:, : int(counts[0])].reshape(-1)
    fill = 8 // unit - 1  # units of zeros that a group's last record may need
    longest = int(counts.max()) + fill
    units = np.pad(units[:, :longest], ((0, 0), (0, max(0, longest - units.shape[1]))))
    if fill:
        starts = np.arange(0, table.rows, group_rows)
        lasts = np.append(starts[1:], table.rows) - 1
        counts = counts.copy()
        counts[lasts] += -np.add.reduceat(counts, starts) % (8 // unit)
        # what the values of a record do not fill is zero, also where the row is wider
        units[np.arange(longest) >= (lengths // unit)[:, None]] = 0
    return _join(units[np.arange(longest) < counts[:, None]], unit)


def _unit_bits(codec: Codec) -> int:
    """Bits of the pieces that records are put together from: a code's, if they divide a byte."""
    bits = min(BITS[codec], 8)
    return bits if 8 % bits == 0 else 1


def _units(table: QuantTable, unit: int) -> Bytes:
    """Scale and values of every row in units of 1, 2, 4 or 8 bits, uint8 [rows, units]."""
    if table.codec in FLOAT_CODECS:
        little = "<f2" if table.codec == "f16" else "<f4"
        return np.ascontiguousarray(table.values.astype(little)).view(np.uint8)
    bits = BITS[table.codec]
    values = table.values.astype(np.int8, copy=False).view(np.uint8) & np.uint8(2**bits - 1)
    if unit < bits:
        parts = values[:, :, None] >> np.arange(0, bits, unit, dtype=np.uint8)
        values = (parts & np.uint8(2**unit - 1)).reshape(table.rows, -1)
    if table.scale_axis != "row":
        return values
    scales = np.asarray(table.scales).astype("<f2").view(np.uint8).reshape(table.rows, 2)
    return np.concatenate([_split(scales, unit), values], axis=1)


def _split(raw: Bytes, unit: int) -> Bytes:
    """Bytes [rows, n] as units of 1, 2, 4 or 8 bits [rows, n * 8 / unit], lowest bits first."""
    if unit == 8:
        return raw
    shifts = np.arange(0, 8, unit, dtype=np.uint8)
    parts = raw[:, :, None] >> shifts & np.uint8(2**unit - 1)
    return parts.reshape(len(raw), -1)


def _join(units: Bytes, unit: int) -> Bytes:
    """Units one after another [n] as whole bytes, lowest bits first."""
    if unit == 8:
        return units
    each = 8 // unit
    units = np.pad(units, (0, -units.size % each)).reshape(-1, each)
    joined = np.zeros(len(units), dtype=np.uint8)
    for number in range(each):
        joined |= units[:, number] << np.uint8(unit * number)
    return joined


def _unsigned_codes(raw: Bytes, bits: int) -> Bytes:
    """Bytes [rows, n] as all the codes of `bits` bits that they hold [rows, codes]."""
    raw = np.ascontiguousarray(raw)
    if 8 % bits == 0:
        return _split(raw, bits)
    single = np.unpackbits(raw, axis=1, bitorder="little")
    count = single.shape[1] // bits
    codes = np.zeros((len(raw), count), dtype=np.uint8)
    for number in range(bits):
        codes |= single[:, number : count * bits : bits] << np.uint8(number)
    return codes


def _whole_bytes(bits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return -(-bits // 8)


def _build_index(layout: RecordLayout, widths: npt.NDArray[np.integer]) -> tuple[Bytes, int]:
    """The index of rows of different widths, and the bytes of all records."""
    group_rows = layout.group_rows
    index = np.empty((-(-layout.rows // group_rows), GROUP_BYTES), dtype=np.uint8)
    total, step = 0, COUNTED_ROWS // group_rows
    for first in range(0, len(index), step):
        part = index[first : first + step]
        row_widths = widths[first * group_rows : (first + len(part)) * group_rows]
        codes = np.zeros(len(part) * group_rows, dtype=np.uint8)
        codes[: len(row_widths)] = _width_codes(layout, row_widths)
        lengths = np.zeros(len(codes), dtype=np.int64)
        lengths[: len(row_widths)] = _lengths(layout, row_widths)
        ends = total + np.cumsum(_whole_bytes(lengths.reshape(-1, group_rows).sum(axis=1)))
        starts = np.concatenate(([total], ends[:-1]))
        total = int(ends[-1])
        part[:, :4] = starts.astype("<u4").view(np.uint8).reshape(-1, 4)
        part[:, 4:] = _join(codes, layout.width_bits or 4).reshape(-1, 8)
    if total > 2**32 - 1:
        raise SpecError(
            f"records of different widths take {total} bytes; the format holds up to 4 GiB"
        )
    return index.reshape(-1), total


def _split_groups(
    groups: Bytes, layout: RecordLayout
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Start bytes [groups] and width codes [groups, rows of a group] of index groups."""
    starts = groups[:, :4].copy().view("<u4").astype(np.int64).reshape(-1)
    return starts, _split(groups[:, 4:], layout.width_bits or 4)
