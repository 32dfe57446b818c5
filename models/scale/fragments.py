"""What one task reads of a log: a file, or some row groups of a large Parquet file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ondevice.errors import needs_extra
from ondevice.models.data.arrow_chunks import reading
from ondevice.models.data.parts import LogFile

# Hashed, a fragment of ten fields is about 90 MB.
FRAGMENT_ROWS = 1 << 20


def fragments_of(files: Sequence[LogFile], rows: int = FRAGMENT_ROWS) -> list[LogFile]:
    """The files, Parquet files of more than so many rows cut between row groups.

    They depend only on the files, so the same tasks run whatever the engine and its workers.

    Raises:
        DataError: a Parquet file is damaged.
    """
    return [piece for file in files for piece in _pieces(file, rows)]


def _pieces(file: LogFile, rows: int) -> Iterator[LogFile]:
    if file.format != "parquet":
        yield file
        return
    with needs_extra("reading Parquet", "train"):
        parquet = importlib.import_module("pyarrow.parquet")
    with reading(file.path, "Parquet"):
        metadata = parquet.read_metadata(file.path)
    if metadata.num_rows <= rows:
        yield file
        return
    begin, size = 0, 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).num_rows
        if size >= rows or group == metadata.num_row_groups - 1:
            yield replace(file, groups=(begin, group + 1))
            begin, size = group + 1, 0
