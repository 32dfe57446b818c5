"""Choose a table for every field: whole for small vocabularies, binary codes for large ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ondevice.errors import SpecError
from ondevice.features import FIRST_BUCKET_ID, FIRST_VOCABULARY_ID, Field
from ondevice.models.data import HashedLog, cardinalities
from ondevice.models.embeddings import BinaryCodeEmbedding, Embedding, FullEmbedding
from ondevice.models.log import ClickLog

# Bits of code beyond log2 of the number of values: 7 leave under 1 % of the values a code that
# another value has too (expected share V / 2**S).
SPARE_CODE_BITS = 7
MOST_BLOCKS = 8


@dataclass(frozen=True)
class Design:
    """How tables are sized; the rules are a choice of this project.

    Attributes:
        dim: width of an embedding vector.
        small: a field with at most this many training values keeps one row per value.
        ratio: the other fields get about this many times fewer rows than training values.

    Raises:
        SpecError: a setting out of range.
    """

    dim: int = 16
    small: int = 1000
    ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.small < 0 or not 1 <= self.ratio < math.inf:
            raise SpecError(f"dim >= 1, small >= 0 and ratio >= 1 needed, got {self}")


def small_fields(train: HashedLog, design: Design) -> list[str]:
    """Fields that keep one row per value; they need a vocabulary."""
    return [
        name
        for name, count in cardinalities(train).items()
        if count <= design.small and train.features[name].encoding == "hash"
    ]


def code_blocks(values: int, ratio: float) -> tuple[int, int]:
    """Code bits S and bits per block t for a field of `values` training values.

    The fewest blocks are taken whose codes keep the values apart and whose rows together number
    about values / ratio; the block size is rounded to the nearest power of two.
    """
    needed = math.ceil(math.log2(max(values, 2))) + SPARE_CODE_BITS
    for blocks in range(2, MOST_BLOCKS + 1):
        t = max(1, round(math.log2(max(values / ratio / blocks, 2))))
        if t * blocks >= needed:
            return min(64, t * blocks), t
    return min(64, needed), math.ceil(needed / MOST_BLOCKS)


def compressed_embeddings(
    train: ClickLog, counts: dict[str, int], design: Design
) -> dict[str, Embedding]:
    """A table per field: FullEmbedding over a vocabulary, BinaryCodeEmbedding over hashes.

    Args:
        train: the encoded training split; says which fields have a vocabulary.
        counts: distinct training values per field.
        design: the sizes.
    """
    tables: dict[str, Embedding] = {}
    for field in train.features.fields:
        if field.length is not None:
            continue  # a history shares the table of its item
        rows = _rows(field)
        if rows is not None:
            tables[field.name] = FullEmbedding(rows, design.dim)
        else:
            code_bits, t = code_blocks(counts[field.name], design.ratio)
            tables[field.name] = BinaryCodeEmbedding(design.dim, code_bits, t)
    return tables


def full_embeddings(train: ClickLog, dim: int) -> dict[str, Embedding]:
    """One row per vocabulary value for every field, the uncompressed reference.

    Raises:
        SpecError: a field has no vocabulary.
    """
    tables: dict[str, Embedding] = {}
    for field in train.features.fields:
        if field.length is not None:
            continue
        rows = _rows(field)
        if rows is None:
            raise SpecError(f"field {field.name!r} has no vocabulary; a full table needs one")
        tables[field.name] = FullEmbedding(rows, dim)
    return tables


def _rows(field: Field) -> int | None:
    """Rows of a full table for the IDs of a field; None where they are hashes."""
    if field.boundaries is not None:
        return len(field.boundaries) + 1 + FIRST_BUCKET_ID
    return None if field.vocabulary is None else len(field.vocabulary) + FIRST_VOCABULARY_ID
