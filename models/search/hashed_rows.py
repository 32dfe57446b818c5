"""Lookups of hashed IDs that spend a given number of rows: the forms of every method compared.

No form knows a ranking of the values, so each serves IDs that are hashes, seen or unseen. A form's
`lookup` stores at most `rows` rows of `dim` values; concatenated rows are narrower, so there are
more of them in the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from ondevice.codecs import Codec
from ondevice.features import FIRST_VOCABULARY_ID
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
        splits: how often the largest block is halved, see `spending_blocks`.
        fuse: see LookupSpec. With "concat", `splits` is the number of blocks.
        scrambled: whether IDs are multiplied by SCRAMBLE.
    """

    splits: int = 0
    fuse: Fuse = "sum"
    scrambled: bool = False

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        if self.fuse == "concat":
            bits = powers_of_two(rows * self.splits, self.splits)
        else:
            bits = spending_blocks(rows, self.splits)
        return binary_code_spec(
            dim,
            code_bits=sum(bits),
            t=bits,
            fuse=self.fuse,
            multiplier=SCRAMBLE if self.scrambled else 1,
        )


@dataclass(frozen=True)
class EqualBlocks:
    """A binary code of equal blocks, as published: it can leave up to half of the rows unspent.

    Attributes:
        blocks: how many.
        skip: cut by Skip instead of Succession.
        shared: all blocks read the same rows.
    """

    blocks: int = 2
    skip: bool = False
    shared: bool = False

    def lookup(self, values: int, rows: int, dim: int) -> LookupSpec:
        """See Form."""
        bits = (rows if self.shared else rows // self.blocks).bit_length() - 1
        return binary_code_spec(
            dim,
            code_bits=bits * self.blocks,
            t=self.blocks - 1 if self.skip else bits,
            strategy="skip" if self.skip else "succession",
            shared=self.shared,
        )


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "hashing": Hashing(),
        "multi-hash, 2": MultiHash(2),
        "multi-hash, 3": MultiHash(3),
        "multi-hash, 2 concatenated": MultiHash(2, "concat"),
        "multi-hash, 4 concatenated": MultiHash(4, "concat"),
        "quotient-remainder": QuotientRemainder(even=False),
        "quotient-remainder, mul": QuotientRemainder(even=False, fuse="mul"),
        "quotient-remainder, even": QuotientRemainder(),
        "quotient-remainder, even, mul": QuotientRemainder(fuse="mul"),
        "quotient-remainder, even, concatenated": QuotientRemainder(fuse="concat"),
        "BH, 2 equal blocks": EqualBlocks(2),
        "BH, 3 equal blocks": EqualBlocks(3),
        "BH, 2 equal blocks, skip": EqualBlocks(2, skip=True),
        "BH, 2 equal blocks, shared": EqualBlocks(2, shared=True),
        "BH": BinaryCode(),
        "BH, scrambled": BinaryCode(scrambled=True),
        "BH, largest block halved": BinaryCode(1),
        "BH, largest blocks halved twice": BinaryCode(2),
        "BH, 4 blocks concatenated": BinaryCode(4, "concat"),
    }
)


def powers_of_two(rows: int, most: int) -> tuple[int, ...]:
    """The exponents, falling, of `most` powers of two whose sum is the largest up to `rows`.

    Fewer where the sum is exact before; 2**0 is none of them.
    """
    bits: list[int] = []
    while rows >= 2 and len(bits) < most:
        bits.append(rows.bit_length() - 1)
        rows -= 1 << bits[-1]
    while len(bits) < most and max(bits) > 1:
        bits = _halved(bits)
    return tuple(bits)


def spending_blocks(rows: int, splits: int = 0) -> tuple[int, ...]:
    """Bits of the fewest blocks whose rows number `rows`, but for UNSPENT of them.

    Args:
        rows: at least 2.
        splits: how often the largest block is halved: that makes two of it.
    """
    bits, left = [], rows
    while left >= max(2, UNSPENT * rows):
        bits.append(left.bit_length() - 1)
        left -= 1 << bits[-1]
    for _ in range(splits):
        if max(bits) > 1:
            bits = _halved(bits)
    while sum(bits) > 64:  # bits of a hash
        bits.pop()
    return tuple(bits)


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


def _halved(bits: list[int]) -> list[int]:
    """The largest block made two, still falling."""
    largest = max(bits)
    rest = list(bits)
    rest.remove(largest)
    return sorted([*rest, largest - 1, largest - 1], reverse=True)
