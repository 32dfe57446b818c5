"""Native model files (.odm): write, open with every check, verify checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.collection import collection_paused
from ondevice.container import (
    CHECKSUMS,
    Container,
    ContainerWriter,
    Reserved,
    Views,
    open_container,
)
from ondevice.deflated import deflate
from ondevice.dense import DENSE
from ondevice.errors import FileFormatError
from ondevice.info import ModelInfo, description_parts
from ondevice.limits import MAX_PLAN_BYTES
from ondevice.ops import OPERATORS
from ondevice.plan import LOOKUP, Plan
from ondevice.records import TAIL_BYTES, RecordStream, RecordTable
from ondevice.section_records import (
    Layout,
    Records,
    SectionedLayout,
    SectionedRecords,
    SectionedStream,
)

FORMAT = "ondevice.odm"
FORMAT_VERSION = "3"
READABLE_VERSIONS = ("1", "2", "3")
WEIGHT = "weight."  # in front of the names of a plan's constants
PLAN, INFO = "ondevice.plan", "ondevice.info"  # deflated arrays; in versions 1 and 2 metadata
# Files up to this size have all their bytes checked at load (about 8 ms); larger ones on demand,
# because reading everything would undo what mapping the file saves.
FULL_CHECK_BYTES = 8 * 2**20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OdmFile:
    """An opened native model; arrays are views of the file's bytes.

    Attributes:
        info: the description, read.
        description: as it is in the file (`ModelInfo.to_bytes`).
    """

    container: Container
    plan: Plan
    info: ModelInfo
    description: bytes
    weights: Mapping[str, Array]
    tables: dict[str, Records]

    def verify(self) -> None:
        """Check every byte and every table index. Raises FileFormatError."""
        self.container.verify()
        for name, table in self.tables.items():
            table.validate(name)


def write_odm(
    path: Path,
    plan: Plan,
    info: ModelInfo,
    weights: Mapping[str, Array],
    tables: Mapping[str, Records],
) -> None:
    """Write a native model to `path`."""
    writer = odm_writer(path, plan, info, weights, tables)
    with path.open("r+b") as file:
        writer.finish(file)


def odm_writer(
    path: Path,
    plan: Plan,
    info: ModelInfo,
    weights: Mapping[str, Array],
    tables: Mapping[str, Records | RecordStream | SectionedStream],
) -> ContainerWriter:
    """Create a native model that lacks its header and the records of streams; see `records_of`."""
    arrays: dict[str, Array | Reserved] = {WEIGHT + name: weights[name] for name in plan.weights}
    for name in plan.tables:
        for part, array in _table_parts(tables[name]).items():
            arrays[f"table.{name}.{part}"] = array
    described = description_parts(info.to_bytes())
    for name, parts in ((PLAN, (plan.to_text().encode(),)), (INFO, described)):
        arrays[name] = np.frombuffer(deflate(*parts), np.uint8)
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION}
    return ContainerWriter(path, arrays, metadata)


def records_of(table: str) -> str:
    """Name of the array that holds a table's records."""
    return f"table.{table}.records"


def open_odm(path: Path, *, full_check: bool | None = None) -> OdmFile:
    """Read a native model and check it.

    Args:
        path: the .odm file.
        full_check: True checks every byte, False only the header and all sizes; by default
            files up to 8 MiB are checked fully.

    Raises:
        FileFormatError: the file is damaged, not a native model, or of another version.
    """
    with collection_paused():
        opened = _opened(path)
    if full_check or (full_check is None and opened.container.data.size <= FULL_CHECK_BYTES):
        opened.verify()
    return opened


def _opened(path: Path) -> OdmFile:
    """A native model whose header and sizes are checked. Raises as `open_odm` does."""
    container = open_container(path)
    if container.metadata.get("format") != FORMAT:
        raise FileFormatError(f"{path}: a safetensors file, but not a native model")
    version = container.metadata.get("format_version")
    if version not in READABLE_VERSIONS:
        raise FileFormatError(
            f"{path}: format version {version}; this release reads versions "
            f"{', '.join(READABLE_VERSIONS[:-1])} and {READABLE_VERSIONS[-1]}"
        )
    plan_text, description = _texts(container, version)
    plan, info = Plan.from_text(plan_text), ModelInfo.from_bytes(description)
    _check_operators(path, plan)
    if {item.name for item in info.inputs} != set(plan.inputs) or info.outputs != plan.outputs:
        raise FileFormatError(f"{path}: the description's inputs or outputs differ from the plan's")
    _check_pooling(path, plan, info)
    weights = Views(container, WEIGHT, plan.weights)
    _check_bools(container, weights)
    tables = {name: _open_table(container, name, layout) for name, layout in plan.tables.items()}
    return OdmFile(container, plan, info, description, weights, tables)


def _check_bools(container: Container, weights: Views) -> None:
    """Refuse bytes among the weights that are no bools: engines would take them differently."""
    for name in container.of_type(np.uint8):
        if name.startswith(WEIGHT) and name.removeprefix(WEIGHT) in weights:
            largest = int(container.array(name).max(initial=0))
            if largest > 1:
                fault = f"array {name!r} is not bool: expected 0 or 1, got {largest}"
                raise FileFormatError(f"{container.path}: {fault}")


def _texts(container: Container, version: str) -> tuple[bytes, bytes]:
    """Plan and description. Raises FileFormatError."""
    if version in ("1", "2"):
        metadata = container.metadata
        return metadata.get("plan", "").encode(), metadata.get("info", "").encode()
    return container.text(PLAN, MAX_PLAN_BYTES), container.text(INFO)


def _check_operators(path: Path, plan: Plan) -> None:
    unknown = {node.op for node in plan.nodes} - {LOOKUP, DENSE, *OPERATORS}
    if unknown:
        raise FileFormatError(f"{path}: unknown operators: {', '.join(sorted(unknown))}")


def _check_pooling(path: Path, plan: Plan, info: ModelInfo) -> None:
    single = {item.name for item in info.inputs if len(item.shape) == 1}
    for node in plan.nodes:
        pooled = node.lookup is not None and node.lookup.pooling != "none"
        if pooled and single.intersection(node.inputs):
            raise FileFormatError(f"{path}: pooling needs IDs with a sequence axis: {node.inputs}")


def _table_parts(table: Records | RecordStream | SectionedStream) -> dict[str, Array | Reserved]:
    """The arrays of a table; the zeros behind its records are not stored."""
    records: Array | Reserved = table.records
    if isinstance(records, Reserved):
        records = Reserved(records.dtype, (records.nbytes - TAIL_BYTES,))
    else:
        records = records[:-TAIL_BYTES]
    parts: dict[str, Array | Reserved] = {"records": records}
    if table.index.size:
        parts["index"] = table.index
    if table.scales.size:
        parts["scales"] = table.scales
    return parts


def _records(container: Container, name: str) -> Array:
    """A table's records and TAIL_BYTES behind them: in versions 1 and 2 zeros of its own, since
    then whatever follows in the file.
    """
    records = container.array(records_of(name))
    if CHECKSUMS not in container:
        return records
    entry = container.entry(records_of(name))
    stop = entry.stop + TAIL_BYTES
    if records.dtype != np.uint8 or records.ndim != 1 or stop > container.data.size:
        raise FileFormatError(
            f"{container.path}: table {name!r}: records have a wrong type, or less than "
            f"{TAIL_BYTES} bytes of the file follow them"
        )
    return container.data[entry.start : stop]


def _open_table(container: Container, name: str, layout: Layout) -> Records:
    parts: dict[str, Array] = {
        "records": _records(container, name),
        "index": np.empty(0, dtype=np.uint8),
        "scales": np.empty(0, dtype=np.float32),
    }
    sections = layout.sections if isinstance(layout, SectionedLayout) else (layout,)
    if any(section.index_bytes for section in sections):
        parts["index"] = container.array(f"table.{name}.index")
    if any(section.scale_count for section in sections):
        parts["scales"] = container.array(f"table.{name}.scales")
    for part, dtype in (("records", np.uint8), ("index", np.uint8), ("scales", np.float32)):
        if parts[part].dtype != dtype or parts[part].ndim != 1:
            raise FileFormatError(f"{container.path}: table {name!r}: {part} has a wrong type")
    arrays = parts["records"], parts["index"], parts["scales"]
    table: Records
    if isinstance(layout, SectionedLayout):
        table = SectionedRecords(layout, *arrays)
    else:
        table = RecordTable(layout, *arrays)
    table.check_sizes(name)
    return table
