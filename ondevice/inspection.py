"""Look into a model file without running it: sizes of its tables part by part, hash, inputs."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ondevice.engines import open_engine
from ondevice.info import InputSpec, ModelInfo, TableBytes
from ondevice.model import file_bytes, sha256
from ondevice.odm import OdmFile, open_odm
from ondevice.records import TAIL_BYTES, RecordTable
from ondevice.section_records import Records
from ondevice.tflite_file import check_structure, read_info


@dataclass(frozen=True)
class LookupUse:
    """One lookup of a native file: which input reads which table, and how.

    Attributes:
        scheme: in the words of the literature, such as "hybrid hash".
        rows_per_id: rows that an ID reads that is not of the head.
        head: how many IDs own rows.
    """

    input: str
    table: str
    scheme: str
    rows_per_id: int
    head: int
    fuse: str
    pooling: str
    padding_id: int | None


@dataclass(frozen=True)
class Inspection:
    """What a model file holds.

    Attributes:
        header_bytes: of a native file, else None.
        tables: bytes of every embedding table, part by part.
        lookups: of a native file, else empty.
    """

    path: Path
    file_bytes: int
    sha256: str
    header_bytes: int | None
    inputs: tuple[InputSpec, ...]
    tables: tuple[TableBytes, ...]
    lookups: tuple[LookupUse, ...]
    made_by: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**asdict(self), "path": str(self.path)}


def inspect(path: str | Path) -> Inspection:
    """Inspect a model file; the tables of .onnx and .tflite are those the converter noted.

    Raises:
        FileFormatError: the file is missing or damaged.
        MissingDependencyError: an .onnx file, and ONNX Runtime is not installed.
    """
    location = Path(path)
    opened, info = _opened(location)
    return Inspection(
        path=location,
        file_bytes=file_bytes(location),
        sha256=sha256(location),
        header_bytes=None if opened is None else opened.container.header_bytes,
        inputs=info.inputs,
        tables=info.tables if opened is None else _native_tables(opened),
        lookups=() if opened is None else _lookups(opened),
        made_by=info.made_by,
    )


def stored_tables(path: Path, info: ModelInfo) -> tuple[TableBytes, ...]:
    """Bytes of every embedding table of a model file with this description."""
    return _native_tables(open_odm(path)) if path.suffix.lower() == ".odm" else info.tables


def _opened(path: Path) -> tuple[OdmFile | None, ModelInfo]:
    """A native file, or None, and the description of any file."""
    suffix = path.suffix.lower()
    if suffix == ".odm" and path.is_file():
        opened = open_odm(path)
        return opened, opened.info
    if suffix == ".tflite" and path.is_file():  # no runtime: it would follow any offset
        check_structure(path)
        return None, ModelInfo.from_text(read_info(path))
    return None, open_engine(path, "auto", 1)[2]


def _lookups(opened: OdmFile) -> tuple[LookupUse, ...]:
    return tuple(
        LookupUse(
            input=node.inputs[0],
            table=node.table or "",
            scheme=spec.kind,
            rows_per_id=spec.rows_per_id,
            head=spec.head,
            fuse=spec.fuse,
            pooling=spec.pooling,
            padding_id=spec.padding_id,
        )
        for node in opened.plan.nodes
        if (spec := node.lookup) is not None
    )


def _native_tables(opened: OdmFile) -> tuple[TableBytes, ...]:
    return tuple(item for name, table in opened.tables.items() for item in table_bytes(name, table))


def table_bytes(name: str, table: Records) -> list[TableBytes]:
    """Bytes of a native file's table, part by part; of one in sections, of every section."""
    if isinstance(table, RecordTable):
        return [_section_bytes(name, table, 0)]
    sections = table.sections
    firsts = itertools.accumulate((part.layout.rows for part in sections), initial=0)
    return [
        _section_bytes(name, part, first) for part, first in zip(sections, firsts, strict=False)
    ]


def _section_bytes(name: str, table: RecordTable, first_row: int) -> TableBytes:
    layout = table.layout
    row_scales = layout.rows * layout.scale_bits // 8
    return TableBytes(
        name=name,
        rows=layout.rows,
        dim=layout.dim,
        kept=table.mean_width(),
        codec=layout.codec,
        scale_axis=layout.scale_axis,
        payload=table.records.size - TAIL_BYTES - row_scales,
        scales=row_scales + table.scales.nbytes,
        widths=table.index.nbytes,
        permutation=0,
        first_row=first_row,
    )
