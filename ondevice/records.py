"""Row records: how the native file stores a table's quantised, truncated rows byte by byte.

A record is one row: its float16 scale if the table has row scales, then its kept values (q4: two
to a byte, the even dimension in the low nibble). Records follow one another without gaps. When
rows keep different widths, an index finds them: one 12-byte group per 16 rows, a uint32 with the
first record's byte offset and sixteen 4-bit width codes (row i in bits 4*(i % 16)). A row's width
is min(dim, base + step * code), so a record's offset is the group's offset plus an affine function
of the sum of the codes before it: 0.75 bytes a row, found without a scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.codecs import BITS, CODECS, Codec, FloatArray, QuantTable, ScaleAxis
from ondevice.errors import FileFormatError, SpecError

Bytes = npt.NDArray[np.uint8]

GROUP_ROWS = 16
GROUP_BYTES = 12
LARGEST_WIDTH_CODE = 15
# Zero bytes after the last record, so that a kernel may load a whole vector at any record.
TAIL_BYTES = 64


@dataclass(frozen=True)
class RecordLayout:
    """The shape of a table's records, as stored in the file's plan.

    width_base and width_step: see the module text; width_step is 0 when all rows keep
    `width_base` dimensions, and then there is no index.
    """

    codec: Codec
    scale_axis: ScaleAxis | None
    rows: int
    dim: int
    width_base: int
    width_step: int

    def __post_init__(self) -> None:
        faults = []
        if self.codec not in CODECS:
            faults.append(f"unknown codec {self.codec!r}")
        elif (self.scale_axis is None) != (self.codec in ("f32", "f16")):
            faults.append(f"codec {self.codec} with scale axis {self.scale_axis!r}")
        if self.scale_axis not in (None, "row", "column"):
            faults.append(f"unknown scale axis {self.scale_axis!r}")
        sizes = (self.rows, self.dim, self.width_base, self.width_step)
        if any(not isinstance(size, int) or isinstance(size, bool) for size in sizes):
            faults.append(f"sizes must be integers, got {sizes}")
        elif not (
            1 <= self.rows < 2**31
            and 1 <= self.dim <= 1024
            and 0 <= self.width_base <= self.dim
            and 0 <= self.width_step <= self.dim + 1
        ):
            faults.append(f"rows, dim, width_base, width_step out of range: {sizes}")
        elif self.codec == "q4" and self.width_step and (self.width_step | self.width_base) % 2:
            faults.append(f"q4 rows grow by whole bytes, so widths must be even: {sizes}")
        if faults:
            raise FileFormatError("table layout: " + "; ".join(faults))

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scale that begins a record."""
        return 2 if self.scale_axis == "row" else 0

    @property
    def base_bytes(self) -> int:
        """Record length for width code 0."""
        return self.scale_bytes + value_bytes(self.codec, self.width_base)

    @property
    def step_bytes(self) -> int:
        """Record bytes added by each step of the width code."""
        return value_bytes(self.codec, self.width_step)

    @property
    def widest(self) -> int:
        """Most values that a record stores (may exceed dim by the rounding of the last step)."""
        return self.width_base + LARGEST_WIDTH_CODE * self.width_step

    @property
    def index_bytes(self) -> int:
        """Size of the index."""
        return -(-self.rows // GROUP_ROWS) * GROUP_BYTES if self.width_step else 0


@dataclass(frozen=True)
class RecordTable:
    """A table in its stored form; arrays may be views of a mapped file.

    records: uint8, all records and TAIL_BYTES zeros. index: uint8 [layout.index_bytes].
    scales: float32 [dim] for column scales, else empty.
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
        expected_scales = layout.dim if layout.scale_axis == "column" else 0
        if self.scales.size != expected_scales:
            raise FileFormatError(
                f"table {name!r}: {self.scales.size} column scales, expected {expected_scales}"
            )
        payload = self.records.size - TAIL_BYTES
        if layout.width_step == 0 and payload != layout.rows * layout.base_bytes:
            raise FileFormatError(
                f"table {name!r}: records have {payload} bytes, "
                f"expected {layout.rows} x {layout.base_bytes}"
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
        starts, codes = self._groups()
        lengths = layout.base_bytes + layout.step_bytes * codes.astype(np.int64)
        lengths.reshape(-1)[layout.rows :] = 0
        sums = lengths.sum(axis=1)
        expected = np.concatenate(([0], np.cumsum(sums)[:-1]))
        payload = self.records.size - TAIL_BYTES
        if not np.array_equal(starts, expected) or int(sums.sum()) != payload:
            raise FileFormatError(f"table {name!r}: the index does not match the records")

    def widths(self) -> npt.NDArray[np.int64]:
        """Kept dimensions of every row, int64 [rows]."""
        layout = self.layout
        if layout.width_step == 0:
            return np.full(layout.rows, layout.width_base, dtype=np.int64)
        _, codes = self._groups()
        kept = layout.width_base + layout.width_step * codes.reshape(-1).astype(np.int64)
        return np.minimum(kept[: layout.rows], layout.dim)

    def read(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Dequantised rows: int64 [...] row numbers, all in range -> float32 [..., dim]."""
        layout = self.layout
        flat = rows.reshape(-1)
        offsets, kept = self._locate(flat)
        longest = layout.scale_bytes + value_bytes(layout.codec, int(kept.max(initial=0)))
        columns = offsets[:, None] + np.arange(longest)
        raw = self.records[np.minimum(columns, self.records.size - 1)]
        values = _decode_values(raw[:, layout.scale_bytes :], layout)
        if layout.scale_axis == "row":
            values *= raw[:, :2].copy().view("<f2").astype(np.float32)
        out = np.zeros((flat.size, layout.dim), dtype=np.float32)
        width = min(values.shape[1], layout.dim)
        out[:, :width] = values[:, :width]
        if layout.scale_axis == "column":
            out *= self.scales
        out[np.arange(layout.dim) >= kept[:, None]] = 0
        return out.reshape(*rows.shape, layout.dim)

    def _locate(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        layout = self.layout
        if layout.width_step == 0:
            return rows * layout.base_bytes, np.full(rows.shape, layout.width_base)
        group, place = np.divmod(rows, GROUP_ROWS)
        starts, codes = _split_groups(self.index.reshape(-1, GROUP_BYTES)[group])
        before = np.where(np.arange(GROUP_ROWS) < place[:, None], codes, 0).sum(
            axis=1, dtype=np.int64
        )
        offsets = starts + place * layout.base_bytes + before * layout.step_bytes
        own = codes[np.arange(rows.size), place].astype(np.int64)
        return offsets, layout.width_base + layout.width_step * own

    def _groups(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        return _split_groups(self.index.reshape(-1, GROUP_BYTES))


def value_bytes(codec: Codec, count: int) -> int:
    """Bytes that `count` values of one row take."""
    return (count * BITS[codec] + 7) // 8


def pack_records(table: QuantTable) -> RecordTable:
    """Store a quantised table as records.

    Kept widths are rounded up to what 16 width codes can express (step 1 up to 16 dimensions).

    Raises:
        SpecError: the records exceed 4 GiB, which the index's uint32 offsets cannot reach.
    """
    layout, codes = _choose_layout(table)
    payload = _encode_values(table)
    if layout.scale_axis == "row":
        assert table.scales is not None  # noqa: S101 - scale_axis says so
        scales = table.scales.astype("<f2").view(np.uint8).reshape(table.rows, 2)
        payload = np.concatenate([scales, payload], axis=1)
    lengths = layout.base_bytes + layout.step_bytes * codes
    total = int(lengths.sum())
    if total > 2**32 - 1:
        raise SpecError(f"a table's records take {total} bytes; the format holds up to 4 GiB")
    if payload.shape[1] < int(lengths.max()):  # the last step may reach beyond dim
        payload = np.pad(payload, ((0, 0), (0, int(lengths.max()) - payload.shape[1])))
    kept = np.arange(payload.shape[1]) < lengths[:, None]
    records = np.concatenate([payload[kept], np.zeros(TAIL_BYTES, dtype=np.uint8)])
    index = _build_index(lengths, codes) if layout.width_step else np.empty(0, np.uint8)
    column = layout.scale_axis == "column"
    scales32 = np.asarray(table.scales, np.float32) if column else np.empty(0, np.float32)
    return RecordTable(layout, records, index, scales32)


def _choose_layout(table: QuantTable) -> tuple[RecordLayout, npt.NDArray[np.int64]]:
    widths = np.full(table.rows, table.dim) if table.widths is None else table.widths
    lowest, highest = int(widths.min()), int(widths.max())
    grain = 2 if table.codec == "q4" else 1
    if -(-lowest // grain) == -(-highest // grain):
        base, step = highest, 0
        codes = np.zeros(table.rows, dtype=np.int64)
    else:
        base = min(table.dim, -(-lowest // grain) * grain)
        step = -(-(highest - base) // LARGEST_WIDTH_CODE)
        step = -(-step // grain) * grain
        codes = -(-(np.maximum(widths.astype(np.int64) - base, 0)) // step)
    return RecordLayout(table.codec, table.scale_axis, table.rows, table.dim, base, step), codes


def _encode_values(table: QuantTable) -> Bytes:
    values = table.values
    if table.codec == "q4":
        if table.dim % 2:
            values = np.pad(values, ((0, 0), (0, 1)))
        low, high = values[:, 0::2].view(np.uint8) & 15, values[:, 1::2].view(np.uint8) & 15
        return (low | (high << np.uint8(4))).astype(np.uint8)
    if table.codec == "q8":
        return values.view(np.uint8)
    little = "<f2" if table.codec == "f16" else "<f4"
    return np.ascontiguousarray(values.astype(little)).view(np.uint8)


def _decode_values(raw: Bytes, layout: RecordLayout) -> FloatArray:
    raw = np.ascontiguousarray(raw)
    if layout.codec == "q4":
        signed = np.empty((raw.shape[0], raw.shape[1] * 2), dtype=np.int8)
        signed[:, 0::2] = (raw << np.uint8(4)).view(np.int8) >> 4
        signed[:, 1::2] = raw.view(np.int8) >> 4
        return signed.astype(np.float32)
    if layout.codec == "q8":
        return raw.view(np.int8).astype(np.float32)
    return raw.view("<f2" if layout.codec == "f16" else "<f4").astype(np.float32)


def _build_index(lengths: npt.NDArray[np.int64], codes: npt.NDArray[np.int64]) -> Bytes:
    groups = -(-lengths.size // GROUP_ROWS)
    padded = np.zeros(groups * GROUP_ROWS, dtype=np.uint8)
    padded[: codes.size] = codes
    starts = np.concatenate(([0], np.cumsum(lengths)))[: groups * GROUP_ROWS : GROUP_ROWS]
    index = np.empty((groups, GROUP_BYTES), dtype=np.uint8)
    index[:, :4] = starts.astype("<u4").view(np.uint8).reshape(groups, 4)
    index[:, 4:] = (padded[0::2] | (padded[1::2] << np.uint8(4))).reshape(groups, 8)
    return index.reshape(-1)


def _split_groups(groups: Bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    starts = groups[:, :4].copy().view("<u4").astype(np.int64).reshape(-1)
    codes = np.empty((groups.shape[0], GROUP_ROWS), dtype=np.uint8)
    codes[:, 0::2] = groups[:, 4:] & 15
    codes[:, 1::2] = groups[:, 4:] >> 4
    return starts, codes
