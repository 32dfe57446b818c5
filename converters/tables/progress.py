"""Progress of a conversion on a terminal: how many bytes of float tables have been read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from ondevice.codecs import FloatArray, IntArray
from ondevice.converters.tables.table_source import TableSource

DELAY = 1.0  # seconds before a bar appears: small models are converted by then


@dataclass(frozen=True)
class ProgressTable:
    """A table whose passes advance a progress bar."""

    source: TableSource
    bar: Any

    @property
    def rows(self) -> int:
        """See TableSource."""
        return self.source.rows

    @property
    def dim(self) -> int:
        """See TableSource."""
        return self.source.dim

    def chunks(self) -> Iterator[FloatArray]:
        """See TableSource."""
        for chunk in self.source.chunks():
            yield chunk
            self.bar.update(chunk.nbytes)
        if self.bar.n >= self.bar.total:
            self.bar.close()

    def read(self, rows: IntArray) -> FloatArray:
        """See TableSource."""
        return self.source.read(rows)


def with_progress_bar(tables: Mapping[str, TableSource], passes: int) -> dict[str, TableSource]:
    """The tables, with a progress bar over this number of passes; shown only on a terminal."""
    total = 4 * passes * sum(table.rows * table.dim for table in tables.values())
    bar = tqdm(total=total, desc="tables", unit="B", unit_scale=True, disable=None, delay=DELAY)
    return {name: ProgressTable(table, bar) for name, table in tables.items()}
