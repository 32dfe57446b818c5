"""Reads many embedding tables with few operations: one gather, one mask, one gradient for all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ondevice.lookup import NO_ROW
from ondevice.models.layers.adaptive_mask import AdaptiveMask, LevelMasks
from ondevice.models.layers.fused_rows import FusedRows
from ondevice.models.layers.joint_rows import JointRows
from ondevice.models.layers.masked_rows import (
    HeldMasks,
    RowLevels,
    joined_levels,
    joined_starts,
    masked_rows,
)
from ondevice.spec import Pooling

if TYPE_CHECKING:
    from ondevice.models.layers.embeddings import Embedding

# Tables of up to so many rows are read together: that copies them, which costs less than the
# dozen operations per table that it saves.
JOINT_ROWS = 16_384


class JointTables:
    """Many tables, the small ones of one row width read in one operation."""

    def __init__(self, tables: Sequence[Embedding]) -> None:
        self.tables = tuple(tables)
        self._groups: dict[tuple[int, ...], _Group] = {}

    def read(
        self,
        ids: Sequence[Tensor],
        levels: Sequence[LevelMasks | None],
        pooling: Pooling | None = None,
        held: HeldMasks | None = None,
    ) -> Tensor:
        """The vectors of all tables side by side, float32 [..., sum of their widths].

        Args:
            ids: for each table int64 [...]; the vectors of all have one shape.
            levels: for each the level masks of this step, if known (see `MaskGroup`).
            pooling: see `Embedding.forward`; by default as each specification says.
            held: of what these levels are, if masks are held.

        Raises:
            InputError: ids are not int64, or out of range in a full table without an OOV row.
        """
        groups = self._grouped(ids)
        if len(groups) == 1:
            return self._read(groups[0], ids, levels, pooling, held)
        vectors: dict[int, Tensor] = {}
        for places in groups:
            joined = self._read(places, ids, levels, pooling, held)
            widths = [self.tables[place].dim for place in places]
            vectors.update(zip(places, torch.split(joined, widths, -1), strict=True))
        return torch.cat([vectors[place] for place in range(len(self.tables))], -1)

    def _grouped(self, ids: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """The places of the tables that are read together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, table in enumerate(self.tables):
            spec, mask = table.spec, table.mask
            alone = table.sparse or spec.rows > JOINT_ROWS or spec.retrieval is not None
            state = (mask is not None, mask is not None and mask.live)
            key = (spec.row_dim, *state, ids[place].shape, place if alone else -1)
            groups.setdefault(key, []).append(place)
        return [tuple(places) for places in groups.values()]

    def _read(
        self,
        places: tuple[int, ...],
        ids: Sequence[Tensor],
        levels: Sequence[LevelMasks | None],
        pooling: Pooling | None,
        held: HeldMasks | None,
    ) -> Tensor:
        """The vectors of one group side by side."""
        first = self.tables[places[0]]
        if first.spec.retrieval is not None:
            return first.vectors(ids[places[0]], pooling=pooling)
        if places not in self._groups:
            self._groups[places] = _Group([self.tables[place] for place in places])
        its_ids, its_levels = [ids[place] for place in places], [levels[place] for place in places]
        return self._groups[places].read(its_ids, its_levels, pooling, held)


class _Group:
    """Tables of one row width that are read together: their rows lie one after another."""

    def __init__(self, tables: Sequence[Embedding]) -> None:
        self.tables = tuple(tables)
        self._blocks = [table.spec.rows_per_id for table in tables]
        self._rows = JointRows([table.index for table in tables]) if len(tables) > 1 else None
        starts = np.repeat(
            np.cumsum([0, *(table.spec.rows for table in tables[:-1])]), self._blocks
        )
        self._starts = torch.from_numpy(starts).unsqueeze(-1)  # int64 [all rows of an ID, 1]
        self._fused = FusedRows([table.spec for table in tables])
        self._row_levels: RowLevels | None = None

    def read(
        self,
        ids: Sequence[Tensor],
        levels: Sequence[LevelMasks | None],
        pooling: Pooling | None,
        held: HeldMasks | None,
    ) -> Tensor:
        """The vectors side by side; see `JointTables.read`."""
        shape = (*ids[0].shape, sum(self._blocks), self.tables[0].spec.row_dim)
        how = [table.spec.pooling if pooling is None else pooling for table in self.tables]
        if self._rows is not None and set(how) == {"none"} and all(t.plain for t in self.tables):
            rows = self._rows(ids)
            if rows is not None:
                values = self._gather(rows, levels, held)
                return self._fused(values.reshape(-1, *shape[-2:])).reshape(*shape[:-2], -1)
        read = [_rows_and_absent(table, item) for table, item in zip(self.tables, ids, strict=True)]
        rows = _joined([rows.reshape(len(rows), ids[0].numel()) for rows, _ in read], 0)
        values = self._gather(rows, levels, held).reshape(shape)
        vectors = [
            table.finish(part.movedim(-2, 0), rows, absent, padding, pooled)
            for table, part, (rows, absent), padding, pooled in zip(
                self.tables,
                torch.split(values, self._blocks, -2),
                read,
                self._padding(ids),
                how,
                strict=True,
            )
        ]
        return _joined(vectors, -1)

    def _padding(self, ids: Sequence[Tensor]) -> list[Tensor | None]:
        """For each table, bool [...] where an ID is the padding ID; None if nowhere."""
        padding = [table.spec.padding_id for table in self.tables]
        if len(set(padding)) == 1 and not (
            padding[0] is not None and bool((_joined(ids, 0) == padding[0]).any())
        ):
            return [None] * len(padding)
        found = [
            None if number is None else item == number
            for item, number in zip(ids, padding, strict=True)
        ]
        return [item if item is not None and bool(item.any()) else None for item in found]

    def _gather(
        self, rows: Tensor, levels: Sequence[LevelMasks | None], held: HeldMasks | None
    ) -> Tensor:
        """Masked rows, float32 [n, all rows of an ID, width].

        Args:
            rows: int64 [all rows of an ID, n], numbered within their tables.
            levels: see `JointTables.read`.
            held: see `JointTables.read`.
        """
        sparse = self.tables[0].sparse
        weight = _joined([table.weight for table in self.tables], 0)
        joint = rows if len(self.tables) == 1 else rows + self._starts.to(rows.device)
        joint = joint.t().flatten()
        if self.tables[0].mask is None:
            return _rows_of(weight, joint, sparse)
        if not sparse and len(weight) <= 2 * len(joint):  # less work: mask the tables
            make = partial(self._row_masks, levels)
            masks = make() if held is None else held.row_masks(self, make)
            return masked_rows(weight, masks, joint)
        present = self._levels(levels)
        level = _joined([mask.level_index for mask in self._masks()], 0).index_select(0, joint)
        starts = np.repeat(joined_starts(present), self._blocks)
        # int64, since the gradient of index_select takes four times as long for int32 indices
        level = level.long().reshape(-1, len(rows)) + torch.from_numpy(starts).to(level.device)
        return _rows_of(weight, joint, sparse) * joined_levels(present).index_select(
            0, level.flatten()
        )

    def _masks(self) -> list[AdaptiveMask]:
        """The masks of the tables, which all have one or none of them."""
        return [table.mask for table in self.tables if table.mask is not None]

    def _levels(self, known: Sequence[LevelMasks | None]) -> list[LevelMasks]:
        """The level masks of each table, where they are not known those of the present moment."""
        return [
            LevelMasks(mask.level_table(), 0) if levels is None else levels
            for mask, levels in zip(self._masks(), known, strict=True)
        ]

    def _row_masks(self, known: Sequence[LevelMasks | None]) -> Tensor:
        """The mask of each joint row, float32 [rows, width]."""
        masks, levels = self._masks(), self._levels(known)
        if self._row_levels is None or not self._row_levels.fits(masks, levels):
            self._row_levels = RowLevels(masks, levels)
        return self._row_levels.row_masks(levels)


def _rows_and_absent(table: Embedding, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows int64 [n, ...] of ids [...], and of a hybrid where an ID reads fewer, bool [n, ...]."""
    rows = table.rows(ids)
    if not table.hybrid:
        return rows.movedim(-1, 0), None
    absent = rows == NO_ROW
    # the ID's first row is read in its place: this adds a gradient of zero to a row that is read
    # anyway
    rows = torch.where(absent, rows[..., :1], rows)
    return rows.movedim(-1, 0), absent.movedim(-1, 0)


def _rows_of(table: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    """Rows [n] of a table, float32 [n, width]."""
    if sparse:
        return functional.embedding(rows, table, sparse=True)
    # the gradient of index_select costs a quarter of that of functional.embedding
    return table.index_select(0, rows)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)
