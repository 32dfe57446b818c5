"""The arithmetic from IDs to table rows as constant arrays, for targets that vectorise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ondevice.spec import LookupSpec

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


def row_arithmetic(
    specs: Sequence[LookupSpec], word_bits: Literal[32, 64], zero_row: int = 0
) -> RowArithmetic:
    """Arrays for binary-code specifications over one table.

    Args:
        specs: they may differ in number and shape of blocks, and in their multipliers.
        word_bits: size of the words that the target shifts.
        zero_row: a row of zeros, read in the place of blocks that a specification lacks.
    """
    pieces = [spec.pieces(word_bits) for spec in specs]
    blocks = max(len(spec.blocks) for spec in specs)
    runs = max(len(block) for spec_pieces in pieces for block in spec_pieces)
    words, shifts, masks, weights = np.zeros((4, len(specs), blocks, runs), dtype=np.int64)
    offsets = np.full((len(specs), blocks), zero_row, dtype=np.int64)
    for f, spec in enumerate(specs):
        for b, (block, block_pieces) in enumerate(zip(spec.blocks, pieces[f], strict=True)):
            offsets[f, b] = block.offset
            words[f, b] = block_pieces[0].word
            for r, piece in enumerate(block_pieces):
                words[f, b, r], shifts[f, b, r] = piece.word, piece.shift
                masks[f, b, r], weights[f, b, r] = piece.mask, piece.weight
    multipliers = np.array([spec.multiplier for spec in specs], dtype=np.uint64)
    return RowArithmetic(words, shifts, masks, weights, offsets, multipliers)
