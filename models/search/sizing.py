"""Sizes of table designs that fit a byte budget: every method gets the same rows to spend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from ondevice.codecs import BITS, FLOAT_CODECS, NARROW_CODECS, Codec, ScaleAxis
from ondevice.features import FIRST_VOCABULARY_ID
from ondevice.models.search.measure import FINGERPRINT_BITS
from ondevice.models.search.table_design import HASHES, TableDesign, code_bits
from ondevice.records import SCALE_BITS
from ondevice.section_records import SECTION_ALIGNMENT

Method = Literal[
    "full",
    "hash",
    "multi_hash",
    "quotient_remainder",
    "binary_code",
    "hybrid_hash",
    "hybrid_binary_code",
]
METHODS: tuple[Method, ...] = get_args(Method)
# Share of a hybrid's rows that belongs to frequent values (a choice of this project).
HEAD_SHARE = 0.75
# From this width on, plans assume row scales; below it, column scales. `quantise` chose so on most
# trained tables; a wrong guess only affects plans, since results count the written bytes.
ROW_SCALES_FROM = 8
# A value that owns a row is found by its hash.
MAP_BYTES = 8
# Cells of a retrieval structure for each value, of more values than the first number.
CELL_SHARES = ((2**18, 1.07), (2**14, 1.11), (0, 1.23))


def planned_bytes(rows: int, dim: int, codec: Codec, axis: ScaleAxis | None = None) -> int:
    """Bytes of a table of whole rows as `ondevice.records` writes it: values and scales.

    Exact where `axis`, what a scale belongs to, is that of the written table; guessed if None.
    """
    axis = _axis(dim, codec, axis)
    scales = {"column": 4 * dim, "levels": 4 * dim << BITS[codec]}.get(axis or "row", 0)
    return math.ceil(rows * row_bits(dim, codec, axis) / 8) + scales


def planned_section_bytes(sections: Sequence[tuple[int, Codec]], dim: int) -> int:
    """Bytes of a table in sections of so many rows each: codes, levels or scales, and gaps.

    Narrow codecs have levels, as `TableDesign.stored` says; others are assumed to have a scale for
    each column.
    """
    unit = SECTION_ALIGNMENT if len(sections) > 1 else 1
    total = 0
    for rows, codec in sections:
        axis: ScaleAxis = "levels" if codec in NARROW_CODECS else "column"
        scales = planned_bytes(0, dim, codec, axis)
        codes = planned_bytes(rows, dim, codec, axis) - scales
        total += -(-codes // unit) * unit + scales
    return total


def planned_cell_bytes(values: int, dim: int, codec: Codec, axis: ScaleAxis | None = None) -> int:
    """About the bytes of the cells in which values find their rows, fingerprints among them."""
    fingerprints = -(-FINGERPRINT_BITS // BITS[codec])
    spare = next(share for least, share in CELL_SHARES if values > least)
    levels = 4 * dim << BITS[codec] if axis == "levels" else 4 * dim
    return math.ceil(values * spare * (dim + fingerprints) * BITS[codec] / 8) + levels


def row_bits(dim: int, codec: Codec, axis: ScaleAxis | None = None) -> int:
    """Bits of a row: its values, and its scale if it has one; the axis is guessed if None."""
    return dim * BITS[codec] + (SCALE_BITS if _axis(dim, codec, axis) == "row" else 0)


def planned_rows(budget: float, tables: int, dim: int, codec: Codec) -> int:
    """Rows of all tables together that about `budget` bytes pay for."""
    fixed = planned_bytes(0, dim, codec)
    return max(0, int((budget - fixed * tables) * 8 / row_bits(dim, codec)))


def _axis(dim: int, codec: Codec, axis: ScaleAxis | None) -> ScaleAxis | None:
    """What a scale belongs to; None for codecs without scales."""
    if codec in FLOAT_CODECS or axis is not None:
        return axis
    return "row" if dim >= ROW_SCALES_FROM else "column"


def designs(
    method: Method, values: Mapping[str, int], rows: int, dim: int, codec: Codec
) -> dict[str, TableDesign] | None:
    """A method's table for every field with `rows` rows in all; None if that is too few.

    Rows are shared by water-filling: a field gets all rows that it needs or as many as every
    other field that needs more.

    Args:
        method: what fields read that cannot have all their rows.
        values: training values per field.
        rows: of all tables together.
        dim: width of the rows.
        codec: how they are stored.
    """
    needed = {name: count + FIRST_VOCABULARY_ID for name, count in values.items()}
    least = {name: min(needed[name], fewest_rows(method, values[name])) for name in values}
    shares = water_level(needed, least, rows)
    if shares is None:
        return None
    tables = {
        name: design(method, values[name], share, dim, codec) for name, share in shares.items()
    }
    if method != "binary_code":
        return tables
    # blocks have powers of two of rows: rows that a field cannot use may pay for a larger block of
    # another field
    for name in sorted(tables, key=lambda item: -needed[item]):
        used = sum(tables[other].spec(values[other], ranked=True).rows for other in tables)
        present = tables[name].spec(values[name], ranked=True).rows
        tables[name] = design(method, values[name], present + rows - used, dim, codec)
    return tables


def design(method: Method, values: int, rows: int, dim: int, codec: Codec) -> TableDesign:
    """A method's table of at most `rows` rows for a field of `values` ranked training values."""
    ids = values + FIRST_VOCABULARY_ID
    if rows >= ids:
        return TableDesign(dim, codec)
    match method:
        case "full":
            return TableDesign(dim, codec, max(0, rows - FIRST_VOCABULARY_ID))
        case "hash":
            return TableDesign(dim, codec, 0, "hash", rows)
        case "multi_hash":
            return TableDesign(dim, codec, 0, "multi_hash", rows // HASHES)
        case "quotient_remainder":
            return TableDesign(dim, codec, 0, "quotient_remainder", _remainders(ids, rows))
        case "binary_code":
            return TableDesign(dim, codec, 0, "binary_code", block_bits(values, rows))
    head = max(0, min(values - 1, int(rows * HEAD_SHARE) - FIRST_VOCABULARY_ID))
    rest = rows - head - FIRST_VOCABULARY_ID
    if method == "hybrid_hash":
        return TableDesign(dim, codec, head, "hash", rest)
    t = block_bits(values, rest)
    left = rest - block_rows(code_bits(values), t)
    return TableDesign(dim, codec, min(values - 1, head + max(0, left)), "binary_code", t)


def block_rows(bits: int, t: int) -> int:
    """Rows of a binary code of `bits` bits in blocks of t (succession, separate)."""
    whole, rest = divmod(bits, t)
    return int(whole * 2**t + (2**rest if rest else 0))


def block_bits(values: int, rows: int) -> int:
    """The block size whose rows come closest to `rows` without exceeding it; else the smallest.

    Blocks of t bits and one of what remains: just below a power of two of rows, the remaining
    block is small.
    """
    bits = code_bits(values)
    fitting = [t for t in range(1, bits + 1) if block_rows(bits, t) <= rows]
    if not fitting:
        return min(range(1, bits + 1), key=lambda t: block_rows(bits, t))
    return max(fitting, key=lambda t: block_rows(bits, t))


def fewest_rows(method: Method, values: int) -> int:
    """The fewest rows with which a method exists for a field."""
    ids = values + FIRST_VOCABULARY_ID
    bits = code_bits(values)
    blocks = min(block_rows(bits, t) for t in range(1, bits + 1))
    return {
        "full": FIRST_VOCABULARY_ID,
        "hash": 1,
        "multi_hash": HASHES,
        "quotient_remainder": 2 * math.isqrt(ids) + 2,
        "binary_code": blocks,
        "hybrid_hash": FIRST_VOCABULARY_ID + 2,
        "hybrid_binary_code": FIRST_VOCABULARY_ID + blocks,
    }[method]


def _remainders(ids: int, rows: int) -> int:
    """The most remainders m with m + ceil(ids / m) <= rows; near sqrt(ids) if no m fits."""
    root = math.isqrt(max(0, rows * rows - 4 * ids))
    for m in range(min(ids, (rows + root) // 2 + 1), 0, -1):
        if m + -(-ids // m) <= rows:
            return m
        if m < math.isqrt(ids):
            break
    return math.isqrt(ids) + 1


def water_level(
    needed: Mapping[str, int], least: Mapping[str, int], rows: int
) -> dict[str, int] | None:
    """Rows per field: the same number for all, but within `least` and `needed` of each field.

    The number is the largest whose sum is at most `rows`; None if even `least` exceeds that.
    """

    def shares(level: int) -> dict[str, int]:
        return {name: min(needed[name], max(least[name], level)) for name in needed}

    if sum(least.values()) > rows:
        return None
    low, high = 0, max(needed.values())
    while low < high:
        middle = (low + high + 1) // 2
        if sum(shares(middle).values()) <= rows:
            low = middle
        else:
            high = middle - 1
    return shares(low)
