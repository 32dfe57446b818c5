"""Codes of 4 and 2 bits in bytes, for targets that gather whole bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import BITS, Codec


def codes_per_byte(codec: Codec) -> int:
    """Codes of a narrow codec that fit a byte."""
    return 8 // BITS[codec]


def pack_codes(codes: npt.NDArray[Any], codec: Codec) -> npt.NDArray[np.uint8]:
    """int8 codes [rows, columns] to uint8 [rows, ceil(columns / codes_per_byte)], first low."""
    each, bits = codes_per_byte(codec), BITS[codec]
    if fill := -codes.shape[1] % each:
        codes = np.pad(codes, ((0, 0), (0, fill)))
    unsigned = codes.astype(np.int8).view(np.uint8) & np.uint8(2**bits - 1)
    packed = unsigned[:, 0::each].copy()
    for number in range(1, each):
        packed |= unsigned[:, number::each] << np.uint8(bits * number)
    return packed


def byte_codes(codec: Codec) -> npt.NDArray[np.float32]:
    """Row b holds the signed codes of byte b, as float32 [256, codes_per_byte]."""
    bits = BITS[codec]
    shifts = np.arange(0, 8, bits)
    codes = np.arange(256)[:, None] >> shifts & (2**bits - 1)
    signed: npt.NDArray[np.int64] = np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes)
    return signed.astype(np.float32)
