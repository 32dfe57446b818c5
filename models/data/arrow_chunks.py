"""Rows of Arrow batches: Parquet, Feather and IPC files, and tables of other libraries."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.arrow_columns import ValueColumn, column_of
from ondevice.errors import DataError, InputError, needs_extra

with needs_extra("reading Parquet and Arrow", "train"):
    import pyarrow as pa

BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class ArrowChunk:
    """The rows of a record batch.

    Attributes:
        source: the file's or the table's name.
        names: all column names of the source; the batch has those that are read.
        batch: the rows.
        first: the number of its first row in the source, from 0.
        group: the row group of a Parquet file, from 0.
    """

    source: str
    names: tuple[str, ...]
    batch: Any
    first: int
    group: int | None = None

    def __len__(self) -> int:
        """Rows."""
        return int(self.batch.num_rows)

    def values(self, name: str) -> ValueColumn:
        """The values of a column. Raises DataError for a type that no field has."""
        array = self.batch.column(self.batch.schema.get_field_index(name))
        try:
            return column_of(array)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{self.place(0)} and after, column {name!r}: {error}") from error
        except TypeError as error:
            raise DataError(f"{self.source}, column {name!r}: {error}") from error

    def place(self, row: int) -> str:
        """The source, the row (from 1) and the row group (from 0)."""
        group = "" if self.group is None else f" of row group {self.group}"
        return f"{self.source}, row {self.first + row + 1}{group}"


def parquet_chunks(
    path: Path, used: Collection[str] | None, groups: tuple[int, int] | None = None
) -> Iterator[ArrowChunk]:
    """The rows of a Parquet file, one row group after the other.

    Args:
        path: the file.
        used: the columns to read, None for all; those that the file lacks are left to the caller.
        groups: the first row group to read, and the one after the last; None: all.

    Raises:
        DataError: the file is absent or damaged.
    """
    with needs_extra("reading Parquet", "train"):
        parquet = importlib.import_module("pyarrow.parquet")
    with reading(path, "Parquet"), parquet.ParquetFile(path, memory_map=True) as file:
        schema = file.schema_arrow
        names = tuple(schema.names)
        _refuse_doubled(str(path), names)
        present = [name for name in names if used is None or name in used]
        # a dictionary's values are hashed once, so let Parquet keep its own
        texts = [name for name in present if _is_text(schema.field(name).type)]
    with (
        reading(path, "Parquet"),
        parquet.ParquetFile(path, memory_map=True, read_dictionary=texts) as file,
    ):
        begin, end = groups or (0, file.metadata.num_row_groups)
        first = sum(file.metadata.row_group(group).num_rows for group in range(begin))
        for group in range(begin, end):
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=present):
                yield ArrowChunk(str(path), names, batch, first, group)
                first += batch.num_rows


def ipc_chunks(path: Path) -> Iterator[ArrowChunk]:
    """The rows of a Feather (version 2) or Arrow IPC file or stream.

    Raises:
        DataError: the file is absent or damaged.
    """
    with reading(path, "Arrow IPC"), pa.memory_map(str(path)) as source:
        try:
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
            schema = file.schema
        except pa.ArrowInvalid:
            source.seek(0)
            batches = pa.ipc.open_stream(source)
            schema = batches.schema
        yield from _cut(str(path), schema, batches)


def table_chunks(source: Any, name: str) -> Iterator[ArrowChunk]:
    """The rows of a table of another library, or of an iterator of batches.

    Args:
        source: a pandas or polars frame, a pyarrow Table, RecordBatch, RecordBatchReader or
            Dataset, anything with Arrow's C stream interface, or an iterable of RecordBatches.
        name: for messages.

    Raises:
        InputError: it is none of these.
        DataError: its columns cannot be read as Arrow, or an iterator's batches differ in schema.
    """
    with reading(name, "an Arrow table"):
        reader = _reader(source)
        yield from _cut(name, reader.schema, reader)


def _reader(source: Any) -> Any:
    """A reader of record batches. Raises InputError for what has none."""
    if hasattr(source, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(source)
    if hasattr(source, "scanner"):  # a pyarrow Dataset
        return source.scanner(batch_size=BATCH_ROWS).to_reader()
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source]).to_reader()
    if isinstance(source, Iterable) and not isinstance(source, str | bytes | dict):
        batches = iter(source)
        first = next(batches, None)
        if isinstance(first, pa.RecordBatch):
            return pa.RecordBatchReader.from_batches(first.schema, _chained(first, batches))
    raise InputError(
        "a log is a path, a pandas or polars frame, a pyarrow Table or Dataset, or an iterator of "
        f"record batches; got {type(source).__name__}"
    )


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _cut(source: str, schema: Any, batches: Iterable[Any]) -> Iterator[ArrowChunk]:
    """Batches cut into pieces of BATCH_ROWS rows."""
    names = tuple(schema.names)
    _refuse_doubled(source, names)
    first = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            piece = batch.slice(start, BATCH_ROWS)
            yield ArrowChunk(source, names, piece, first)
            first += piece.num_rows


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refuse_doubled(source: str, names: tuple[str, ...]) -> None:
    if doubled := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{source}: columns named twice: {', '.join(doubled)}")


@contextmanager
def reading(source: str | Path, kind: str) -> Iterator[None]:
    """Turn Arrow's and the system's errors into one line. Raises DataError."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: cannot be read as {kind}: {first}") from error
