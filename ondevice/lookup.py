"""The reference executor of a lookup specification, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ondevice.codecs import FloatArray, IntArray
from ondevice.errors import InputError
from ondevice.spec import LookupSpec, Residue

ReadRows = Callable[..., FloatArray]

NO_ROW = -1  # in the place of rows that an ID of the head does not read


def table_rows(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    """Rows that each ID reads: int64 [...] -> int64 [..., rows_per_id].

    Of a retrieval structure these are the cells, whether or not the ID is among its IDs.
    An ID of the head reads one row; NO_ROW stands in its other places, unless rows are
    concatenated.

    Raises:
        InputError: an ID outside a full table that has no out-of-vocabulary row.
    """
    ids = ids.astype(np.int64, copy=False)
    if spec.scheme == "full":
        return _full_rows(spec, ids)[..., None]
    if spec.retrieval is not None:
        return _cells(spec, ids)[0]
    rows = _block_rows(spec, ids) if spec.scheme == "binary_code" else _hash_rows(spec, ids)
    if spec.head:
        is_head = (ids >= 0) & (ids < spec.head)
        rows[is_head] = _head_rows(spec, ids[is_head])
    return rows


def fingerprints(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    """Fingerprints that IDs of a retrieval structure have: int64 [...] -> [..., fingerprints]."""
    return _cells(spec, ids)[1]


def look_up(spec: LookupSpec, ids: npt.NDArray[np.int64], read_rows: ReadRows) -> FloatArray:
    """Embedding vectors: int64 [...] -> float32 [..., dim]; without the last axis where pooled.

    `read_rows` maps int64 row numbers [...] to dequantised rows float32 [..., row_dim]; for a
    retrieval structure it is `RecordTable.read_sums`, of cells [..., n] and `dim`.
    Rows are fused in order with float32 operations, and so are vectors that are pooled.

    Raises:
        InputError: see table_rows; or pooling of IDs without a sequence axis.
    """
    if spec.pooling != "none" and ids.ndim < 2:
        raise InputError(f"pooling needs IDs [rows, ..., length], got {list(ids.shape)}")
    ids = ids.astype(np.int64, copy=False)
    retrieve = spec.retrieval is not None
    vectors = _retrieved(spec, ids, read_rows) if retrieve else _fused(spec, ids, read_rows)
    if spec.padding_id is not None:
        vectors[ids == spec.padding_id] = 0
    return vectors if spec.pooling == "none" else _pooled(spec, ids, vectors)


def _fused(spec: LookupSpec, ids: npt.NDArray[np.int64], read_rows: ReadRows) -> FloatArray:
    numbers = table_rows(spec, ids)
    rows = read_rows(np.maximum(numbers, 0) if spec.head else numbers)
    if spec.fuse == "concat":
        return rows.reshape(*ids.shape, spec.dim)
    if spec.head:
        rows[numbers == NO_ROW] = 0
    out = rows[..., 0, :].copy()
    for number in range(1, spec.rows_per_id):
        if spec.fuse == "mul":
            out *= rows[..., number, :]
        else:
            out += rows[..., number, :]
    if spec.fuse == "mean":
        share = np.float32(1 / spec.rows_per_id)
        is_head = (ids >= 0) & (ids < spec.head)
        out *= np.where(is_head, np.float32(1), share)[..., None]
    return out


def _retrieved(spec: LookupSpec, ids: npt.NDArray[np.int64], read_sums: ReadRows) -> FloatArray:
    """Rows that the cells of the IDs add up to; the last row where a fingerprint is wrong."""
    cells, expected = _cells(spec, ids)
    rows = read_sums(cells, spec.dim)
    if spec.oov_row is not None and spec.retrieval is not None:
        differences = rows[..., spec.dim :].astype(np.int64) - expected
        unknown = (differences % 2**spec.retrieval.bits).any(axis=-1)
        rows[unknown] = read_sums(np.array([spec.oov_row]), spec.dim)
    return rows[..., : spec.dim].copy()


def _cells(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> tuple[IntArray, IntArray]:
    """Cells int64 [..., hashes] and fingerprints int64 [..., fingerprints] of IDs."""
    numbers = _residues(spec.retrieval_residues(), ids)
    count = spec.rows_per_id
    cells = (numbers[..., :count] + numbers[..., count : count + 1]) % spec.cells
    return cells, numbers[..., count + 1 :]


def _pooled(spec: LookupSpec, ids: npt.NDArray[np.int64], vectors: FloatArray) -> FloatArray:
    """The sum or mean over the last axis of ids; padding adds nothing and does not count."""
    out = np.zeros((*ids.shape[:-1], spec.dim), dtype=np.float32)
    for place in range(ids.shape[-1]):
        out += vectors[..., place, :]
    if spec.pooling == "mean":
        count = np.count_nonzero(ids != spec.padding_id, axis=-1)
        out *= (np.float32(1) / np.maximum(count, 1).astype(np.float32))[..., None]
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


def _block_rows(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    code = _code(ids, spec.multiplier)
    rows = np.empty((*ids.shape, len(spec.blocks)), dtype=np.int64)
    for number, (block, pieces) in enumerate(zip(spec.blocks, spec.pieces(64), strict=True)):
        value = np.zeros(ids.shape, dtype=np.uint64)
        for piece in pieces:
            part = (code >> np.uint64(piece.shift)) & np.uint64(piece.mask)
            value += part * np.uint64(piece.weight)
        rows[..., number] = value.astype(np.int64) + block.offset
    return rows


def _hash_rows(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    return _residues(spec.residues, ids)


def _residues(residues: Sequence[Residue], ids: npt.NDArray[np.int64]) -> IntArray:
    """What each residue makes of the IDs: int64 [..., residues]."""
    rows = np.empty((*ids.shape, len(residues)), dtype=np.int64)
    for number, residue in enumerate(residues):
        code = _code(ids, residue.multiplier)
        if residue.bits < 64:
            code >>= np.uint64(64 - residue.bits)
        remainder = code.view(np.int64) % residue.modulus  # floored, as Python's
        rows[..., number] = remainder // residue.divisor + residue.offset
    return rows


def _head_rows(spec: LookupSpec, ids: npt.NDArray[np.int64]) -> IntArray:
    places = np.arange(spec.rows_per_id)
    if spec.fuse == "concat":
        return ids[:, None] * spec.rows_per_id + places
    return np.where(places == 0, ids[:, None], NO_ROW)


def _code(ids: npt.NDArray[np.int64], multiplier: int) -> npt.NDArray[np.uint64]:
    """(id * multiplier) mod 2**64, a new array."""
    code: npt.NDArray[np.uint64] = ids.astype(np.int64).view(np.uint64)
    return code * np.uint64(multiplier)
