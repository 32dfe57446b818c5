"""The reference executor of a lookup specification, in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ondevice.codecs import FloatArray, IntArray
from ondevice.errors import InputError
from ondevice.spec import LookupSpec

ReadRows = Callable[[IntArray], FloatArray]


def table_rows(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    """Rows that each ID reads: int64 [...] -> int64 [..., rows_per_id].

    Raises:
        InputError: an ID outside a full table that has no out-of-vocabulary row.
    """
    if spec.scheme == "full":
        return _full_rows(spec, ids)[..., None]
    pieces = spec.pieces(64)
    code = ids.astype(np.int64, copy=False).view(np.uint64)
    if spec.multiplier != 1:
        code = code * np.uint64(spec.multiplier)
    rows = np.empty((*ids.shape, len(spec.blocks)), dtype=np.int64)
    for number, (block, block_pieces) in enumerate(zip(spec.blocks, pieces, strict=True)):
        value = np.zeros(ids.shape, dtype=np.uint64)
        for piece in block_pieces:
            part = (code >> np.uint64(piece.shift)) & np.uint64(piece.mask)
            value += part * np.uint64(piece.weight)
        rows[..., number] = value.astype(np.int64) + block.offset
    return rows


def look_up(spec: LookupSpec, ids: npt.NDArray[np.int64], read_rows: ReadRows) -> FloatArray:
    """Embedding vectors: int64 [...] -> float32 [..., dim].

    `read_rows` maps int64 row numbers [...] to dequantised rows float32 [..., row_dim].
    Rows are fused in block order with float32 additions.

    Raises:
        InputError: see table_rows.
    """
    rows = read_rows(table_rows(spec, ids))
    if spec.fuse == "concat":
        out = rows.reshape(*ids.shape, spec.dim)
    else:
        out = rows[..., 0, :].copy()
        for number in range(1, spec.rows_per_id):
            out += rows[..., number, :]
        if spec.fuse == "mean":
            out *= np.float32(1 / spec.rows_per_id)
    if spec.padding_id is not None:
        out[ids == spec.padding_id] = 0
    return out


def _full_rows(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    outside = (ids < 0) | (ids >= spec.rows)
    if spec.padding_id is not None:
        outside &= ids != spec.padding_id
    if spec.oov_row is None and outside.any():
        raise InputError(
            f"ID {int(ids[outside].flat[0])} is outside 0..{spec.rows - 1} "
            "and the table has no out-of-vocabulary row"
        )
    fallback = 0 if spec.oov_row is None else spec.oov_row
    return np.where((ids < 0) | (ids >= spec.rows), fallback, ids)
