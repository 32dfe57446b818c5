"""The arithmetic from IDs to table rows as constant arrays, for targets that vectorise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ondevice.spec import HIGH_BITS, LookupSpec

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowArithmetic:
    """row[f, b] = offset[f, b] + sum over r of ((word >> shift) & mask) * weight, all [f, b, r].

    f counts inputs, b the blocks, r the bit runs of a block. Missing runs have a mask of 0;
    missing blocks have no runs, and the offset is the row of zeros.

    Attributes:
        words, shifts, masks, weights: int64 [f, b, r]; `words` counts words of the code from the
            least significant.
        offsets: int64 [f, b].
        multipliers: uint64 [f], factors of the IDs.
    """

    words: IntArray
    shifts: IntArray
    masks: IntArray
    weights: IntArray
    offsets: IntArray
    multipliers: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ResidueArithmetic:
    """row[f, b] = offset[f, b] + (number mod modulus) div divisor; see ondevice.spec.Residue.

    f counts inputs, b the residues. Missing residues have modulus 1, and the offset is the row of
    zeros.

    Attributes:
        multipliers: uint64 [f, b], factors of the IDs.
        moduli, divisors, offsets: int64 [f, b].
        high: whether the numbers are the highest HIGH_BITS bits of the codes.
    """

    multipliers: npt.NDArray[np.uint64]
    moduli: IntArray
    divisors: IntArray
    offsets: IntArray
    high: bool


@dataclass(frozen=True)
class HeadArithmetic:
    """row[f, b] = id * factor[f, b] + offset[f, b] for an ID in [0, head[f]).

    An average reads the row at every place; a sum reads the row of zeros at all but the first.

    Attributes:
        heads: int64 [f].
        factors, offsets: int64 [f, b].
    """

    heads: IntArray
    factors: IntArray
    offsets: IntArray


def needs_zero_row(spec: LookupSpec) -> bool:
    """Whether IDs of the head read fewer rows than others: targets then read a row of zeros."""
    return spec.head > 0 and spec.fuse == "sum" and spec.rows_per_id > 1


def row_arithmetic(
    specs: Sequence[LookupSpec],
    word_bits: Literal[32, 64],
    zero_row: int = 0,
    starts: Sequence[int] = (0,),
) -> RowArithmetic:
    """Arrays for binary-code specifications over one table.

    Args:
        specs: they may differ in number and shape of blocks, and in their multipliers.
        word_bits: size of the words that the target shifts.
        zero_row: a row of zeros, which is read for blocks that a specification lacks.
        starts: the row of the table at which the rows of each specification begin.
    """
    pieces = [spec.pieces(word_bits) for spec in specs]
    blocks = max(len(spec.blocks) for spec in specs)
    runs = max(len(block) for spec_pieces in pieces for block in spec_pieces)
    words, shifts, masks, weights = np.zeros((4, len(specs), blocks, runs), dtype=np.int64)
    offsets = np.full((len(specs), blocks), zero_row, dtype=np.int64)
    for f, spec in enumerate(specs):
        for b, (block, block_pieces) in enumerate(zip(spec.blocks, pieces[f], strict=True)):
            offsets[f, b] = block.offset + starts[f]
            words[f, b] = block_pieces[0].word
            for r, piece in enumerate(block_pieces):
                words[f, b, r], shifts[f, b, r] = piece.word, piece.shift
                masks[f, b, r], weights[f, b, r] = piece.mask, piece.weight
    multipliers = np.array([spec.multiplier for spec in specs], dtype=np.uint64)
    return RowArithmetic(words, shifts, masks, weights, offsets, multipliers)


def residue_arithmetic(
    specs: Sequence[LookupSpec], zero_row: int = 0, starts: Sequence[int] = (0,)
) -> ResidueArithmetic:
    """Arrays for hash specifications over one table, all with the same number of bits.

    Args: see row_arithmetic.
    """
    shape = (len(specs), max(len(spec.residues) for spec in specs))
    multipliers = np.ones(shape, dtype=np.uint64)
    moduli, divisors = np.ones((2, *shape), dtype=np.int64)
    offsets = np.full(shape, zero_row, dtype=np.int64)
    for f, spec in enumerate(specs):
        for b, residue in enumerate(spec.residues):
            multipliers[f, b] = residue.multiplier
            moduli[f, b], divisors[f, b] = residue.modulus, residue.divisor
            offsets[f, b] = residue.offset + starts[f]
    high = specs[0].residues[0].bits == HIGH_BITS
    return ResidueArithmetic(multipliers, moduli, divisors, offsets, high)


def cell_arithmetic(spec: LookupSpec) -> ResidueArithmetic:
    """Arrays [1, hashes + 1 + fingerprints] for `spec.retrieval_residues()`, in their order."""
    residues = spec.retrieval_residues()
    multipliers = np.array([[residue.multiplier for residue in residues]], dtype=np.uint64)
    moduli, divisors, offsets = (
        np.array([[getattr(residue, name) for residue in residues]], dtype=np.int64)
        for name in ("modulus", "divisor", "offset")
    )
    return ResidueArithmetic(multipliers, moduli, divisors, offsets, high=True)


def head_arithmetic(
    specs: Sequence[LookupSpec], zero_row: int = 0, starts: Sequence[int] = (0,)
) -> HeadArithmetic | None:
    """Arrays for the IDs of the heads; None where no specification has a head.

    Args: see row_arithmetic.
    """
    if not any(spec.head for spec in specs):
        return None
    places = max(spec.rows_per_id for spec in specs)
    heads = np.array([spec.head for spec in specs], dtype=np.int64)
    factors = np.ones((len(specs), places), dtype=np.int64)
    offsets = np.repeat(np.array(starts, dtype=np.int64)[:, None], places, axis=1)
    if specs[0].fuse == "concat":
        factors *= places
        offsets += np.arange(places)
    elif specs[0].fuse == "sum":
        factors[:, 1:], offsets[:, 1:] = 0, zero_row
    return HeadArithmetic(heads, factors, offsets)


def squeeze_single_input(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Constants [inputs, ...], without the first axis where there is a single input."""
    single: npt.NDArray[Any] = array[0]
    return array if len(array) > 1 else single


def split_words(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """64-bit numbers [...] as words [..., 2], the low one first."""
    words: npt.NDArray[np.int32] = np.ascontiguousarray(values, "<i8")[..., None].view(np.int32)
    return words
