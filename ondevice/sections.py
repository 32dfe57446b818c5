"""Tables in sections: consecutive rows, by falling frequency, each with its own codec and width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.codecs import (
    BITS,
    CODECS,
    Codec,
    FloatArray,
    QuantTable,
    ScaleAxis,
    checked_table,
    quantise,
)
from ondevice.errors import SpecError
from ondevice.limits import MAX_DIM, MAX_ROWS, MAX_SECTIONS

SYNTAX = "CODEC[xWIDTH][:ROWS], separated by commas, as in q8:1000,q4x8:20000,q1x4"

_PART = re.compile(r"([a-z][0-9]{1,2})(?:x([0-9]{1,4}))?(?::([0-9]{1,10}))?")


@dataclass(frozen=True)
class Section:
    """How consecutive rows of a table are stored.

    Attributes:
        rows: how many rows; None, in the last section only, for all that remain.
        codec: how a value is stored.
        width: how many values of each row, from the first on, are stored; None for all. The others
            are zero.
        scale_axis: what a scale belongs to; None for the axis of least error at equal bytes.
    """

    rows: int | None
    codec: Codec
    width: int | None = None
    scale_axis: ScaleAxis | None = None

    def __post_init__(self) -> None:
        """Check the numbers. Raises SpecError."""
        if self.codec not in CODECS:
            raise SpecError(
                f"section: unknown codec {self.codec!r}; choose from {', '.join(CODECS)}"
            )
        if self.rows is not None and not 1 <= self.rows <= MAX_ROWS:
            raise SpecError(f"section: rows must be 1..{MAX_ROWS}, got {self.rows}")
        if self.width is not None and not 1 <= self.width <= MAX_DIM:
            raise SpecError(f"section: width must be 1..{MAX_DIM}, got {self.width}")

    def __str__(self) -> str:
        """The text that `parse_sections` reads; it lacks the scale axis."""
        width = "" if self.width is None else f"x{self.width}"
        return f"{self.codec}{width}" + ("" if self.rows is None else f":{self.rows}")


Sections = tuple[Section, ...]
# How a table is stored: one codec for all rows, or sections.
TableCodec = Codec | Sections


def table_codec(value: str | Sequence[Section]) -> TableCodec:
    """A codec's name, the text of sections, or sections, checked. Raises SpecError."""
    if not isinstance(value, str):
        check_sections(value)
        return tuple(value)
    if value in CODECS:
        return value
    if re.search("[x:,]", value) is None:
        raise SpecError(
            f"unknown codec {value!r}; choose from {', '.join(CODECS)}, or sections: {SYNTAX}"
        )
    return parse_sections(value)


def codec_text(codec: TableCodec) -> str:
    """The text that `table_codec` reads."""
    return codec if isinstance(codec, str) else sections_text(codec)


def parse_sections(text: str) -> Sections:
    """Read sections from their text, SYNTAX.

    Raises:
        SpecError: the text has another form, or a section lacks rows and is not the last.
    """
    sections = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise SpecError(f"sections {text!r}: cannot read {part!r}; expected {SYNTAX}")
        codec, width, rows = match.groups()
        if codec not in CODECS:
            raise SpecError(
                f"sections {text!r}: unknown codec {codec!r}; choose from {', '.join(CODECS)}"
            )
        sections.append(
            Section(
                None if rows is None else int(rows), codec, None if width is None else int(width)
            )
        )
    check_sections(sections)
    return tuple(sections)


def sections_text(sections: Sequence[Section]) -> str:
    """The text of sections, which `parse_sections` reads."""
    return ",".join(map(str, sections))


def check_sections(sections: Sequence[Section]) -> None:
    """Check what can be checked without the table. Raises SpecError."""
    if not 1 <= len(sections) <= MAX_SECTIONS:
        raise SpecError(f"a table has 1 to {MAX_SECTIONS} sections, got {len(sections)}")
    for number, section in enumerate(sections[:-1]):
        if section.rows is None:
            raise SpecError(
                f"sections {sections_text(sections)!r}: only the last may lack its rows, but "
                f"number {number + 1} ({section.codec}) has none; expected {SYNTAX}"
            )


def resolve_sections(sections: Sequence[Section], rows: int, dim: int) -> Sections:
    """The sections of a table [rows, dim], all with rows and a width.

    Raises:
        SpecError: they have another number of rows in all, or a width beyond the table's.
    """
    check_sections(sections)
    text = sections_text(sections)
    known = sum(section.rows or 0 for section in sections)
    last = sections[-1].rows
    if known > rows or (last is None and known == rows) or (last is not None and known < rows):
        raise SpecError(f"sections {text!r} are for {known} rows, the table has {rows}")
    resolved = []
    for section in sections:
        width = dim if section.width is None else section.width
        if width > dim:
            raise SpecError(f"sections {text!r}: width {width}, but the table has {dim} columns")
        count = rows - known if section.rows is None else section.rows
        resolved.append(Section(count, section.codec, width, section.scale_axis))
    return tuple(resolved)


@dataclass(frozen=True)
class SectionedTable:
    """A quantised table [rows, dim] whose sections are tables of their own.

    Attributes:
        dim: width of a whole row.
        sections: in the order of their rows; a section may be narrower than `dim`, and the values
            that it lacks are zero.
    """

    dim: int
    sections: tuple[QuantTable, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(section.rows for section in self.sections)

    @property
    def bits(self) -> int:
        """Bits of all kept values and scales, as the native file stores them."""
        return sum(map(_stored_bits, self.sections))

    def dequantise(self) -> FloatArray:
        """The table as float32 [rows, dim]."""
        parts = [section.dequantise() for section in self.sections]
        return np.concatenate(
            [np.pad(part, ((0, 0), (0, self.dim - part.shape[1]))) for part in parts]
        )


def quantise_sections(
    table: npt.ArrayLike,
    sections: Sequence[Section],
    counts: npt.ArrayLike | None = None,
    *,
    widths: npt.ArrayLike | None = None,
) -> SectionedTable:
    """Quantise a float32 table [rows, dim] section by section; see `codecs.quantise`.

    Args:
        table: float32 [rows, dim], its rows by falling frequency.
        sections: in the order of the rows.
        counts: how often each row is read [rows], the weights of its error; None: rows count alike.
        widths: kept values of each row, integers [rows]; None: all that the section stores.

    Raises:
        SpecError: sections that do not fit the table, or what `quantise` refuses.
    """
    values = checked_table(table, "f32")
    resolved = resolve_sections(sections, *values.shape)
    weights = None if counts is None else np.asarray(counts)
    if weights is not None and weights.shape != (len(values),):
        raise SpecError(f"counts must have shape [{len(values)}], got {list(weights.shape)}")
    kept = None if widths is None else np.asarray(widths)
    if kept is not None and kept.shape != (len(values),):
        raise SpecError(f"widths must have shape [{len(values)}], got {list(kept.shape)}")
    parts, start = [], 0
    for section in resolved:
        width = section.width or 0
        rows = slice(start, start + (section.rows or 0))
        parts.append(
            quantise(
                values[rows, :width],
                section.codec,
                widths=None if kept is None else np.minimum(kept[rows], width),
                scale_axis=section.scale_axis,
                counts=None if weights is None else weights[rows],
            )
        )
        start = rows.stop
    return SectionedTable(values.shape[1], tuple(parts))


def _stored_bits(table: QuantTable) -> int:
    values = table.rows * table.dim if table.widths is None else int(table.widths.sum())
    scales = 0 if table.scales is None else 8 * table.scales.nbytes
    return values * BITS[table.codec] + scales
