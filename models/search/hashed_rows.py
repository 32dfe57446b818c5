"""Lookups of hashed IDs that spend a given number of rows: the forms of every method compared.

No form knows a ranking of the values, so each serves IDs that are hashes, seen or unseen. A form's
`lookup` stores at most `rows` rows of `dim` values; concatenated rows are narrower, so there are
more of them in the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from ondevice.codecs import Codec
from ondevice.features import FIRST_VOCABULARY_ID
from ondevice.models.designs import block_bits, code_blocks
from ondevice.models.search.sizing import water_level
from ondevice.models.search.table_design import TableDesign
from ondevice.spec import (
    Fuse,
    LookupSpec,
    binary_code_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

# Rows that a binary code may leave unspent, as a share of a field's rows.
UNSPENT = 0.008
# Odd, so that a product with it permutes the codes: 2**64 divided by the golden ratio.
SCRAMBLE = 0x9E3779B97F4A7C15
FEWEST_ROWS = 8  # of a field whose values share rows: every form exists from there on


class Form(Protocol):
    """A way to share rows."""

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """The lookup of a field of `values` training values."""


@dataclass(frozen=True)
class Hashing:
    """The hashing trick, see `hashing_spec`."""

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        return hashing_spec(rows, dim)


@dataclass(frozen=True)
class MultiHash:
    """Independent hashes, see `multi_hash_spec`."""

    hashes: int = 2
    fuse: Fuse = "sum"

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        each = rows if self.fuse == "concat" else rows // self.hashes
        return multi_hash_spec(each, dim, hashes=self.hashes, fuse=self.fuse)


@dataclass(frozen=True)
class QuotientRemainder:
    """Quotient and remainder, see `quotient_remainder_spec`.

    Attributes:
        even: as many quotients as remainders, which keeps the most hashes apart; otherwise as many
            remainders as leave the quotients that `values` IDs which count up would need.
        fuse: see LookupSpec.
    """

    even: bool = True
    fuse: Fuse = "sum"

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        total = 2 * rows if self.fuse == "concat" else rows
        remainders = total // 2
        if not self.even:  # the largest m with m + values / m <= total, if there is any
            root = math.isqrt(max(0, total * total - 4 * values))
            remainders = min(total - 1, (total + root) // 2)
        codes = remainders * (total - remainders)
        return quotient_remainder_spec(codes, dim, remainders=remainders, fuse=self.fuse)


@dataclass(frozen=True)
class BinaryCode:
    """A binary code (Succession) of blocks of different powers of two of rows.

    Attributes:
        blocks: how many; None: the fewest that spend the rows.
        fuse: see LookupSpec; "concat" needs a number of blocks.
        scrambled: whether IDs are multiplied by SCRAMBLE.
    """

    blocks: int | None = None
    fuse: Fuse = "sum"
    scrambled: bool = False

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        if self.blocks is None:
            bits = spending_blocks(rows)
        else:
            bits = level_blocks(rows * (self.blocks if self.fuse == "concat" else 1), self.blocks)
        return binary_code_spec(
            dim,
            code_bits=min(64, sum(bits)),
            t=bits,
            fuse=self.fuse,
            multiplier=SCRAMBLE if self.scrambled else 1,
        )


@dataclass(frozen=True)
class OverlappingBlocks:
    """A binary code of equal blocks whose row ranges overlap so far that all rows are spent.

    A choice of this project; with `blocks` None, as many as `ondevice train` takes.
    """

    blocks: int | None = 2
    fuse: Fuse = "mul"

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        blocks = self.blocks or code_blocks(values, rows)[0]
        bits = block_bits(rows, blocks)
        return binary_code_spec(
            dim,
            code_bits=bits * blocks,
            t=bits,
            rows=min(rows, blocks << bits),
            fuse=self.fuse,
        )


@dataclass(frozen=True)
class EqualBlocks:
    """A binary code of equal blocks, as published: it can leave up to half of the rows unspent.

    Attributes:
        blocks: how many.
        skip: cut by Skip instead of Succession.
        shared: all blocks read the same rows.
        fuse: see LookupSpec; not "concat", whose rows are narrower.
    """

    blocks: int = 2
    skip: bool = False
    shared: bool = False
    fuse: Fuse = "sum"

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        bits = (rows if self.shared else rows // self.blocks).bit_length() - 1
        return binary_code_spec(
            dim,
            code_bits=bits * self.blocks,
            t=self.blocks - 1 if self.skip else bits,
            strategy="skip" if self.skip else "succession",
            shared=self.shared,
            fuse=self.fuse,
        )


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "hashing": Hashing(),
        "multi-hash, 2": MultiHash(2),
        "multi-hash, 3": MultiHash(3),
        "multi-hash, 2, mul": MultiHash(2, "mul"),
        "multi-hash, 3, mul": MultiHash(3, "mul"),
        "multi-hash, 4, mul": MultiHash(4, "mul"),
        "multi-hash, 2 concatenated": MultiHash(2, "concat"),
        "multi-hash, 4 concatenated": MultiHash(4, "concat"),
        "multi-hash, 8 concatenated": MultiHash(8, "concat"),
        "quotient-remainder": QuotientRemainder(even=False),
        "quotient-remainder, mul": QuotientRemainder(even=False, fuse="mul"),
        "quotient-remainder, even": QuotientRemainder(),
        "quotient-remainder, even, mul": QuotientRemainder(fuse="mul"),
        "quotient-remainder, even, concatenated": QuotientRemainder(fuse="concat"),
        "BH, 2 equal blocks": EqualBlocks(2),
        "BH, 3 equal blocks": EqualBlocks(3),
        "BH, 2 equal blocks, mul": EqualBlocks(2, fuse="mul"),
        "BH, 2 equal blocks, skip": EqualBlocks(2, skip=True),
        "BH, 2 equal blocks, skip, mul": EqualBlocks(2, skip=True, fuse="mul"),
        "BH, 2 equal blocks, shared": EqualBlocks(2, shared=True),
        "BH, 2 equal blocks, shared, mul": EqualBlocks(2, shared=True, fuse="mul"),
        "BH": BinaryCode(),
        "BH, scrambled": BinaryCode(scrambled=True),
        "BH, 2 overlapping blocks": OverlappingBlocks(fuse="sum"),
        "BH, 2 overlapping blocks, mul": OverlappingBlocks(),
        "BH as shipped: 2 to 4 overlapping blocks, mul": OverlappingBlocks(None),
        "BH, mul": BinaryCode(fuse="mul"),
        "BH, scrambled, mul": BinaryCode(fuse="mul", scrambled=True),
        "BH, 4 blocks": BinaryCode(4),
        "BH, 4 blocks, mul": BinaryCode(4, fuse="mul"),
        "BH, 4 blocks concatenated": BinaryCode(4, "concat"),
        "BH, 8 blocks concatenated": BinaryCode(8, "concat"),
    }
)


def spending_blocks(rows: int) -> tuple[int, ...]:
    """Bits of the fewest blocks whose rows number `rows` (at least 2), but for UNSPENT of them."""
    bits, left = [], rows
    while left >= max(2, UNSPENT * rows):
        bits.append(left.bit_length() - 1)
        left -= 1 << bits[-1]
    return tuple(bits)


def level_blocks(rows: int, count: int) -> tuple[int, ...]:
    """Bits, falling, of `count` blocks of at most `rows` rows together, as equal as they can be.

    Most blocks have 2**t or 2**(t+1) rows. As few as leave no more than UNSPENT unspent are
    smaller: each has the largest power of two that is left. A block has at least 2 rows.
    """
    best: tuple[int, ...] = ()
    for small in range(count):
        level = count - small
        # each small block keeps at least 2 rows
        t = min(((rows - 2 * small) // level).bit_length() - 1, rows.bit_length() - 1)
        left = rows - (level << t) - 2 * small
        raised = min(level, left >> t)
        bits = [t + 1] * raised + [t] * (level - raised)
        left += 2 * small - (raised << t)
        for number in range(small):
            bits.append((left - 2 * (small - 1 - number)).bit_length() - 1)
            left -= 1 << bits[-1]
        if not best or _rows(bits) > _rows(best):
            best = tuple(sorted(bits, reverse=True))
        if _rows(best) >= (1 - UNSPENT) * rows:
            break
    return best


def hashed_designs(
    form: Form, values: Mapping[str, int], rows: int, dim: int, codec: Codec
) -> dict[str, TableDesign] | None:
    """A table for every field with `rows` rows in all; None if that is too few.

    Fields get rows as in `ondevice.models.search.sizing.designs`. What a form cannot spend in a
    field is left to the fields that need more.
    """
    needed = {name: count + FIRST_VOCABULARY_ID for name, count in values.items()}
    least = {name: min(needed[name], FEWEST_ROWS) for name in values}
    shares = water_level(needed, least, rows)
    if shares is None:
        return None
    order = sorted(values, key=lambda item: needed[item])
    shares[order[-1]] += rows - sum(shares.values())
    tables: dict[str, TableDesign] = {}
    left = 0
    for name in order:
        share = shares[name] + left
        if share >= needed[name]:
            tables[name] = TableDesign(dim, codec)
            left = share - needed[name]
        else:
            lookup = form.lookup(values[name], share, dim)
            tables[name] = TableDesign(dim, codec, 0, "lookup", lookup=lookup)
            left = share - lookup.rows * lookup.row_dim // dim
    return tables


def _rows(bits: Sequence[int]) -> int:
    return sum(1 << number for number in bits)
