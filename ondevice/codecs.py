"""The row codecs (f32, f16, q8, q4): the one quantisation rule, and tables of quantised rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import SpecError

Codec = Literal["f32", "f16", "q8", "q4"]
ScaleAxis = Literal["row", "column"]

CODECS: tuple[Codec, ...] = ("f32", "f16", "q8", "q4")
BITS: dict[Codec, int] = {"f32": 32, "f16": 16, "q8": 8, "q4": 4}
LARGEST_CODE: dict[Codec, int] = {"q8": 127, "q4": 7}  # symmetric: the lowest code is unused

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class QuantTable:
    """An embedding table after quantisation, each row cut to its kept width.

    Attributes:
        codec: how one value is stored.
        values: [rows, dim]; int8 codes for q8 and q4, float16 or float32 otherwise. Entries
            beyond a row's width are zero.
        scales: float16 [rows] (one per row), float32 [dim] (one per column), or None for f16, f32.
        widths: uint8 or uint16 [rows], kept dimensions per row, or None when every row is whole.

    A value is float32(code) * float32(scale), one float32 multiplication in every executor.
    """

    codec: Codec
    values: npt.NDArray[np.generic]
    scales: npt.NDArray[np.generic] | None = None
    widths: npt.NDArray[np.integer] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def dim(self) -> int:
        """Width of a whole row."""
        return int(self.values.shape[1])

    @property
    def scale_axis(self) -> ScaleAxis | None:
        """What a scale belongs to, or None when the codec has no scales."""
        if self.scales is None:
            return None
        return "row" if self.scales.dtype == np.float16 else "column"

    def dequantise(self) -> FloatArray:
        """The table as float32 [rows, dim]."""
        values = self.values.astype(np.float32)
        if self.scales is None:
            return values
        scales = self.scales.astype(np.float32)
        return values * (scales[:, None] if self.scale_axis == "row" else scales)


def quantise(
    table: npt.ArrayLike,
    codec: Codec,
    *,
    widths: npt.ArrayLike | None = None,
    scale_axis: ScaleAxis | None = None,
) -> QuantTable:
    """Quantise a float32 table [rows, dim], keeping the first widths[i] values of row i.

    q8 and q4 are symmetric: code = round-half-even(value / scale), |code| <= 127 or 7, scale =
    largest |value| / largest code. Row scales are float16, column scales float32. Without
    `scale_axis` the better one is taken: the lower error after both are brought to equal bytes.

    Raises:
        SpecError: wrong shape, non-finite values, widths out of 0..dim, unknown codec, or values
            too large for float16.
    """
    values = _checked_table(table, codec)
    kept = _checked_widths(widths, values.shape)
    if kept is not None:
        values = np.where(np.arange(values.shape[1]) < kept[:, None], values, np.float32(0))
    if codec == "f32":
        return QuantTable(codec, values, widths=kept)
    if codec == "f16":
        if values.size and float(np.abs(values).max()) > 65504:
            raise SpecError("f16 holds values up to 65504; the table has larger ones: use f32")
        return QuantTable(codec, values.astype(np.float16), widths=kept)
    if scale_axis is not None:
        return _quantise_integer(values, codec, kept, scale_axis)
    choices = [_quantise_integer(values, codec, kept, axis) for axis in ("row", "column")]
    return min(choices, key=lambda choice: _error_at_equal_bytes(choice, values))


def _checked_table(table: npt.ArrayLike, codec: str) -> FloatArray:
    values = np.asarray(table, dtype=np.float32)
    if codec not in CODECS:
        raise SpecError(f"unknown codec {codec!r}; choose from {', '.join(CODECS)}")
    if values.ndim != 2 or 0 in values.shape:
        raise SpecError(f"a table must have shape [rows, dim], got {list(values.shape)}")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise SpecError(f"the table has a value that is not finite, first in row {row}")
    return values


def _checked_widths(
    widths: npt.ArrayLike | None, shape: tuple[int, ...]
) -> npt.NDArray[np.integer] | None:
    if widths is None:
        return None
    kept = np.asarray(widths)
    if kept.shape != shape[:1] or not np.issubdtype(kept.dtype, np.integer):
        raise SpecError(
            f"widths must be integers of shape [{shape[0]}], got {kept.dtype} {list(kept.shape)}"
        )
    if kept.min() < 0 or kept.max() > shape[1]:
        raise SpecError(f"widths must be 0..{shape[1]}, got {kept.min()}..{kept.max()}")
    if kept.min() == shape[1]:
        return None
    return kept.astype(np.uint8 if shape[1] < 256 else np.uint16)


def _quantise_integer(
    values: FloatArray,
    codec: Codec,
    widths: npt.NDArray[np.integer] | None,
    scale_axis: ScaleAxis,
) -> QuantTable:
    largest = LARGEST_CODE[codec]
    peaks = np.abs(values).max(axis=1 if scale_axis == "row" else 0)
    if scale_axis == "row":
        if float(peaks.max()) / largest > 65504:
            raise SpecError(f"{codec}: a row's scale exceeds float16; use scale_axis='column'")
        scales: npt.NDArray[np.generic] = (peaks / np.float32(largest)).astype(np.float16)
        divisor = scales.astype(np.float32)[:, None]
    else:
        scales = (peaks / np.float32(largest)).astype(np.float32)
        divisor = scales[None, :].astype(np.float32)
    # a scale of zero (an empty row, or one below float16's smallest step) stores zeros
    codes = np.divide(values, divisor, out=np.zeros_like(values), where=divisor > 0)
    codes = np.clip(np.rint(codes), -largest, largest)
    return QuantTable(codec, codes.astype(np.int8), scales, widths)


def _error_at_equal_bytes(table: QuantTable, values: FloatArray) -> float:
    """Log2 of the root mean square error, plus the bits spent per kept value.

    One bit more halves the rounding error, so the sum compares tables of unequal size as if
    they had the same number of bytes.
    """
    kept = table.rows * table.dim if table.widths is None else int(table.widths.sum())
    if kept == 0:
        return float(table.rows * 16 if table.scale_axis == "row" else 0)
    bits = kept * BITS[table.codec] + (16 * table.rows if table.scale_axis == "row" else 0)
    error = float(np.sqrt(np.mean((table.dequantise() - values) ** 2, dtype=np.float64)))
    return float(np.log2(max(error, 1e-30))) + bits / kept
