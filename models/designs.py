"""Choose a table for every field: whole for small vocabularies, shared rows for large ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ondevice.errors import SpecError
from ondevice.features import FIRST_BUCKET_ID, FIRST_VOCABULARY_ID, Field
from ondevice.limits import MAX_ROWS
from ondevice.models.click_log import ClickLog
from ondevice.models.data import FieldSettings, HashedLog, cardinalities
from ondevice.models.layers.embeddings import (
    BinaryCodeEmbedding,
    Embedding,
    FullEmbedding,
    HashEmbedding,
    MultiHashEmbedding,
    QuotientRemainderEmbedding,
)

Sharing = Literal["binary_code", "hash", "multi_hash", "quotient_remainder"]
SHARINGS: tuple[Sharing, ...] = get_args(Sharing)
HASHES = 2  # of a multi-hash

# Bits of code beyond log2 of the number of values: 5 leave 2 to 3 % of the values a code that
# another value has too (expected share V / 2**S). One block more would avoid that, and gained
# nothing where two express the values anyway (docs/evidence/compression.md, hashed IDs).
SPARE_CODE_BITS = 5
# A value reads no more rows: three to five blocks differed by less than the spread at 1000x.
MOST_BLOCKS = 4


@dataclass(frozen=True)
class Design:
    """How tables are sized; the rules are a choice of this project.

    Attributes:
        dim: width of an embedding vector.
        small: a field with at most this many training values keeps one row per value.
        ratio: the other fields get about this many times fewer rows than training values.
        scheme: how the values of those fields share rows.
        fuse: of the rows that a value reads. Products express more than sums; where rows keep
            widths of their own (masks), sums lose nothing of it and products do.

    Raises:
        SpecError: a setting out of range.
    """

    dim: int = 16
    small: int = 1000
    ratio: float = 4.0
    scheme: Sharing = "binary_code"
    fuse: Literal["mul", "sum"] = "mul"

    def __post_init__(self) -> None:
        if self.scheme not in SHARINGS:
            raise SpecError(f"scheme must be one of {', '.join(SHARINGS)}, got {self.scheme!r}")
        if self.dim < 1 or self.small < 0 or not 1 <= self.ratio < math.inf:
            raise SpecError(f"dim >= 1, small >= 0 and ratio >= 1 needed, got {self}")


def small_fields(train: HashedLog, design: Design) -> list[str]:
    """Fields that keep one row per value, as the log's description asks, or few values have."""
    names = []
    for name, count in cardinalities(train).items():
        asked = train.settings.get(name, FieldSettings()).vocabulary
        is_small = count <= design.small if asked is None else asked
        if is_small and train.features[name].encoding == "hash":
            names.append(name)
    return names


def code_blocks(values: int, rows: int) -> tuple[int, int]:
    """Blocks, and bits of each, of a code for a field of `values` training values.

    The fewest blocks are taken whose codes keep the values apart; they have as many rows as the
    smallest power of two with which all of them can fill `rows` rows. Where so few rows make no
    code long enough, blocks are as many as may be.
    """
    needed = math.ceil(math.log2(max(values, 2))) + SPARE_CODE_BITS
    for blocks in range(2, MOST_BLOCKS + 1):
        bits = block_bits(rows, blocks)
        if bits * blocks >= needed:
            break
    return blocks, bits


def block_bits(rows: int, blocks: int) -> int:
    """Bits of each of `blocks` blocks that can just fill `rows` rows together."""
    return min(max(1, (-(-rows // blocks) - 1).bit_length()), 64 // blocks)


def shared_embedding(values: int, design: Design) -> Embedding:
    """The table of a field of `values` hashed training values that share its rows.

    The rows that a value reads are multiplied, entry by entry, unless the design says otherwise:
    sums of the same rows express far less (docs/evidence/compression.md). Blocks of a code have
    powers of two of rows; their ranges overlap, so that no row is missing or unspent. Two hashes
    have half of the rows each. So have quotient and remainder, which tell all values of a
    vocabulary apart from 2 * sqrt(values) rows on; hashes they take modulo the product.
    """
    rows = max(2, round(values / design.ratio))
    half = rows // 2
    match design.scheme:
        case "hash":
            return HashEmbedding(rows, design.dim)
        case "multi_hash":
            return MultiHashEmbedding(half, design.dim, hashes=HASHES, fuse=design.fuse)
        case "quotient_remainder":
            pairs = min(half * (rows - half), MAX_ROWS - half)
            return QuotientRemainderEmbedding(pairs, design.dim, remainders=half, fuse=design.fuse)
    blocks, bits = code_blocks(values, rows)
    return BinaryCodeEmbedding(
        design.dim,
        blocks * bits,
        bits,
        rows=min(max(rows, 1 << bits), blocks << bits),
        fuse=design.fuse,
    )


def compressed_embeddings(
    train: ClickLog,
    counts: dict[str, int],
    design: Design,
    settings: Mapping[str, FieldSettings] | None = None,
) -> dict[str, Embedding]:
    """A table per field: FullEmbedding over a vocabulary, shared rows over hashes.

    Args:
        train: the encoded training split; says which fields have a vocabulary.
        counts: distinct training values per field.
        design: the sizes.
        settings: what the log's description asks of single fields, before the design.

    Raises:
        SpecError: a setting of a field is out of range.
    """
    tables: dict[str, Embedding] = {}
    for field in _owners(train):
        asked = (settings or {}).get(field.name, FieldSettings())
        sized = _asked(design, field.name, asked)
        rows = _rows(field)
        table = (
            shared_embedding(counts[field.name], sized)
            if rows is None
            else FullEmbedding(rows, sized.dim)
        )
        tables[field.name] = _pooled(table) if field.length is not None else table
    return tables


def full_embeddings(
    train: ClickLog, dim: int, settings: Mapping[str, FieldSettings] | None = None
) -> dict[str, Embedding]:
    """One row per vocabulary value for every field, the uncompressed reference.

    Args:
        train: the encoded training split.
        dim: width of the vectors.
        settings: what the log's description asks of single fields; their widths count here.

    Raises:
        SpecError: a field has no vocabulary.
    """
    tables: dict[str, Embedding] = {}
    for field in _owners(train):
        rows = _rows(field)
        if rows is None:
            raise SpecError(f"field {field.name!r} has no vocabulary; a full table needs one")
        asked = (settings or {}).get(field.name, FieldSettings())
        table = FullEmbedding(rows, asked.dim or dim)
        tables[field.name] = _pooled(table) if field.length is not None else table
    return tables


def _owners(train: ClickLog) -> list[Field]:
    """The fields that have a table of their own: all but histories, which share their item's."""
    owners: list[Field] = []
    for field in train.features.fields:
        if field.length is None or field.seed not in {item.seed for item in owners}:
            owners.append(field)
    return owners


def _asked(design: Design, name: str, asked: FieldSettings) -> Design:
    """The design with what a field's description asks. Raises SpecError."""
    changes = {"dim": asked.dim, "ratio": asked.ratio, "scheme": asked.scheme}
    try:
        given = {key: value for key, value in changes.items() if value is not None}
        return replace(design, **given)  # type: ignore[arg-type]
    except SpecError as error:
        raise SpecError(f"field {name!r}: {error}") from error


def _pooled(table: Embedding) -> Embedding:
    """The table of a list field: the mean of the vectors of a row's values."""
    return Embedding(replace(table.spec, pooling="mean"))


def _rows(field: Field) -> int | None:
    """Rows of a full table for the IDs of a field; None where they are hashes."""
    if field.boundaries is not None:
        return len(field.boundaries) + 1 + FIRST_BUCKET_ID
    return None if field.vocabulary is None else len(field.vocabulary) + FIRST_VOCABULARY_ID
