"""Your own log: files or tables of any layout, read by a description of their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.errors import DataError
from ondevice.models.data.arrow_chunks import ipc_chunks, parquet_chunks, table_chunks
from ondevice.models.data.builder import Rows
from ondevice.models.data.cache import cache_key, cached_log
from ondevice.models.data.chunks import BadRows, Chunk, ObjectChunk, WithValues
from ondevice.models.data.collected_rows import CollectedRows
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.json_rows import read_objects
from ondevice.models.data.parts import LogFile, find_files
from ondevice.models.data.row_rules import RowRules
from ondevice.models.data.rows import read_rows
from ondevice.models.data.splits import (
    SplitRule,
    part_of_name,
)


@dataclass(frozen=True)
class Reading:
    """How much of a log is read.

    Attributes:
        where: a condition on the values of Hive's folders: see `find_files`.
        max_rows: read only so many rows from the start.
        bad_rows: counts rows that cannot be read; by default the first one is an error.
        cache: a folder in which the encoded log of files is kept, to be mapped the next time.
    """

    where: str | None = None
    max_rows: int | None = None
    bad_rows: BadRows | None = None
    cache: Path | None = None


def read_log(
    source: Any,
    description: LogDescription,
    *,
    name: str | None = None,
    reading: Reading | None = None,
    split: SplitRule | None = None,
) -> HashedLog:
    """Read files or a table as their description says.

    Args:
        source: a path, several paths, or a table: see `table_chunks`.
        description: what the columns are.
        name: of the log; that of the first file if None.
        reading: how much is read.
        split: divides the rows; None leaves them in their order, to be divided at random.

    Raises:
        DataError: a file that is absent, empty or damaged; columns of the description that it
            lacks or columns the description does not mention; a bad row, with line and column;
            a part without rows or with rows of one label only.
        InputError: the source is none.
    """
    reading = reading or Reading()
    bad_rows = reading.bad_rows or BadRows()
    name = name or name_of_log(source)
    files = log_files(source, reading.where)

    def read() -> HashedLog:
        return _read(source, files, description, name, reading, split, bad_rows)

    if reading.cache is None or not files:
        return read()
    key = cache_key(files, description, split, (reading.max_rows, bad_rows.most))
    log = cached_log(reading.cache, key, read)
    bad_rows.count = log.refused
    return log


def _read(
    source: Any,
    files: Sequence[LogFile],
    description: LogDescription,
    name: str,
    reading: Reading,
    split: SplitRule | None,
    bad_rows: BadRows,
) -> HashedLog:
    """The log of files, or of a table if there are none. Raises DataError; see `read_log`."""
    rules = RowRules(description, split)
    collected = CollectedRows(description, split)
    for part, chunks in _sources(source, files, rules, reading, bad_rows):
        for chunk in chunks:
            rows = rules.rows(chunk, bad_rows)
            collected.add(_limited(rows, len(collected), reading.max_rows), part)
            if len(collected) == reading.max_rows:
                return collected.log(name, bad_rows.count, rules.texts)
    return collected.log(name, bad_rows.count, rules.texts)


def log_files(source: Any, where: str | None = None) -> list[LogFile]:
    """The files of paths: see `find_files`; none of a table. Raises DataError, InputError."""
    if not _are_paths(source):
        return []
    return find_files([source] if isinstance(source, str | Path) else list(source), where)


def _sources(
    source: Any,
    files: Sequence[LogFile],
    rules: RowRules,
    reading: Reading,
    bad_rows: BadRows,
) -> Iterator[tuple[int, Iterator[Chunk]]]:
    """The chunks of each file with the part that its name says, or of a table (part 0).

    Raises:
        DataError: a name that says no part, in a split by folders; a file without rows.
    """
    if not files:
        yield 0, table_source(source, "the table", rules)
    for file in files:
        yield part_of_file(file, rules.split), file_source(file, rules, bad_rows, reading)


def part_of_file(file: LogFile, split: SplitRule | None) -> int:
    """The part that a file's name says, else training; none may be missing in a split by folders.

    Raises:
        DataError: it is missing there.
    """
    part = part_of_name(file.below)
    if part is None and split is not None and split.by == "folders":
        raise DataError(
            f"{file.path}: a split by folders needs a file or folder called train, "
            "validation or test"
        )
    return part or 0


def file_source(
    file: LogFile, rules: RowRules, bad_rows: BadRows, reading: Reading | None = None
) -> Iterator[Chunk]:
    """The chunks of a file, with its folders' values. Raises DataError: see `read_log`."""
    description, columns = rules.description, rules.columns
    chunks = _file_chunks(file, description, columns, reading or Reading(), bad_rows)
    return _checked(str(file.path), _with_values(chunks, file), columns, description)


def table_source(source: Any, name: str, rules: RowRules) -> Iterator[Chunk]:
    """The chunks of a table: see `table_chunks`. Raises DataError, InputError."""
    return _checked(name, table_chunks(source, name), rules.columns, rules.description)


def _file_chunks(
    file: LogFile,
    description: LogDescription,
    columns: tuple[str, ...],
    reading: Reading,
    bad_rows: BadRows,
) -> Iterator[Chunk]:
    """The rows of one file, by its format."""
    if file.format == "parquet":
        return parquet_chunks(file.path, columns, file.groups)
    if file.format == "arrow":
        return ipc_chunks(file.path)
    if file.format == "jsonl":
        return read_objects(file.path, [c for c in columns if c not in file.values], bad_rows)
    return read_rows(
        file.path,
        description.text_format.of_file(file.path.name),
        columns=description.columns,
        header=description.columns is None,
        max_rows=reading.max_rows,
        bad_rows=bad_rows,
    )


def _with_values(chunks: Iterator[Chunk], file: LogFile) -> Iterator[Chunk]:
    for chunk in chunks:
        yield WithValues(chunk, file.values) if file.values else chunk


def _checked(
    name: str, chunks: Iterator[Chunk], columns: tuple[str, ...], description: LogDescription
) -> Iterator[Chunk]:
    """The chunks, once the first one's columns are those described. Raises DataError."""
    rows = 0
    for chunk in chunks:
        if not rows:
            _check_columns(name, chunk, columns, description)
        rows += len(chunk)
        yield chunk
    if not rows:
        raise DataError(f"{name}: no rows")


def _check_columns(
    name: str, chunk: Chunk, columns: tuple[str, ...], description: LogDescription
) -> None:
    """Refuse columns that are absent or not described. Raises DataError."""
    shared: Mapping[str, str] = {}
    if isinstance(chunk, WithValues):
        shared, chunk = chunk.shared, chunk.chunk
    ignored = set(description.ignore) - {"*"}
    faults = []
    # an object's other keys come and go
    needed = [*columns, *([] if isinstance(chunk, ObjectChunk) else sorted(ignored))]
    names = dict.fromkeys((*chunk.names, *shared))
    if absent := [column for column in dict.fromkeys(needed) if column not in names]:
        faults.append(f"no column {', '.join(map(repr, absent))}")
    known = {*columns, *ignored, *shared}
    unused = [column for column in chunk.names if column not in known]
    if unused and "*" not in description.ignore:
        faults.append(f"neither field, label nor ignored: {', '.join(map(repr, unused))}")
    if faults:
        listed = ", ".join(names)
        raise DataError(f"{name}: {'; '.join(faults)} (the file's columns: {listed})")


def _limited(rows: Rows, before: int, max_rows: int | None) -> Rows:
    left = len(rows.labels) if max_rows is None else max_rows - before
    return rows if len(rows.labels) <= left else rows.take(np.arange(left))


def _are_paths(source: Any) -> bool:
    if isinstance(source, str | Path):
        return True
    is_listed = isinstance(source, list | tuple) and bool(source)
    return is_listed and all(isinstance(item, str | Path) for item in source)


def name_of_log(source: Any) -> str:
    """The name of the first file or folder of a log; "table" of a table."""
    if not _are_paths(source):
        return "table"
    first = source if isinstance(source, str | Path) else source[0]
    return Path(first).name or str(first)
