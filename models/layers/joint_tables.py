"""Reads many embedding tables with few operations: one gather, one mask, one gradient for all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ondevice.lookup import NO_ROW
from ondevice.models.layers.adaptive_mask import AdaptiveMask
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
        self._level_rows: dict[tuple[int, ...], LevelRows] = {}

    def read(
        self,
        ids: Sequence[Tensor],
        levels: Sequence[Tensor | None],
        pooling: Pooling | None = None,
    ) -> list[Tensor]:
        """The vectors of each table, float32 [..., dim].

        Args:
            ids: for each table int64 [...].
            levels: for each the level masks of this step, if known (see `MaskGroup`).
            pooling: see `Embedding.forward`; by default as each specification says.

        Raises:
            InputError: ids are not int64, or out of range in a full table without an OOV row.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        vectors: dict[int, Tensor] = {}
        for place, table in enumerate(self.tables):
            if table.spec.retrieval is not None:
                vectors[place] = table.vectors(ids[place], pooling=pooling)
                continue
            is_separate = table.sparse or table.spec.rows > JOINT_ROWS
            mask = table.mask
            state = (mask is not None, mask is not None and mask.live)
            key = (table.spec.row_dim, *state, ids[place].shape, place if is_separate else -1)
            groups.setdefault(key, []).append(place)
        for places in groups.values():
            read = [_rows_and_absent(self.tables[place], ids[place]) for place in places]
            rows = [item for item, _ in read]
            values = self._gather(tuple(places), rows, [levels[place] for place in places])
            parts = torch.split(values, [len(item) for item in rows])
            padded = self._padded(places, ids)
            for place, part, (its_rows, absent) in zip(places, parts, read, strict=True):
                table = self.tables[place]
                how = table.spec.pooling if pooling is None else pooling
                padding = None
                if padded and table.spec.padding_id is not None:
                    padding = ids[place] == table.spec.padding_id
                vectors[place] = table.finish(part, its_rows, absent, padding, how)
        return [vectors[place] for place in range(len(self.tables))]

    def _padded(self, places: Sequence[int], ids: Sequence[Tensor]) -> bool:
        """Whether the IDs of any table include its padding ID."""
        padding = [self.tables[place].spec.padding_id for place in places]
        first = padding[0]
        if len(set(padding)) == 1:
            return first is not None and bool((_joined([ids[p] for p in places]) == first).any())
        pairs = zip(places, padding, strict=True)
        return any(value is not None and bool((ids[p] == value).any()) for p, value in pairs)

    def _gather(
        self, places: tuple[int, ...], rows: Sequence[Tensor], levels: Sequence[Tensor | None]
    ) -> Tensor:
        """Masked rows, float32 [all blocks, ..., row_dim], of rows [blocks, ...] per table."""
        tables = [self.tables[place] for place in places]
        sparse = tables[0].sparse
        weight = _joined([table.weight for table in tables])
        sizes = [table.spec.rows for table in tables]
        blocks = [len(item) for item in rows]
        joint = _shifted(rows, sizes, blocks)
        masks = [table.mask for table in tables if table.mask is not None]
        if not masks:
            return _rows_of(weight, joint, sparse)
        level_masks = [
            mask.level_table() if known is None else known
            for mask, known in zip(masks, levels, strict=True)
        ]
        if not sparse and sum(sizes) <= 2 * joint.numel():  # less work: mask the tables
            if not masks[0].live:
                level, level_table = LevelRows(masks, level_masks).level, _joined(level_masks)
                return _rows_of(weight * level_table.index_select(0, level), joint, False)
            level_rows = self._level_rows.get(places)
            if level_rows is None or not level_rows.fits(masks):
                level_rows = self._level_rows[places] = LevelRows(masks, level_masks)
            return level_rows.masked_rows(weight, level_masks, joint)
        level = _joined([mask.level_index for mask in masks]).index_select(0, joint.flatten())
        # int64, since the gradient of index_select takes four times as long for int32 indices
        parts = torch.split(level.long().reshape(joint.shape), blocks)
        level = _shifted(parts, [len(table) for table in level_masks], blocks)
        return _rows_of(weight, joint, sparse) * _rows_of(_joined(level_masks), level, False)


class LevelRows:
    """The level of each row of several joined tables, numbered over the levels of all masks."""

    def __init__(self, masks: Sequence[AdaptiveMask], levels: Sequence[Tensor]) -> None:
        """Masks of whole tables, and the level masks of each."""
        self._versions = [mask.version for mask in masks]
        self._levels: list[tuple[Tensor, int]] = []
        self._row_masks: Tensor | None = None
        sizes = [len(table) for table in levels]
        indices = [mask.level_index.long() for mask in masks]
        self.level = _shifted(indices, sizes, [mask.rows for mask in masks])
        self.sums = _row_sums(self.level, sum(sizes)) if masks[0].live else None

    def fits(self, masks: Sequence[AdaptiveMask]) -> bool:
        """Whether this is of the present levels of these masks."""
        return [mask.version for mask in masks] == self._versions

    def masked_rows(self, weight: Tensor, levels: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Rows of the joined tables, each multiplied by the mask of its level.

        Args:
            weight: float32 [rows of all tables, width].
            levels: the level masks of each table, float32 [levels, width].
            rows: int64 [...].

        Returns:
            float32 [..., width].
        """
        if self.sums is None:
            raise AssertionError("the masks are not being learned")
        values: Tensor = _MaskedRows.apply(weight, rows, self, *levels)  # type: ignore[no-untyped-call]
        return values

    def row_masks(self, levels: Sequence[Tensor]) -> Tensor:
        """The mask of every row, float32 [rows, width], remembered as long as `levels` are."""
        present = [(level, level._version) for level in levels]
        same = len(present) == len(self._levels) and all(
            level is known and version == known_version
            for (level, version), (known, known_version) in zip(present, self._levels, strict=True)
        )
        if self._row_masks is None or not same:
            self._levels = present
            self._row_masks = _joined(levels).index_select(0, self.level)
        return self._row_masks


class _MaskedRows(torch.autograd.Function):
    """(weight * masks of its rows)[rows], with few passes over the whole tables.

    Level masks stay for several steps, and so do the masks of all rows; the gradient of the whole
    tables is changed in place, which autograd cannot know to be safe.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, rows: Tensor, level_rows: LevelRows, *levels: Tensor
    ) -> Tensor:
        """See `LevelRows.masked_rows`."""
        masks = level_rows.row_masks(levels)
        ctx.save_for_backward(weight, masks, rows)
        ctx.sums, ctx.sizes = level_rows.sums, [len(level) for level in levels]
        return _rows_of(weight * masks, rows, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of weight and of the level masks."""
        weight, masks, rows = ctx.saved_tensors
        table = torch.zeros_like(weight)
        flat = gradient.reshape(-1, weight.shape[1])
        table.scatter_add_(0, rows.reshape(-1, 1).expand_as(flat), flat)
        by_level = torch.split(ctx.sums @ (weight * table), ctx.sizes)
        return table.mul_(masks), None, None, *by_level


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


def _row_sums(level: Tensor, levels: int) -> Tensor:
    """A sparse matrix [levels, rows] that sums the rows of each level, faster than index_add."""
    order = torch.argsort(level, stable=True)
    starts = torch.searchsorted(level[order], torch.arange(levels + 1, device=level.device))
    ones = torch.ones(len(order), device=level.device)
    with warnings.catch_warnings():  # torch says that CSR is in beta state
        warnings.filterwarnings("ignore", "Sparse", UserWarning)
        return torch.sparse_csr_tensor(
            starts, order, ones, (levels, len(order)), check_invariants=False
        )


def _rows_of(table: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    """Rows [...] of a table, float32 [..., width]."""
    if sparse:
        return functional.embedding(rows, table, sparse=True)
    # the gradient of index_select costs a quarter of that of functional.embedding
    return table.index_select(0, rows.flatten()).reshape(*rows.shape, table.shape[1])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _shifted(parts: Sequence[Tensor], sizes: Sequence[int], blocks: Sequence[int]) -> Tensor:
    """Indices into several tables as indices into all of them in a row."""
    joint = _joined(parts)
    if len(parts) == 1:
        return joint
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), blocks)
    shift = torch.from_numpy(starts).to(joint.device, joint.dtype)
    return joint + shift.reshape(-1, *[1] * (joint.ndim - 1))
