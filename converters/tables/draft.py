"""Model files without their tables' rows, and the pass that writes the rows into all of them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ondevice.codecs import QuantTable, TablePart
from ondevice.converters.dense.layers import LayerReport


class TableWriter(Protocol):
    """Writes one table, or a section of it, into a file that has room for it."""

    @property
    def parts(self) -> tuple[TablePart, ...]:
        """The parts whose rows it writes, in order."""

    def write(self, file: BinaryIO, chunk: QuantTable) -> None:
        """Write the next rows; a chunk belongs to one part of the table, and parts are in order."""

    def finish(self, file: BinaryIO) -> None:
        """Write what follows the last row."""


class Ending(Protocol):
    """What completes a file once its tables are written."""

    def finish(self, file: BinaryIO) -> None:
        """Write the end of the file."""


@dataclass(frozen=True)
class Draft:
    """A model file that is complete except for its tables' rows.

    Attributes:
        path: the file that holds the tables: the model file, or its external data.
        layers: how each dense layer is stored.
        tables: the writers of its tables.
        ending: what comes last, if anything.
    """

    path: Path
    layers: tuple[LayerReport, ...]
    tables: Sequence[TableWriter]
    ending: Ending | None = None


def fill(*drafts: Draft) -> None:
    """Write the tables of all drafts; a table in several files is read and quantised only once."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(draft.path.open("r+b")) for draft in drafts]
        writes = [
            _TableWrite(file, writer, deque(writer.parts))
            for file, draft in zip(files, drafts, strict=True)
            for writer in draft.tables
        ]
        while writes := [item for item in writes if item.pending]:
            part = _next_part(writes)
            ready = [item for item in writes if item.pending[0] is part]
            for chunk in part.chunks():
                for item in ready:
                    item.writer.write(item.file, chunk)
            for item in ready:
                item.pending.popleft()
                if not item.pending:
                    item.writer.finish(item.file)
        for file, draft in zip(files, drafts, strict=True):
            if draft.ending is not None:
                draft.ending.finish(file)


@dataclass(frozen=True)
class _TableWrite:
    """A table's writer, its file, and the parts that it has not written yet, in order."""

    file: BinaryIO
    writer: TableWriter
    pending: deque[TablePart]


def _next_part(writes: Sequence[_TableWrite]) -> TablePart:
    """The part to read next: one that no file needs later, so that it is read only once.

    Where the orders of two files contradict each other, a part is read twice.
    """
    fronts = [item.pending[0] for item in writes]
    later = {id(part) for item in writes for part in list(item.pending)[1:]}
    return next((part for part in fronts if id(part) not in later), fronts[0])
