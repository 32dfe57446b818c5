"""Keeps codes of an earlier file where they are still good: what devices then fetch is small.

A retrained model differs everywhere in float, and scales or levels that are fitted anew change
most codes. With those of the earlier file, a code changes only where its value left the interval
of the code; and it is kept a little beyond, so that values near an edge do not go to and fro.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import FloatArray, IntArray, quantise_rows
from ondevice.converters.tables.packed_table import PackedSection, PackedTable
from ondevice.converters.tables.table_source import TableSource
from ondevice.dense import DENSE, PackedDense, pack_dense
from ondevice.errors import SpecError
from ondevice.odm import OdmFile, open_odm
from ondevice.records import RecordTable
from ondevice.section_records import Records, SectionedRecords

# Of the distance of two codes: how much larger than need be the error of a value may become, so
# that its code stays (docs/updates.md has the AUC with others).
SLACK = 0.25


@dataclass(frozen=True)
class Like:
    """An earlier file of the same model, whose codes are to be kept.

    Attributes:
        file: it, opened.
        slack: see SLACK; 0 keeps scales and levels only.
    """

    file: OdmFile
    slack: float = SLACK

    @classmethod
    def read(cls, path: Path, slack: float = SLACK) -> Like:
        """Open a file. Raises FileFormatError: no .odm file; SpecError: slack is not 0 to 1."""
        if not 0 <= slack <= 1:
            raise SpecError(f"the slack of codes must be 0..1, got {slack}")
        return cls(open_odm(path, full_check=True), slack)

    def tables(self, packed: Mapping[str, PackedTable]) -> dict[str, PackedTable]:
        """Packed tables with the earlier scales and levels, and earlier codes that are still good.

        A section is kept as it was chosen where the earlier file has none of its place, codec and
        width, where rows have scales of their own, and where values are floats. Rows beyond those
        of the earlier file are new.
        """
        return {name: self._table(name, table) for name, table in packed.items()}

    def dense(self, name: str, weight: npt.ArrayLike, bias: npt.ArrayLike | None) -> PackedDense:
        """A q8 layer, packed with the earlier scales where there was such a layer; see `tables`.

        Args:
            name: the layer's output.
            weight: float32 [features, units].
            bias: float32 [units].
        """
        fresh = pack_dense(weight, bias, "q8")
        arrays = self._layer(name)
        if arrays is None or fresh.scale is None or arrays[0].size != fresh.weight.size:
            return fresh
        old, old_scale = arrays[0].reshape(-1, 4 * len(fresh.scale)), arrays[1]
        values = _grouped(np.asarray(weight, np.float32), len(old_scale))
        # a unit whose weights are beyond what the earlier scale can say gets a new one
        most = np.abs(values).reshape(-1, len(old_scale), 4).max(axis=(0, 2))
        fits = most <= (127.5 + self.slack) * old_scale
        scale = np.where(fits, old_scale, fresh.scale)
        wide = np.repeat(scale, 4)
        exact = np.divide(values, wide, out=np.zeros_like(values), where=wide > 0)
        nearest = np.clip(np.rint(exact), -127, 127)
        keep = np.abs(exact - old) <= np.abs(exact - nearest) + self.slack
        codes = np.where(keep & np.repeat(fits, 4), old, nearest).astype(np.int8)
        return PackedDense(codes.reshape(-1), fresh.bias, scale)

    def _layer(self, name: str) -> tuple[npt.NDArray[Any], FloatArray] | None:
        """Codes and scales of the earlier q8 layer with this output."""
        for node in self.file.plan.nodes:
            if node.op == DENSE and node.outputs == (name,) and node.attributes["codec"] == "q8":
                weight, _, scale = (self.file.weights[item] for item in node.inputs[1:])
                return weight, scale.astype(np.float32)
        return None

    def _table(self, name: str, table: PackedTable) -> PackedTable:
        old = self.file.tables.get(name)
        if old is None or old.layout.dim != table.dim:
            return table
        sections = _sections(old)
        if len(sections) != len(table.sections):
            return table
        parts = zip(table.sections, sections, strict=True)
        return replace(table, sections=tuple(self._section(*part) for part in parts))

    def _section(self, section: PackedSection, old: RecordTable) -> PackedSection:
        layout = old.layout
        if type(section) is not PackedSection or layout.scale_axis not in ("column", "levels"):
            return section
        if (layout.codec, layout.dim) != (section.codec, section.dim):
            return section
        scales = old.scales.astype(np.float32)
        if layout.scale_axis == "levels":
            scales = scales.reshape(layout.dim, -1)
        kept = replace(section, table_scales=scales)
        return replace(kept, source=SteadyRows(section.source, kept, old, self.slack))


@dataclass(frozen=True)
class SteadyRows:
    """A `TableSource` whose values are those of the earlier file where their codes are kept.

    Attributes:
        source: the trained table.
        section: of it, with the scales or levels of the earlier file.
        old: the earlier rows.
        slack: see SLACK.
    """

    source: TableSource
    section: PackedSection
    old: RecordTable
    slack: float

    @property
    def rows(self) -> int:
        """See TableSource."""
        return self.source.rows

    @property
    def dim(self) -> int:
        """See TableSource."""
        return self.source.dim

    def chunks(self) -> Iterator[FloatArray]:
        """See TableSource."""
        start = 0
        for values in self.source.chunks():
            yield self._steady(values, np.arange(start, start + len(values)))
            start += len(values)

    def read(self, rows: IntArray) -> FloatArray:
        """See TableSource."""
        return self._steady(self.source.read(rows), rows)

    def _steady(self, values: FloatArray, rows: IntArray) -> FloatArray:
        scales = np.asarray(self.section.table_scales)
        widths = None if self.section.widths is None else self.section.widths[rows]
        nearest = quantise_rows(values, self.section.codec, widths, scales).dequantise()
        # rows that were added, or are where another one was, are no further from their values than
        # any others are: an earlier code is kept only if it is good
        before = np.full_like(values, np.inf)
        is_old = rows < self.old.layout.rows
        before[is_old] = self.old.read(rows[is_old])
        step = np.abs(scales) if scales.ndim == 1 else np.ptp(scales, axis=1) / scales.shape[1]
        keep = np.abs(values - before) <= np.abs(values - nearest) + np.float32(self.slack) * step
        steady: FloatArray = np.where(keep, before, values)
        return steady


def _sections(records: Records) -> tuple[RecordTable, ...]:
    return records.sections if isinstance(records, SectionedRecords) else (records,)


def _grouped(weight: FloatArray, padded: int) -> FloatArray:
    """Weights [features, units] in the order of packed q8 codes: [groups of 4, padded * 4]."""
    features, units = weight.shape
    whole = np.pad(weight, ((0, -features % 4), (0, padded - units)))
    return whole.reshape(-1, 4, padded).transpose(0, 2, 1).reshape(-1, 4 * padded)
