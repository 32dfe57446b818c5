"""A table as it is stored: quantised a chunk at a time, whenever its rows are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.codecs import (
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


@dataclass(frozen=True)
class PackedTable:
    """A `StoredTable` made from its source anew on every pass; equal to `quantise` of the whole.

    Attributes:
        source: the float table.
        codec: how one value is stored.
        widths: kept dimensions per row [rows], or None when every row is whole.
        column_scales: float32 [dim], or None where rows have scales, or the codec none.
    """

    source: TableSource
    codec: Codec
    widths: npt.NDArray[np.integer] | None
    column_scales: FloatArray | None

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
        return "row" if self.column_scales is None else "column"

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
            yield quantise_rows(values, self.codec, widths, self.column_scales)
            start = stop

    def read(self, rows: IntArray) -> FloatArray:
        """Rows as a file gives them back: int64 [n], all in range -> float32 [n, dim]."""
        widths = None if self.widths is None else self.widths[rows]
        values = self.source.read(rows)
        return quantise_rows(values, self.codec, widths, self.column_scales).dequantise()


def pack_table(source: TableSource, codec: Codec, widths: npt.ArrayLike | None) -> PackedTable:
    """Read a table once to check it and to choose its scales.

    Raises:
        SpecError: values or widths that `quantise` refuses.
    """
    kept = checked_widths(widths, (source.rows, source.dim))
    survey = Survey(source.rows, source.dim)
    start = 0
    for values in source.chunks():
        stop = start + len(values)
        survey.add(values, None if kept is None else kept[start:stop])
        start = stop
    return PackedTable(source, codec, kept, survey.column_scales(codec))
