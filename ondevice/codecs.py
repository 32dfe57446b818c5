"""The row codecs (f32, f16, q8 to q1): the one quantisation rule, tables of quantised rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ondevice.errors import SpecError
from ondevice.levels import exact_levels, fit_levels, level_codes, read_levels
from ondevice.limits import MAX_LEVEL_BITS

# The list of codecs for Python; the C engine has its own (core/codecs.c), which a test compares.
# What else a codec touches: CONTRIBUTING.md.
FloatCodec = Literal["f32", "f16"]  # values as they are, without scales
NarrowCodec = Literal["q4", "q3", "q2", "q1"]  # values of less than a byte
DenseCodec = Literal[FloatCodec, "q8"]  # what dense layers are stored in
Codec = Literal[DenseCodec, NarrowCodec]  # what table rows are stored in
DenseArithmetic = Literal["bf16"]  # in place of float32, where `load` asks for it
ScaleAxis = Literal["row", "column", "levels"]

FLOAT_CODECS: tuple[FloatCodec, ...] = get_args(FloatCodec)
NARROW_CODECS: tuple[NarrowCodec, ...] = get_args(NarrowCodec)
DENSE_CODECS: tuple[DenseCodec, ...] = get_args(DenseCodec)
DENSE_ARITHMETICS: tuple[DenseArithmetic, ...] = get_args(DenseArithmetic)
CODECS: tuple[Codec, ...] = get_args(Codec)
BITS: dict[Codec, int] = {"f32": 32, "f16": 16, "q8": 8, "q4": 4, "q3": 3, "q2": 2, "q1": 1}
# Lowest and highest code. Narrow codecs use all codes that two's complement has, zero among them:
# dropped dimensions and padding stay exactly zero.
# With fitted levels codes are 0 .. 2**bits - 1 instead.
CODE_RANGE: dict[Codec, tuple[int, int]] = {
    "q8": (-127, 127),
    "q4": (-8, 7),
    "q3": (-4, 3),
    "q2": (-2, 1),
    "q1": (-1, 0),
}
INTEGER_CODECS = tuple(CODE_RANGE)
# Codecs that get levels where these have the lower error; q4 gains nothing (docs/codecs.md).
FITTED_CODECS: tuple[Codec, ...] = ("q3", "q2", "q1")

# Scales tried for a narrow codec, as shares of the scale that clips nothing. Trained columns have
# outliers at tens of standard deviations; a row is short, and its largest value a few.
COLUMN_CLIPS = tuple(0.9**k for k in range(32))
ROW_CLIPS = tuple(0.9**k for k in range(10))
# Values of the rows, evenly spaced, that decide about column scales and about the scale axis.
SAMPLE_VALUES = 2**20
# Rows whose scales are searched at once: temporaries stay within a processor's cache.
SEARCH_ROWS = 4096
# Bytes of float32 values that are quantised or written at once, for the same reason.
CHUNK_BYTES = 2**20
ROW_UNIT = 64  # chunks begin at multiples: rows that share a byte or a group are in one chunk
LARGEST_F16 = 65504

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class TablePart(Protocol):
    """Rows of a quantised table that are computed a chunk at a time."""

    def chunks(self) -> Iterator[QuantTable]:
        """The rows in order, in tables of `chunk_rows(dim)` rows; the last one may be shorter."""


class StoredSection(Protocol):
    """Rows of one codec as a writer of files sees them, whether or not they are in memory."""

    @property
    def codec(self) -> Codec:
        """How one value is stored."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def dim(self) -> int:
        """Width of a whole row."""

    @property
    def scale_axis(self) -> ScaleAxis | None:
        """What a scale belongs to, or None when the codec has no scales."""

    @property
    def column_scales(self) -> FloatArray | None:
        """Column scales float32 [dim], or None when the table has none."""

    @property
    def levels(self) -> FloatArray | None:
        """Codebooks float32 [dim, 2**bits], or None when the table has none."""

    @property
    def widths(self) -> npt.NDArray[np.integer] | None:
        """Kept dimensions per row [rows], or None when every row is whole."""

    @property
    def parts(self) -> tuple[TablePart, ...]:
        """The parts whose rows, in order, are the table's; for most tables, the table itself."""


class StoredTable(Protocol):
    """A quantised table as a writer of files sees it."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def dim(self) -> int:
        """Width of a whole row."""

    @property
    def sections(self) -> tuple[StoredSection, ...]:
        """Consecutive rows, each of one codec; of most tables, all rows.

        A section may be narrower than the table; the values that it lacks are zero.
        """


def value_dtype(codec: Codec) -> np.dtype[Any]:
    """The dtype of QuantTable.values."""
    return np.dtype({"f32": np.float32, "f16": np.float16}.get(codec, np.int8))


def chunk_rows(dim: int) -> int:
    """How many rows of a table to work on at once."""
    return max(1, CHUNK_BYTES // (4 * dim * ROW_UNIT)) * ROW_UNIT


@dataclass(frozen=True)
class QuantTable:
    """An embedding table after quantisation, each row cut to its kept width.

    Attributes:
        codec: how one value is stored.
        values: [rows, dim]; int8 codes of integer codecs, float16 or float32 otherwise. Entries
            beyond a row's width are zero, or the code of the level zero.
        scales: float16 [rows] (one per row), float32 [dim] (one per column), float32
            [dim, 2**bits] (levels: every column's codebook), or None for f16, f32.
        widths: uint8 or uint16 [rows], kept dimensions per row, or None when every row is whole.

    A value is float32(code) * float32(scale), one float32 multiplication in every executor; with
    levels it is the level of its column that the code counts to.
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
        if self.scales.ndim == 2:
            return "levels"
        return "row" if self.scales.dtype == np.float16 else "column"

    @property
    def column_scales(self) -> FloatArray | None:
        """Column scales float32 [dim], or None when the table has none."""
        if self.scales is None or self.scale_axis != "column":
            return None
        return self.scales.astype(np.float32, copy=False)

    @property
    def levels(self) -> FloatArray | None:
        """Codebooks float32 [dim, 2**bits], or None when the table has none."""
        if self.scales is None or self.scale_axis != "levels":
            return None
        return self.scales.astype(np.float32, copy=False)

    @property
    def parts(self) -> tuple[QuantTable]:
        """See `StoredSection`."""
        return (self,)

    @property
    def sections(self) -> tuple[QuantTable]:
        """See `StoredTable`."""
        return (self,)

    def chunks(self) -> Iterator[QuantTable]:
        """See `TablePart`; the chunks are views."""
        step = chunk_rows(self.dim)
        for start in range(0, self.rows, step):
            part = slice(start, start + step)
            scales = self.scales if self.scale_axis != "row" else np.asarray(self.scales)[part]
            widths = None if self.widths is None else self.widths[part]
            yield QuantTable(self.codec, self.values[part], scales, widths)

    def dequantise(self) -> FloatArray:
        """The table as float32 [rows, dim]."""
        if self.levels is not None:
            codes = self.values.astype(np.int8, copy=False)
            return _masked(read_levels(codes, self.levels), self.widths)
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
    counts: npt.ArrayLike | None = None,
) -> QuantTable:
    """Quantise a float32 table [rows, dim], keeping the first widths[i] values of row i.

    A code is round-half-even(value / scale), kept within CODE_RANGE. q8: scale = largest |value|
    / 127. Narrow codecs: the value furthest from zero, divided by the lowest code (a scale may be
    negative), times the factor of COLUMN_CLIPS or ROW_CLIPS with the least squared error:
    clipping a few values makes all others finer. Row scales are float16, column scales float32.
    With levels, a code is that of the nearest level of the column (`levels.fit_levels`).
    Without `scale_axis`, the axis of `_axes` with the lowest error at equal bytes is taken.

    Args:
        table: float32 [rows, dim].
        codec: how a value is stored.
        widths: kept values of each row, integers [rows]; None: all.
        scale_axis: what a scale belongs to.
        counts: how often each row is read [rows], at least 0: what its squared error counts where
            levels are fitted and the axis is chosen; None: rows count alike.

    Raises:
        SpecError: wrong shape, non-finite values, widths out of 0..dim, unknown codec, values
            too large for float16, levels of more than 4 bits, or counts that are no weights.
    """
    values = checked_table(table, codec)
    row_widths = checked_widths(widths, values.shape)
    weights = _checked_counts(counts, len(values))
    survey = Survey(*values.shape)
    survey.add(values, row_widths, weights)
    return quantise_rows(values, codec, row_widths, survey.scales(codec, scale_axis))


@dataclass(frozen=True)
class _Sample:
    """Rows of a table that stand for all of it: values float32 [n, dim], zero beyond the widths."""

    values: FloatArray
    widths: npt.NDArray[np.integer] | None
    weights: npt.NDArray[np.float64] | None


class Survey:
    """Statistics of a table that its scales are chosen by, gathered chunk by chunk.

    Attributes:
        lowest, highest: float32 [dim], the range of every column's kept values, zero included.
    """

    def __init__(self, rows: int, dim: int) -> None:
        """Start with nothing seen of a table [rows, dim]."""
        self.lowest = np.zeros(dim, dtype=np.float32)
        self.highest = np.zeros(dim, dtype=np.float32)
        self._seen = 0
        self._step = max(1, -(-rows * dim // SAMPLE_VALUES))
        self._samples: list[_Sample] = []
        # the different values of each column while they are few; a table that was rounded to
        # levels before gets exactly these again, also the rare ones that no sample shows
        self._few: list[FloatArray | None] = [np.empty(0, np.float32)] * dim

    def add(
        self,
        values: FloatArray,
        widths: npt.NDArray[np.integer] | None,
        weights: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Take the next rows float32 [n, dim], their kept widths [n] and weights float64 [n].

        Raises:
            SpecError: a value is not finite.
        """
        low, high = _bounds(values)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            row = self._seen + int(np.argwhere(~np.isfinite(values))[0, 0])
            raise SpecError(f"the table has a value that is not finite, first in row {row}")
        masked = _masked(values, widths)
        if widths is not None:
            low, high = _bounds(masked)
        self.lowest = np.minimum(self.lowest, low)
        self.highest = np.maximum(self.highest, high)
        if self._step > 1:
            self._add_few(values, widths)
        chosen = slice(-self._seen % self._step, None, self._step)
        self._samples.append(
            _Sample(
                masked[chosen].copy(),
                None if widths is None else widths[chosen].copy(),
                None if weights is None else weights[chosen].copy(),
            )
        )
        self._seen += len(values)

    def scales(self, codec: Codec, axis: ScaleAxis | None = None) -> FloatArray | None:
        """What `quantise_rows` needs: column scales [dim], levels [dim, 2**bits], or None.

        Args:
            codec: how the values will be stored.
            axis: what a scale is to belong to; by default the best, see `quantise`.

        Returns:
            float32; None where rows have scales, or the codec has none.

        Raises:
            SpecError: values too large for the codec, or levels for one of more than 4 bits.
        """
        peak = float(max(self.highest.max(), -self.lowest.min()))
        if codec == "f16" and peak > LARGEST_F16:
            raise SpecError("f16 holds values up to 65504; the table has larger ones: use f32")
        if codec in FLOAT_CODECS:
            return None
        fits = peak / -CODE_RANGE[codec][0] <= LARGEST_F16
        if axis == "row" and not fits:
            raise SpecError(f"{codec}: a row's scale exceeds float16; use scale_axis='column'")
        if axis == "levels" and BITS[codec] > MAX_LEVEL_BITS:
            raise SpecError(f"levels are for codecs of at most {MAX_LEVEL_BITS} bits, not {codec}")
        if axis is not None:
            return self._scales_of(codec, axis, self._sample())
        sample = self._sample()
        candidates = {
            choice: self._scales_of(codec, choice, sample)
            for choice in _axes(codec, len(self.lowest), fits)
        }
        errors = {
            choice: self._error_at_equal_bytes(codec, scales, sample)
            for choice, scales in candidates.items()
            if len(candidates) > 1
        }
        return candidates[min(candidates, key=lambda choice: errors.get(choice, 0.0))]

    def _scales_of(self, codec: Codec, axis: ScaleAxis, sample: _Sample) -> FloatArray | None:
        if axis == "row":
            return None
        if axis == "levels":
            return self._levels(codec, sample)
        scales = _unclipped_scales(self.lowest, self.highest, codec)
        if codec == "q8":
            return scales
        candidates = [scales * np.float32(clip) for clip in COLUMN_CLIPS]
        best: FloatArray = _best(sample.values, candidates, codec, axis=0)
        return best

    def _levels(self, codec: Codec, sample: _Sample) -> FloatArray:
        kept = None
        if sample.widths is not None:
            kept = np.arange(len(self.lowest)) < sample.widths[:, None]
        levels = fit_levels(sample.values, BITS[codec], sample.weights, kept)
        for column, few in enumerate(self._few):
            if self._step > 1 and few is not None:
                exact = exact_levels(few, levels.shape[1], with_zero=kept is not None)
                levels[column] = levels[column] if exact is None else exact
        return levels

    def _add_few(self, values: FloatArray, widths: npt.NDArray[np.integer] | None) -> None:
        for column, few in enumerate(self._few):
            if few is None:
                continue
            cells = values[:, column] if widths is None else values[widths > column, column]
            for part in (cells[:ROW_UNIT], cells):  # of most tables the first part has too many
                few = np.unique(np.concatenate([few, part]))
                if len(few) > 2**MAX_LEVEL_BITS:
                    few = None
                    break
            self._few[column] = few

    def _sample(self) -> _Sample:
        widths = [part.widths for part in self._samples if part.widths is not None]
        weights = [part.weights for part in self._samples if part.weights is not None]
        return _Sample(
            np.concatenate([part.values for part in self._samples]),
            np.concatenate(widths) if widths else None,
            np.concatenate(weights) if weights else None,
        )

    def _error_at_equal_bytes(
        self, codec: Codec, scales: FloatArray | None, sample: _Sample
    ) -> float:
        """Log2 of the root mean square error, plus the bits spent per kept value.

        One bit more halves the rounding error, so the sum compares tables of unequal size as if
        they had the same number of bytes.
        """
        rows, dim = sample.values.shape
        kept = rows * dim if sample.widths is None else int(sample.widths.sum())
        scale_bits = 16 * rows if scales is None else 32 * scales.size * rows / self._seen
        if kept == 0:
            return float(scale_bits)
        table = quantise_rows(sample.values, codec, sample.widths, scales)
        squares = np.mean((table.dequantise() - sample.values) ** 2, axis=1, dtype=np.float64)
        error = float(np.sqrt(np.average(squares, weights=sample.weights)))
        bits = BITS[codec] + float(scale_bits) / kept
        return float(np.log2(max(error, 1e-30))) + bits


def _axes(codec: Codec, dim: int, row_scales_fit: bool) -> tuple[ScaleAxis, ...]:
    """What scales may belong to where nobody chose it; of equals, the first is taken.

    One value a row has no row scale: it would be two to eight times its value.
    """
    axes: tuple[ScaleAxis, ...] = (
        ("column",) if dim == 1 or not row_scales_fit else ("row", "column")
    )
    return (*axes, "levels") if codec in FITTED_CODECS else axes


def quantise_rows(
    values: FloatArray,
    codec: Codec,
    widths: npt.NDArray[np.integer] | None,
    table_scales: FloatArray | None,
) -> QuantTable:
    """Quantise rows float32 [n, dim] of a table, by the result of `Survey.scales`.

    Row by row, so that pieces of a table give the same as the table.
    """
    masked = _masked(values, widths)
    if codec == "f32":
        return QuantTable(codec, masked, widths=widths)
    if codec == "f16":
        return QuantTable(codec, masked.astype(np.float16), widths=widths)
    if table_scales is not None and table_scales.ndim == 2:
        return QuantTable(codec, level_codes(masked, table_scales), table_scales, widths)
    if table_scales is not None:
        return QuantTable(codec, _codes(masked, table_scales, codec), table_scales, widths)
    scales = np.empty(len(masked), dtype=np.float16)
    codes = np.empty(masked.shape, dtype=np.int8)
    for start in range(0, len(masked), SEARCH_ROWS):
        part = slice(start, start + SEARCH_ROWS)
        scales[part] = _row_scales(masked[part], codec)
        codes[part] = _codes(masked[part], scales[part, None], codec)
    return QuantTable(codec, codes, scales, widths)


def _row_scales(values: FloatArray, codec: Codec) -> npt.NDArray[np.float16]:
    turned = np.ascontiguousarray(values.T)  # numpy reduces narrow rows ten times slower
    whole = _unclipped_scales(turned.min(axis=0), turned.max(axis=0), codec)
    clips = (1.0,) if codec == "q8" else ROW_CLIPS
    candidates = [(whole * np.float32(clip)).astype(np.float16) for clip in clips]
    best: npt.NDArray[np.float16] = _best(values, candidates, codec, axis=1)
    return best


def _masked(values: FloatArray, widths: npt.NDArray[np.integer] | None) -> FloatArray:
    if widths is None:
        return values
    return np.where(np.arange(values.shape[1]) < widths[:, None], values, np.float32(0))


def _bounds(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least and greatest value of every column, each float32 [dim]."""
    rows, dim = values.shape
    group = ROW_UNIT if rows % ROW_UNIT == 0 else 1  # numpy reduces narrow rows ten times slower
    grouped = values.reshape(rows // group, group * dim)
    low, high = grouped.min(axis=0).reshape(-1, dim), grouped.max(axis=0).reshape(-1, dim)
    return low.min(axis=0), high.max(axis=0)


def checked_table(table: npt.ArrayLike, codec: str) -> FloatArray:
    """A table as float32 [rows, dim]. Raises SpecError: unknown codec, or another shape."""
    values = np.asarray(table, dtype=np.float32)
    if codec not in CODECS:
        raise SpecError(f"unknown codec {codec!r}; choose from {', '.join(CODECS)}")
    if values.ndim != 2 or 0 in values.shape:
        raise SpecError(f"a table must have shape [rows, dim], got {list(values.shape)}")
    return values


def checked_widths(
    widths: npt.ArrayLike | None, shape: tuple[int, ...]
) -> npt.NDArray[np.integer] | None:
    """Kept widths of a table's rows as they are stored, None where all rows are whole.

    Raises:
        SpecError: not integers [rows] of 0..dim.
    """
    if widths is None:
        return None
    checked = np.asarray(widths)
    if checked.shape != shape[:1] or not np.issubdtype(checked.dtype, np.integer):
        raise SpecError(
            f"widths must be integers of shape [{shape[0]}], "
            f"got {checked.dtype} {list(checked.shape)}"
        )
    if checked.min() < 0 or checked.max() > shape[1]:
        raise SpecError(f"widths must be 0..{shape[1]}, got {checked.min()}..{checked.max()}")
    if checked.min() == shape[1]:
        return None
    return checked.astype(np.uint8 if shape[1] < 256 else np.uint16)


def _checked_counts(counts: npt.ArrayLike | None, rows: int) -> npt.NDArray[np.float64] | None:
    if counts is None:
        return None
    weights = np.asarray(counts, dtype=np.float64)
    if weights.shape != (rows,):
        raise SpecError(f"counts must have shape [{rows}], got {list(weights.shape)}")
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise SpecError("counts must be finite and at least 0")
    return weights if weights.any() else None


def _unclipped_scales(low: FloatArray, high: FloatArray, codec: Codec) -> FloatArray:
    """The scales [n] with which the value furthest from zero fits, of ranges [n]."""
    lowest, highest = CODE_RANGE[codec]
    if lowest == -highest:
        furthest, code = np.maximum(high, -low), highest
    else:
        furthest, code = np.where(high > -low, high, low), lowest
    return (furthest / np.float32(code)).astype(np.float32)


def _best(
    values: FloatArray, candidates: list[npt.NDArray[Any]], codec: Codec, axis: int
) -> npt.NDArray[Any]:
    """For each row (axis 1) or column (0) the candidate scale with the least squared error."""
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
    if divisor.shape == (len(values), 1):  # numpy broadcasts along narrow rows slowly
        divisor = np.repeat(divisor, values.shape[1]).reshape(values.shape)
    if divisor.all():
        codes = np.divide(values, divisor)
    else:
        codes = np.divide(values, divisor, out=np.zeros_like(values), where=divisor != 0)
    return np.clip(np.rint(codes, out=codes), lowest, highest, out=codes).astype(np.int8)
