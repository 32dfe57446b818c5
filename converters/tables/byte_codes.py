"""Codes of 4 bits and fewer in bytes, for targets that gather whole bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import BITS, Codec


def fill_bytes(codec: Codec) -> bool:
    """Whether whole codes fill a byte; others continue in the next byte."""
    return BITS[codec] % 8 == 0 or 8 % BITS[codec] == 0


def codes_per_byte(codec: Codec) -> int:
    """Codes of a narrow codec that fit a byte."""
    return 8 // BITS[codec]


def pack_codes(
    codes: npt.NDArray[Any], codec: Codec, rows_share_bytes: bool = False
) -> npt.NDArray[np.uint8]:
    """Codes [rows, columns] as bytes; the lowest bits of a byte hold the first of its codes.

    Returns:
        uint8 [rows, ceil(columns / codes_per_byte)]; where rows share bytes, the codes of all rows
        one after another, uint8 [ceil(rows * columns * bits / 8)]; they must where codes do not
        fill bytes.
    """
    if not fill_bytes(codec):
        flat = codes.reshape(-1).astype(np.int8).view(np.uint8)
        single = flat[:, None] >> np.arange(BITS[codec], dtype=np.uint8) & np.uint8(1)
        return np.packbits(single, bitorder="little")
    if rows_share_bytes:
        return pack_codes(codes.reshape(1, -1), codec).reshape(-1)
    per_byte, bits = codes_per_byte(codec), BITS[codec]
    if padding := -codes.shape[1] % per_byte:
        codes = np.pad(codes, ((0, 0), (0, padding)))
    unsigned = codes.astype(np.int8).view(np.uint8) & np.uint8(2**bits - 1)
    packed = unsigned[:, 0::per_byte].copy()
    for number in range(1, per_byte):
        packed |= unsigned[:, number::per_byte] << np.uint8(bits * number)
    return packed


def byte_codes(codec: Codec) -> npt.NDArray[np.float32]:
    """The signed codes of every byte, as float32 [256, codes_per_byte]."""
    bits = BITS[codec]
    shifts = np.arange(0, 8, bits)
    codes = np.arange(256)[:, None] >> shifts & (2**bits - 1)
    signed: npt.NDArray[np.int64] = np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes)
    return signed.astype(np.float32)
