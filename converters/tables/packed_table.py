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
from ondevice.converters.tables.table_source import TableSource

CODEC_OF_BITS: dict[int, Codec] = {BITS[codec]: codec for codec in CODE_RANGE}


@dataclass(frozen=True)
class PackedTable:
    """A `StoredTable` that quantises its source on every pass; equal to `quantise` of the whole.

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
        """See StoredTable."""
        return self.source.rows

    @property
    def dim(self) -> int:
        """See StoredTable."""
        return self.source.dim

    @property
    def scale_axis(self) -> ScaleAxis | None:
        """See StoredTable."""
        if self.codec in FLOAT_CODECS:
            return None
        if self.table_scales is None:
            return "row"
        return "column" if self.table_scales.ndim == 1 else "levels"

    @property
    def column_scales(self) -> FloatArray | None:
        """See StoredTable."""
        return self.table_scales if self.scale_axis == "column" else None

    @property
    def levels(self) -> FloatArray | None:
        """See StoredTable."""
        return self.table_scales if self.scale_axis == "levels" else None

    @property
    def parts(self) -> tuple[PackedTable]:
        """See StoredTable."""
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
class CellTable(PackedTable):
    """The cells of a retrieval structure: the source holds codes, whole numbers in float32."""

    def chunks(self) -> Iterator[QuantTable]:
        """See TablePart."""
        for codes in self.source.chunks():
            yield QuantTable(self.codec, codes.astype(np.int8), self.table_scales)

    def read(self, rows: IntArray) -> FloatArray:
        """Codes of some cells: int64 [n], all in range -> float32 [n, row_dim]."""
        return self.source.read(rows)


def pack_table(source: TableSource, codec: Codec, widths: npt.ArrayLike | None) -> PackedTable:
    """Check a table and choose its scales, in one pass over its rows.

    Args:
        source: the float table.
        codec: how a value is stored.
        widths: how many dimensions of each row to store [rows], or None for all.

    Raises:
        SpecError: values or widths that `quantise` refuses.
    """
    widths = checked_widths(widths, (source.rows, source.dim))
    survey = Survey(source.rows, source.dim)
    start = 0
    for values in source.chunks():
        stop = start + len(values)
        survey.add(values, None if widths is None else widths[start:stop])
        start = stop
    return PackedTable(source, codec, widths, survey.scales(codec))
