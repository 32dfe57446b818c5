"""Joins tables in sections, or with levels, section by section; inputs keep scales and levels.

Only tables of equal formats are joined. An input reads every section of the joined table, so that
any formats together cost 128 rows three times what they cost apart, when that was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.codecs import (
    BITS,
    Codec,
    FloatArray,
    ScaleAxis,
    StoredSection,
    StoredTable,
    TablePart,
)
from ondevice.spec import LookupSpec

Format = tuple[Codec, ScaleAxis | None, int, bool]


@dataclass(frozen=True)
class JoinedSection:
    """Rows of several tables in one storage format: a `StoredSection` of a merged lookup.

    Attributes:
        tables: the sections whose rows follow one another.
        inputs: for each input of the lookup the place of its section in `tables`.
    """

    tables: tuple[StoredSection, ...]
    inputs: tuple[int, ...]

    @property
    def codec(self) -> Codec:
        """See StoredSection."""
        return self.tables[0].codec

    @property
    def rows(self) -> int:
        """See StoredSection."""
        return sum(table.rows for table in self.tables)

    @property
    def dim(self) -> int:
        """See StoredSection."""
        return self.tables[0].dim

    @property
    def scale_axis(self) -> ScaleAxis | None:
        """See StoredSection."""
        return self.tables[0].scale_axis

    @property
    def widths(self) -> npt.NDArray[np.integer] | None:
        """See StoredSection."""
        widths = [table.widths for table in self.tables if table.widths is not None]
        return np.concatenate(widths) if widths else None

    @property
    def column_scales(self) -> FloatArray | None:
        """Those of each input, float32 [inputs, dim]."""
        scales = [table.column_scales for table in self.tables]
        present = [item for item in scales if item is not None]
        return np.stack(present)[list(self.inputs)] if present else None

    @property
    def levels(self) -> FloatArray | None:
        """Those of all tables, float32 [tables * dim, 2**bits]; see `level_firsts`."""
        levels = [table.levels for table in self.tables if table.levels is not None]
        return np.concatenate(levels) if levels else None

    @property
    def parts(self) -> tuple[TablePart, ...]:
        """See StoredSection."""
        return tuple(part for table in self.tables for part in table.parts)


@dataclass(frozen=True)
class JoinedSections:
    """A `StoredTable` of joined sections."""

    dim: int
    sections: tuple[JoinedSection, ...]

    @property
    def rows(self) -> int:
        """See StoredTable."""
        return sum(section.rows for section in self.sections)


def section_formats(spec: LookupSpec, table: StoredTable) -> tuple[Format, ...] | None:
    """What must be equal in tables in sections that are joined; None: the lookup is not plain."""
    if spec.scheme != "full" or spec.rows_per_id != 1:
        return None
    return tuple(
        (section.codec, section.scale_axis, section.dim, section.widths is not None)
        for section in table.sections
    )


def join_sections(
    members: Sequence[StoredTable],
) -> tuple[JoinedSections, list[tuple[tuple[int, int], ...]]]:
    """Join the tables of a merged lookup's inputs, of equal formats; a table may occur twice.

    Returns:
        The joined table, and for each input the pieces that its rows became: the first row of a
        piece in its own table, and in the joined one.
    """
    tables: list[StoredTable] = []
    for table in members:
        if not any(table is other for other in tables):
            tables.append(table)
    inputs = tuple(
        next(place for place, other in enumerate(tables) if other is table) for table in members
    )
    rows = np.array([[section.rows for section in table.sections] for table in tables])
    firsts = np.cumsum(rows, axis=1) - rows
    # all rows of a section of all tables, then those of the next one
    starts = (np.cumsum(rows.T) - rows.T.reshape(-1)).reshape(rows.T.shape).T
    sections = tuple(
        JoinedSection(alike, inputs)
        for alike in zip(*(table.sections for table in tables), strict=True)
    )
    pieces = [
        tuple(zip(firsts[place].tolist(), starts[place].tolist(), strict=True)) for place in inputs
    ]
    return JoinedSections(members[0].dim, sections), pieces


def level_firsts(table: StoredSection) -> npt.NDArray[np.int64] | None:
    """Where the levels of each column begin in all levels, one after another.

    int64 [dim], of a joined section [inputs, dim]; None where that is 0 everywhere, or for codes
    without levels.
    """
    if table.levels is None:
        return None
    rows = np.arange(table.dim, dtype=np.int64)
    if isinstance(table, JoinedSection):
        rows = np.array(table.inputs, dtype=np.int64)[:, None] * table.dim + rows
    return rows << BITS[table.codec] if rows.any() else None
