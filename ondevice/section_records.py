"""Tables in sections as the native file stores them: records of each section, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import FloatArray, StoredSection
from ondevice.container import Reserved
from ondevice.errors import FileFormatError
from ondevice.limits import MAX_DIM, MAX_ROWS, MAX_SECTIONS
from ondevice.records import (
    TAIL,
    TAIL_BYTES,
    Bytes,
    RecordLayout,
    RecordStream,
    RecordTable,
    stream_records,
)
from ondevice.sections import SectionedTable

SECTION_ALIGNMENT = 4  # bytes at which the records of a section begin: float32 may be among them


@dataclass(frozen=True)
class SectionedLayout:
    """The shape of a table in sections, as stored in the file's plan.

    Attributes:
        dim: width of a whole row; values that a narrower section lacks are zero.
        sections: in the order of their rows.
        payloads: bytes of the records of each section.
    """

    dim: int
    sections: tuple[RecordLayout, ...]
    payloads: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check every number, since a layout is read from files. Raises FileFormatError."""
        faults = []
        if type(self.dim) is not int or not 1 <= self.dim <= MAX_DIM:
            faults.append(f"dim must be 1..{MAX_DIM}, got {self.dim!r}")
        elif any(section.dim > self.dim for section in self.sections):
            faults.append(f"a section is wider than {self.dim}")
        if not 1 <= len(self.sections) <= MAX_SECTIONS:
            faults.append(f"1 to {MAX_SECTIONS} sections, got {len(self.sections)}")
        if any(section.width_bits is None for section in self.sections):
            faults.append("sections need width_bits")
        if self.rows > MAX_ROWS:
            faults.append(f"more than {MAX_ROWS} rows")
        if any(type(size) is not int or size < 0 for size in self.payloads):
            faults.append(f"bytes must be integers from 0 on, got {self.payloads}")
        if faults:
            raise FileFormatError("table in sections: " + "; ".join(faults))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(section.rows for section in self.sections)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        parts = [
            {**asdict(section), "bytes": size}
            for section, size in zip(self.sections, self.payloads, strict=True)
        ]
        return {"dim": self.dim, "sections": parts}

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> SectionedLayout:
        """Read what `to_json` wrote.

        Raises:
            FileFormatError: a number out of range.
            TypeError, ValueError, KeyError, AttributeError: another form.
        """
        if item.keys() != {"dim", "sections"}:
            raise ValueError(f"a table in sections has a dim and sections, got {sorted(item)}")
        parts = [dict(part) for part in item["sections"]]
        payloads = tuple(part.pop("bytes") for part in parts)
        return cls(item["dim"], tuple(RecordLayout(**part) for part in parts), payloads)


Layout = RecordLayout | SectionedLayout


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """A table's layout as a JSON-ready object."""
    return layout.to_json() if isinstance(layout, SectionedLayout) else asdict(layout)


def layout_from_json(item: dict[str, Any]) -> Layout:
    """Read what `layout_to_json` wrote; raises as `SectionedLayout.from_json`."""
    if "sections" in item:
        return SectionedLayout.from_json(item)
    if item.get("width_bits", 0) is None:  # absent in version 1, never null
        raise ValueError("width_bits is null")
    return RecordLayout(**item)


@dataclass(frozen=True)
class SectionedRecords:
    """A table in sections in its stored form; arrays may be views of a mapped file.

    Attributes:
        layout: what the arrays hold.
        records: uint8, the records of all sections, each begun at a multiple of SECTION_ALIGNMENT,
            and TAIL_BYTES zeros.
        index: uint8, the indexes of all sections; their offsets begin at the section's records.
        scales: float32, the column scales or levels of all sections.
    """

    layout: SectionedLayout
    records: Bytes
    index: Bytes
    scales: FloatArray

    @cached_property
    def sections(self) -> tuple[RecordTable, ...]:
        """The sections; their arrays are views. Sizes must be checked before."""
        parts = []
        record = group = scale = 0
        for layout, size in zip(self.layout.sections, self.layout.payloads, strict=True):
            parts.append(
                RecordTable(
                    layout,
                    self.records[record : record + size + TAIL_BYTES],
                    self.index[group : group + layout.index_bytes],
                    self.scales[scale : scale + layout.scale_count],
                )
            )
            record += _aligned(size)
            group += layout.index_bytes
            scale += layout.scale_count
        return tuple(parts)

    def check_sizes(self, name: str) -> None:
        """Check the arrays' sizes against the layout, without reading them.

        Raises:
            FileFormatError: a size disagrees.
        """
        layout = self.layout
        expected = {
            "records": sum(map(_aligned, layout.payloads)) + TAIL_BYTES,
            "index": sum(section.index_bytes for section in layout.sections),
            "scales": sum(section.scale_count for section in layout.sections),
        }
        for part, size in expected.items():
            if (stored := getattr(self, part).size) != size:
                raise FileFormatError(
                    f"table {name!r}: {part} of its sections have {stored} elements, "
                    f"expected {size}"
                )
        for number, section in enumerate(self.sections):
            section.check_sizes(f"{name} section {number}")

    def validate(self, name: str) -> None:
        """Check sizes, and that the indexes lead to the records.

        Raises:
            FileFormatError: a size or an offset disagrees.
        """
        self.check_sizes(name)
        for number, section in enumerate(self.sections):
            section.validate(f"{name} section {number}")

    def widths(self) -> npt.NDArray[np.int64]:
        """Kept dimensions of every row, int64 [rows]."""
        return np.concatenate([section.widths() for section in self.sections])

    def mean_width(self) -> float:
        """Mean of the kept dimensions of all rows."""
        kept = sum(section.mean_width() * section.layout.rows for section in self.sections)
        return kept / self.layout.rows

    def read(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Dequantised rows: int64 [...] row numbers, all in range -> float32 [..., dim].

        Raises:
            FileFormatError: the index of an unverified file leads outside the records.
        """
        flat = rows.reshape(-1)
        out = np.zeros((flat.size, self.layout.dim), dtype=np.float32)
        start = 0
        for section in self.sections:
            stop = start + section.layout.rows
            places = np.flatnonzero((flat >= start) & (flat < stop))
            if places.size:
                out[places, : section.layout.dim] = section.read(flat[places] - start)
            start = stop
        return out.reshape(*rows.shape, self.layout.dim)


@dataclass(frozen=True)
class SectionedStream:
    """A table in sections in its stored form, packed chunk by chunk.

    Its records are those of the streams, in order, each followed by `gap` zeros, then `TAIL`.
    """

    layout: SectionedLayout
    streams: tuple[RecordStream, ...]

    @property
    def records(self) -> Reserved:
        """Room for the records of all sections."""
        size = sum(map(_aligned, self.layout.payloads)) + TAIL_BYTES
        return Reserved(np.dtype(np.uint8), (size,))

    @property
    def index(self) -> Bytes:
        """The indexes of all sections."""
        return np.concatenate([stream.index for stream in self.streams])

    @property
    def scales(self) -> FloatArray:
        """The column scales or levels of all sections."""
        return np.concatenate([stream.scales for stream in self.streams])

    def gap(self, number: int) -> Bytes:
        """The zeros behind the records of a section."""
        size = self.layout.payloads[number]
        return np.zeros(_aligned(size) - size, dtype=np.uint8)


Records = RecordTable | SectionedRecords


def stream_sections(dim: int, sections: Sequence[StoredSection]) -> SectionedStream:
    """Store sections of a table of whole rows of `dim` values; see `records.stream_records`."""
    streams = tuple(map(stream_records, sections))
    payloads = tuple(stream.records.nbytes - TAIL_BYTES for stream in streams)
    layout = SectionedLayout(dim, tuple(stream.layout for stream in streams), payloads)
    return SectionedStream(layout, streams)


def pack_sections(table: SectionedTable) -> SectionedRecords:
    """Store a quantised table in sections as records in memory."""
    stream = stream_sections(table.dim, table.sections)
    records: list[Bytes] = []
    for number, (section, part) in enumerate(zip(table.sections, stream.streams, strict=True)):
        records += [*map(part.pack, section.chunks()), stream.gap(number)]
    whole = np.concatenate([*records, TAIL])
    return SectionedRecords(stream.layout, whole, stream.index, stream.scales)


def _aligned(size: int) -> int:
    return -(-size // SECTION_ALIGNMENT) * SECTION_ALIGNMENT
