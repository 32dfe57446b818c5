"""Builds retrieval structures: hashed cells whose codes add up to an ID's row, without keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ondevice.codecs import BITS, CODE_RANGE, QuantTable
from ondevice.converters.tables.peeling import MOST_DENSE, order, solve
from ondevice.errors import SpecError
from ondevice.lookup import fingerprints as fingerprints_of
from ondevice.lookup import table_rows
from ondevice.spec import LookupSpec, Retrieval

HASHES = 4
# Seeds that are tried at each size, and sizes, at first 1 % larger than the one before.
TRIES = 3
SIZES = 40
MOST_AROUND = 80_000  # IDs of a structure whose stretches go around; see _shapes


@dataclass(frozen=True)
class RetrievalTable:
    """A retrieval structure: its specification, and its cells as a quantised table.

    Attributes:
        spec: how an ID finds its row.
        table: codes int8 [cells, dim + fingerprints], then the row for unknown IDs where there
            are fingerprints; a fingerprint's value is its code.
    """

    spec: LookupSpec
    table: QuantTable


def build_retrieval(
    ids: npt.NDArray[np.int64],
    rows: QuantTable,
    *,
    fingerprint_bits: int,
    unknown: npt.ArrayLike | None = None,
    padding_id: int | None = None,
) -> RetrievalTable:
    """Build the structure that gives each of `ids` its row. The same arguments give the same one.

    It takes about 100 bytes of memory an ID besides its arguments (and up to 256 MB for the dense
    system of tens of thousands), two seconds for 20,000 IDs and twenty for 10 million.

    Args:
        ids: int64 [n], distinct 64-bit hashes.
        rows: their rows [n, dim], integer codes with column scales or levels, none of them cut.
        fingerprint_bits: 0..8, rounded up to whole codes; 2 ** -bits of all other IDs pass for one
            of `ids`, and read the sum of some cells. With 0 all do.
        unknown: codes [dim] of the row that all others read; zeros by default. Without
            fingerprints nobody reads it.
        padding_id: an ID whose vector is zero, whatever the cells say.

    Raises:
        SpecError: duplicates, rows of another form, bits out of range; or IDs for which no seed
            gives a solution, as those of multiples of a power of two.
    """
    codes = _checked_codes(ids, rows)
    if not 0 <= fingerprint_bits <= 8:
        raise SpecError(f"fingerprints have 0..8 bits, got {fingerprint_bits}")
    bits, dim = BITS[rows.codec], rows.dim
    columns = -(-fingerprint_bits // bits)
    for shape in _shapes(len(ids)):
        spec = LookupSpec(
            "retrieval",
            shape.cells + (columns > 0),
            dim,
            padding_id=padding_id,
            oov_row=shape.cells if columns else None,
            retrieval=Retrieval(HASHES, shape.window, shape.starts, bits, shape.seed, columns),
        )
        places = table_rows(spec, ids).astype(np.int32)
        found = order(places, shape.cells, shape.most_dense)
        if found is None:
            continue
        wanted = np.concatenate([codes, fingerprints_of(spec, ids).astype(np.uint8)], axis=1)
        solved = solve(places, found, wanted, shape.cells)
        if solved is not None:
            return RetrievalTable(spec, _table(solved, rows, columns, unknown))
    raise SpecError(f"no retrieval structure for these {len(ids)} IDs: they are no random hashes")


@dataclass(frozen=True)
class _Shape:
    """A number of cells, and what else decides where an ID's cells are."""

    cells: int
    window: int
    starts: int
    seed: int
    most_dense: int


def _shapes(count: int) -> Iterator[_Shape]:
    """What to try in turn, small structures first.

    A stretch may start anywhere: then some equations must be put off to begin with, about as many
    as there are IDs in a window, and every cell is as likely as any other. Where there are so many
    IDs that the dense system would grow too large, stretches do not go around, and peeling begins
    at both ends, where cells have fewer IDs.
    """
    around = count <= MOST_AROUND
    stretches = max(1, round(0.35 * count**0.42)) if around else round(0.7 * count**0.3)
    least = 1.04 if around else 1.06
    seed = 0
    for step in range(SIZES):
        cells = int(count * (least + 0.01 * step * (1 + step // 10))) + HASHES
        window = max(1, cells // (HASHES * stretches))
        starts = cells if around else cells - HASHES * window + 1
        for _ in range(TRIES):
            yield _Shape(cells, window, starts, seed, MOST_DENSE if around else 0)
            seed += 1


def _checked_codes(ids: npt.NDArray[np.int64], rows: QuantTable) -> npt.NDArray[np.uint8]:
    """The rows' codes; raises SpecError for what is none, and for duplicates."""
    if rows.codec not in CODE_RANGE or rows.scale_axis == "row" or rows.widths is not None:
        raise SpecError("cells hold whole rows of integer codes with column scales or levels")
    if ids.shape != (rows.rows,) or ids.dtype != np.int64:
        raise SpecError(f"IDs must be int64 [{rows.rows}], got {ids.dtype} {list(ids.shape)}")
    ordered = np.sort(ids)
    if (doubled := ordered[1:] == ordered[:-1]).any():
        raise SpecError(f"ID {int(ordered[1:][doubled][0])} occurs twice")
    return rows.values.astype(np.int8, copy=False).view(np.uint8)


def _table(
    solved: npt.NDArray[np.uint8], rows: QuantTable, columns: int, unknown: npt.ArrayLike | None
) -> QuantTable:
    """Cells uint8 [cells, dim + columns] as a table, whose last row is that of unknown IDs."""
    if columns:
        last = np.zeros((1, solved.shape[1]), np.int64)
        if unknown is not None:
            last[0, : rows.dim] = np.asarray(unknown)
        solved = np.concatenate([solved, last.astype(np.uint8)])
    bits = BITS[rows.codec]
    if rows.levels is not None:
        values = (solved & np.uint8(2**bits - 1)).view(np.int8)
        numbers = np.tile(np.arange(2**bits, dtype=np.float32), (columns, 1))
        return replace(rows, values=values, scales=np.concatenate([rows.levels, numbers]))
    up = np.uint8(8 - bits)
    values = (solved << up).view(np.int8) >> up.view(np.int8)
    scales = np.concatenate([np.asarray(rows.scales, np.float32), np.ones(columns, np.float32)])
    return replace(rows, values=values, scales=scales)
