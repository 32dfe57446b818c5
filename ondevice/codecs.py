"""The row codecs (f32, f16, q8, q4, q2): the one quantisation rule, tables of quantised rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import SpecError

Codec = Literal["f32", "f16", "q8", "q4", "q2"]
ScaleAxis = Literal["row", "column"]

CODECS: tuple[Codec, ...] = ("f32", "f16", "q8", "q4", "q2")
BITS: dict[Codec, int] = {"f32": 32, "f16": 16, "q8": 8, "q4": 4, "q2": 2}
# Lowest and highest code. Narrow codecs use all codes that two's complement has, zero among them:
# dropped dimensions and padding stay exactly zero.
CODE_RANGE: dict[Codec, tuple[int, int]] = {"q8": (-127, 127), "q4": (-8, 7), "q2": (-2, 1)}

# Scales tried for a narrow codec, as shares of the scale that clips nothing. Trained columns have
# outliers at tens of standard deviations; a row is short, and its largest value a few.
COLUMN_CLIPS = tuple(0.9**k for k in range(32))
ROW_CLIPS = tuple(0.9**k for k in range(10))
# Rows that decide about a column's scale, and about the scale axis: evenly spaced, so that choosing
# is quick and a table can be quantised in pieces.
SAMPLE_ROWS = 2**16
# Rows whose scales are searched at once: temporaries stay within a processor's cache.
SEARCH_ROWS = 4096

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class QuantTable:
    """An embedding table after quantisation, each row cut to its kept width.

    Attributes:
        codec: how one value is stored.
        values: [rows, dim]; int8 codes for q8, q4 and q2, float16 or float32 otherwise. Entries
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

    A code is round-half-even(value / scale), kept within CODE_RANGE. q8: scale = largest |value|
    / 127. q4 and q2: the value furthest from zero, divided by the lowest code (a scale may be
    negative), times the one of COLUMN_CLIPS or ROW_CLIPS whose squared error is least: clipping
    a few values makes all others finer. Row scales are float16, column scales float32. Without
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
    return _quantise_integer(values, codec, kept, scale_axis or _better_axis(values, codec, kept))


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


def _better_axis(
    values: FloatArray, codec: Codec, widths: npt.NDArray[np.integer] | None
) -> ScaleAxis:
    if values.shape[1] == 1:
        return "column"  # a row's scale would be four to eight times its value
    sample = _sample(values)
    kept = None if widths is None else _sample(widths)
    axes: tuple[ScaleAxis, ...] = ("row", "column")
    return min(
        axes,
        key=lambda axis: _error_at_equal_bytes(
            _quantise_integer(sample, codec, kept, axis), sample
        ),
    )


def _sample(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """At most SAMPLE_ROWS of an array's rows, evenly spaced."""
    return array[:: -(-len(array) // SAMPLE_ROWS)]


def _quantise_integer(
    values: FloatArray,
    codec: Codec,
    widths: npt.NDArray[np.integer] | None,
    scale_axis: ScaleAxis,
) -> QuantTable:
    if scale_axis == "row":
        row_scales = _row_scales(values, codec)
        return QuantTable(codec, _codes(values, row_scales[:, None], codec), row_scales, widths)
    column_scales = _column_scales(values, codec)
    return QuantTable(codec, _codes(values, column_scales, codec), column_scales, widths)


def _row_scales(values: FloatArray, codec: Codec) -> npt.NDArray[np.float16]:
    scales = np.empty(len(values), dtype=np.float16)
    for start in range(0, len(values), SEARCH_ROWS):
        part = values[start : start + SEARCH_ROWS]
        whole = _unclipped_scales(part, codec, axis=1)
        if float(np.abs(whole).max()) > 65504:
            raise SpecError(f"{codec}: a row's scale exceeds float16; use scale_axis='column'")
        clips = (1.0,) if codec == "q8" else ROW_CLIPS
        candidates = [(whole * np.float32(clip)).astype(np.float16) for clip in clips]
        scales[start : start + SEARCH_ROWS] = _best(part, candidates, codec, axis=1)
    return scales


def _column_scales(values: FloatArray, codec: Codec) -> FloatArray:
    whole = _unclipped_scales(values, codec, axis=0)
    if codec == "q8":
        return whole
    candidates = [whole * np.float32(clip) for clip in COLUMN_CLIPS]
    scales: FloatArray = _best(_sample(values), candidates, codec, axis=0)
    return scales


def _unclipped_scales(values: FloatArray, codec: Codec, axis: int) -> FloatArray:
    """The scale of each row (axis 1) or column (0) with which the value furthest from zero fits."""
    low, high = values.min(axis), values.max(axis)
    lowest, highest = CODE_RANGE[codec]
    if lowest == -highest:
        scales: FloatArray = np.maximum(high, -low) / np.float32(highest)
    else:
        scales = np.where(high > -low, high, low) / np.float32(lowest)
    return scales


def _best(
    values: FloatArray, candidates: list[npt.NDArray[Any]], codec: Codec, axis: int
) -> npt.NDArray[Any]:
    """Of several scales a row (axis 1) or column (0), the one with the least squared error."""
    best = candidates[0]
    if len(candidates) == 1:
        return best
    least = np.full(best.shape, np.inf)
    for scales in candidates:
        spread = np.expand_dims(scales, axis)
        off = _codes(values, spread, codec) * spread.astype(np.float32) - values
        error = np.einsum("ij,ij->i" if axis == 1 else "ij,ij->j", off, off)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return best


def _codes(values: FloatArray, scales: npt.NDArray[Any], codec: Codec) -> npt.NDArray[np.int8]:
    """Codes int8 [rows, dim]; scales [rows, 1] or [dim].

    A scale of zero (an empty row, or one below float16's smallest step) stores zeros.
    """
    lowest, highest = CODE_RANGE[codec]
    divisor = scales.astype(np.float32)
    codes = np.divide(values, divisor, out=np.zeros_like(values), where=divisor != 0)
    return np.clip(np.rint(codes, out=codes), lowest, highest, out=codes).astype(np.int8)


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
