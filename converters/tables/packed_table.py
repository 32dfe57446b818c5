"""A table in its storage format: quantised a chunk at a time, whenever its rows are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.codecs import (
    BITS,
    CODE_RANGE,
    FLOAT_CODECS,
    Codec,
    FloatArray,
    IntArray,
    QuantTable,
    ScaleAxis,
    Survey,
    checked_widths,
    quantise_rows,
)
from ondevice.converters.tables.table_source import SourceRows, TableSource
from ondevice.sections import TableCodec, resolve_sections

CODEC_OF_BITS: dict[int, Codec] = {BITS[codec]: codec for codec in CODE_RANGE}


@dataclass(frozen=True)
class PackedSection:
    """A `StoredSection` that quantises its source on every pass; equal to `quantise` of the whole.

    Attributes:
        source: the float table.
        codec: how a value is stored.
        widths: how many dimensions of each row are stored [rows], or None when rows are whole.
        table_scales: what `quantise_rows` needs, see `Survey.scales`.
    """

    source: TableSource
    codec: Codec
    widths: npt.NDArray[np.integer] | None
    table_scales: FloatArray | None

    @property
    def rows(self) -> int:
        """See StoredSection."""
        return self.source.rows

    @property
    def dim(self) -> int:
        """See StoredSection."""
        return self.source.dim

    @property
    def scale_axis(self) -> ScaleAxis | None:
        """See StoredSection."""
        if self.codec in FLOAT_CODECS:
            return None
        if self.table_scales is None:
            return "row"
        return "column" if self.table_scales.ndim == 1 else "levels"

    @property
    def column_scales(self) -> FloatArray | None:
        """See StoredSection."""
        return self.table_scales if self.scale_axis == "column" else None

    @property
    def levels(self) -> FloatArray | None:
        """See StoredSection."""
        return self.table_scales if self.scale_axis == "levels" else None

    @property
    def parts(self) -> tuple[PackedSection]:
        """See StoredSection."""
        return (self,)

    def chunks(self) -> Iterator[QuantTable]:
        """See TablePart."""
        start = 0
        for values in self.source.chunks():
            stop = start + len(values)
            widths = None if self.widths is None else self.widths[start:stop]
            yield quantise_rows(values, self.codec, widths, self.table_scales)
            start = stop

    def read(self, rows: IntArray) -> FloatArray:
        """Rows as a file gives them back: int64 [n], all in range -> float32 [n, dim]."""
        widths = None if self.widths is None else self.widths[rows]
        values = self.source.read(rows)
        return quantise_rows(values, self.codec, widths, self.table_scales).dequantise()


@dataclass(frozen=True)
class CellSection(PackedSection):
    """The cells of a retrieval structure: the source holds codes, whole numbers in float32."""

    def chunks(self) -> Iterator[QuantTable]:
        """See TablePart."""
        for codes in self.source.chunks():
            yield QuantTable(self.codec, codes.astype(np.int8), self.table_scales)

    def read(self, rows: IntArray) -> FloatArray:
        """Codes of some cells: int64 [n], all in range -> float32 [n, row_dim]."""
        return self.source.read(rows)


@dataclass(frozen=True)
class PackedTable:
    """A `StoredTable` of packed sections.

    Attributes:
        dim: width of a whole row.
        sections: consecutive rows; a section may be narrower than `dim`.
    """

    dim: int
    sections: tuple[PackedSection, ...]

    @property
    def rows(self) -> int:
        """See StoredTable."""
        return sum(section.rows for section in self.sections)

    def dequantised(self) -> Iterator[FloatArray]:
        """All rows as files give them back, in order, float32 [n, dim]."""
        for section in self.sections:
            for chunk in section.chunks():
                yield self._whole(chunk.dequantise())

    def read(self, rows: IntArray) -> FloatArray:
        """Rows as a file gives them back: int64 [n], all in range -> float32 [n, dim]."""
        if len(self.sections) == 1:
            return self._whole(self.sections[0].read(rows))
        out = np.zeros((len(rows), self.dim), dtype=np.float32)
        start = 0
        for section in self.sections:
            places = np.flatnonzero((rows >= start) & (rows < start + section.rows))
            if places.size:
                out[places, : section.dim] = section.read(rows[places] - start)
            start += section.rows
        return out

    def _whole(self, values: FloatArray) -> FloatArray:
        """Rows of a section [n, any] as rows of the table [n, dim]."""
        return np.pad(values, ((0, 0), (0, self.dim - values.shape[1])))


def float_table(source: TableSource) -> PackedTable:
    """A table of whole rows in float32."""
    return PackedTable(source.dim, (PackedSection(source, "f32", None, None),))


def pack_table(source: TableSource, codec: TableCodec, widths: npt.ArrayLike | None) -> PackedTable:
    """Check a table and choose its scales, in one pass over its rows.

    Args:
        source: the float table.
        codec: how its values are stored, or those of its sections.
        widths: how many dimensions of each row to store [rows], or None for all.

    Raises:
        SpecError: values or widths that `quantise` refuses, or sections that do not fit the table.
    """
    kept = checked_widths(widths, (source.rows, source.dim))
    if isinstance(codec, str):
        return PackedTable(source.dim, (_pack_section(source, codec, kept, None),))
    parts, start = [], 0
    for section in resolve_sections(codec, source.rows, source.dim):
        rows = section.rows or 0
        part = SourceRows(source, start, rows, section.width or source.dim)
        row_widths = None
        if kept is not None:
            cut = np.minimum(kept[start : start + rows], part.dim)
            row_widths = checked_widths(cut, (rows, part.dim))
        parts.append(_pack_section(part, section.codec, row_widths, section.scale_axis))
        start += rows
    return PackedTable(source.dim, tuple(parts))


def _pack_section(
    source: TableSource,
    codec: Codec,
    widths: npt.NDArray[np.integer] | None,
    axis: ScaleAxis | None,
) -> PackedSection:
    survey = Survey(source.rows, source.dim)
    start = 0
    for values in source.chunks():
        stop = start + len(values)
        survey.add(values, None if widths is None else widths[start:stop])
        start = stop
    return PackedSection(source, codec, widths, survey.scales(codec, axis))
