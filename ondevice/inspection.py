"""Look into a model file without running it: what every byte is for, hash, inputs, lookups."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ondevice.container import CHECKSUMS, PADDING_PREFIX, SMALL
from ondevice.deflated import deflate
from ondevice.engines import open_engine
from ondevice.engines.options import Options
from ondevice.info import InputSpec, ModelInfo, TableBytes, description_parts
from ondevice.inspection_text import PART_TITLES, inspection_text
from ondevice.model import file_bytes, sha256
from ondevice.model_path import model_path
from ondevice.odm import PLAN, OdmFile, open_odm
from ondevice.onnx_content import read_onnx
from ondevice.publish import finish
from ondevice.records import TAIL_BYTES, RecordTable
from ondevice.section_records import Records
from ondevice.tflite_file import check_structure, read_info, read_verified


@dataclass(frozen=True)
class FileParts:
    """What the bytes of a model's files are for; the parts add up to the files.

    Attributes:
        tables: embedding tables, with scales and what says where and how wide rows are.
        map: vocabularies and bucket boundaries, which make IDs of raw values.
        network: weights and the graph; in .onnx and .tflite also all that is not listed here.
        description: inputs, fields and versions; in a native file also its header and checksums.
        vectors: test vectors.
        padding: alignment, in a native file.
    """

    tables: int
    map: int
    network: int
    description: int
    vectors: int
    padding: int

    @property
    def total(self) -> int:
        """Bytes of the files."""
        return sum(self.to_json().values())

    def to_json(self) -> dict[str, int]:
        """The parts by name."""
        return asdict(self)


def part_rows(parts: Mapping[str, FileParts]) -> list[tuple[str, ...]]:
    """A table of bytes: a line for each model by name, a column for each part, header first."""
    rows: list[tuple[str, ...]] = [("bytes of", *PART_TITLES, "file")]
    for name, item in parts.items():
        rows.append((name, *(f"{count:,}" for count in (*item.to_json().values(), item.total))))
    return rows


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
        parts: what the bytes are for.
        tables: bytes of every embedding table, part by part.
        lookups: of a native file, else empty.
    """

    path: Path
    file_bytes: int
    sha256: str
    header_bytes: int | None
    parts: FileParts
    inputs: tuple[InputSpec, ...]
    tables: tuple[TableBytes, ...]
    lookups: tuple[LookupUse, ...]
    made_by: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        """What `ondevice inspect` prints."""
        return inspection_text(self)


def inspect(path: str | Path) -> Inspection:
    """Inspect a model file; the tables of .onnx and .tflite are those the converter noted.

    Raises:
        FileFormatError: the file is missing or damaged.
        InputError: no path of a file.
    """
    location = model_path(path)
    opened, info, description = _opened(location)
    return Inspection(
        path=location,
        file_bytes=file_bytes(location),
        sha256=sha256(location),
        header_bytes=None if opened is None else opened.container.header_bytes,
        parts=_parts(location, opened, info, description),
        inputs=info.inputs,
        tables=info.tables if opened is None else _native_tables(opened),
        lookups=() if opened is None else _lookups(opened),
        made_by=info.made_by,
    )


def file_parts(path: Path) -> FileParts:
    """What the bytes of a model's files are for; raises as `inspect` does."""
    return _parts(path, *_opened(path))


def _opened(path: Path) -> tuple[OdmFile | None, ModelInfo, bytes]:
    """A native file, or None; the description of any file, read and as it is."""
    finish(path.parent)
    suffix = path.suffix.lower()
    if suffix == ".odm" and path.is_file():
        opened = open_odm(path)
        return opened, opened.info, opened.description
    if suffix == ".tflite" and path.is_file():  # no runtime: it would follow any offset
        data = read_verified(path)
        check_structure(path, data)
        description = read_info(path, data)
        return None, ModelInfo.from_bytes(description), description
    if suffix == ".onnx" and path.is_file():
        description = read_onnx(path).description
        return None, ModelInfo.from_bytes(description), description
    _, _, info = open_engine(path, Options())  # says what is wrong with the path
    return None, info, info.to_bytes()


def _parts(path: Path, opened: OdmFile | None, info: ModelInfo, description: bytes) -> FileParts:
    """The parts of a file by what `_opened` returned."""
    if opened is not None:
        return _native_parts(opened)
    measure = _base64_bytes if path.suffix.lower() == ".onnx" else _deflated_bytes
    stored, mapped, vectors = _described(description, info, measure)
    tables = sum(table.total for table in info.tables)
    return FileParts(
        tables=tables,
        map=mapped,
        network=file_bytes(path) - tables - stored,
        description=stored - mapped - vectors,
        vectors=vectors,
        padding=0,
    )


def _native_parts(opened: OdmFile) -> FileParts:
    """The parts of a native file, by the names of its arrays."""
    container, stored = opened.container, opened.description
    sizes = {name: entry.stop - entry.start for name, entry in container.entries.items()}
    if SMALL in sizes:  # what is left are gaps
        sizes[SMALL] -= sum(sizes[name] for name in sizes if name not in container.stored)
    counts = Counter[str]()
    for name, count in sizes.items():
        counts[_part_of(name)] += count
    header = container.data[: container.header_bytes].tobytes()
    spaces = len(header) - len(header.rstrip(b" "))
    plan = len(container.metadata.get("plan", ""))  # of versions 1 and 2
    tails = TAIL_BYTES * len(opened.tables) if CHECKSUMS not in container else 0
    _, mapped, vectors = _described(stored, opened.info, _deflated_bytes)
    described = counts["description"] + len(header) - spaces - plan
    return FileParts(
        tables=counts["tables"] - tails,
        map=mapped,
        network=counts["network"] + plan,
        description=described - mapped - vectors,
        vectors=vectors,
        padding=counts["padding"] + spaces + tails,
    )


def _part_of(array: str) -> str:
    """Which part of a native file an array belongs to."""
    if array.startswith("table."):
        return "tables"
    if array.startswith("weight.") or array == PLAN:
        return "network"
    return "padding" if array == SMALL or array.startswith(PADDING_PREFIX) else "description"


def _described(
    description: bytes, info: ModelInfo, measure: Callable[[bytes], int]
) -> tuple[int, int, int]:
    """Bytes of a whole description, and of these what its map and its vectors add to the rest.

    Args:
        description: as it is in the file.
        info: the same, read.
        measure: bytes that a description of version 2 takes in the file.
    """
    text, _, _ = description.partition(b"\0")
    data = json.loads(text)
    if data["version"] == 1:  # stored as it is
        fields = data["features"] if isinstance(data["features"], list) else []
        keys = ("vocabulary", "boundaries")
        mapped = sum(len(str(field[key])) for field in fields for key in keys if field.get(key))
        vectors = len(json.dumps(data.get("vectors", ""), separators=(",", ":")))
        return len(description), mapped, vectors
    stored = measure(description)
    unchecked = replace(info, vectors=None).to_bytes()
    with_map = min(measure(unchecked), stored)
    without = min(measure(unchecked.partition(b"\0")[0]), with_map)
    return stored, with_map - without, stored - with_map


def _deflated_bytes(description: bytes) -> int:
    return len(deflate(*description_parts(description)))


def _base64_bytes(description: bytes) -> int:
    return -(-len(deflate(*description_parts(description))) // 3) * 4


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
