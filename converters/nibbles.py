"""Two 4-bit codes to a byte, for targets that gather whole bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def pack_nibbles(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """int8 codes [rows, columns] to uint8 [rows, ceil(columns / 2)], even columns low."""
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    unsigned = codes.astype(np.int8).view(np.uint8) & 15
    return (unsigned[:, 0::2] | (unsigned[:, 1::2] << np.uint8(4))).astype(np.uint8)


def _pairs() -> npt.NDArray[np.float32]:
    byte = np.arange(256)
    nibbles = np.stack([byte & 15, byte >> 4], axis=1)
    return np.where(nibbles >= 8, nibbles - 16, nibbles).astype(np.float32)


# Row b holds the two signed codes of byte b, as float32 [256, 2].
NIBBLE_PAIRS = _pairs()
