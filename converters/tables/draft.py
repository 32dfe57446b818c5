"""Model files that lack their tables' rows, and the pass that writes the rows of all of them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ondevice.codecs import QuantTable, StoredTable, TablePart
from ondevice.converters.dense.layers import LayerReport


class TableWriter(Protocol):
    """Writes one table into a file that has room for it."""

    @property
    def table(self) -> StoredTable:
        """The table."""

    def write(self, file: BinaryIO, chunk: QuantTable) -> None:
        """Write the next rows; chunks come as those of the table's parts, one after another."""

    def finish(self, file: BinaryIO) -> None:
        """Write what follows the last row."""


class Ending(Protocol):
    """What completes a file once its tables are in it."""

    def finish(self, file: BinaryIO) -> None:
        """Write it."""


@dataclass(frozen=True)
class Draft:
    """A model file that is complete but for its tables' rows.

    Attributes:
        path: where the tables go: the file itself, or its external data.
        layers: how each dense layer is stored.
        tables: the writers of its tables.
        ending: what comes last, if anything.
    """

    path: Path
    layers: tuple[LayerReport, ...]
    tables: Sequence[TableWriter]
    ending: Ending | None = None


def fill(*drafts: Draft) -> None:
    """Write the tables; each is read and quantised once for all files that hold it."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(draft.path.open("r+b")) for draft in drafts]
        takers = [
            _Taker(file, writer, deque(writer.table.parts))
            for file, draft in zip(files, drafts, strict=True)
            for writer in draft.tables
        ]
        while takers := [taker for taker in takers if taker.waiting]:
            part = _next(takers)
            ready = [taker for taker in takers if taker.waiting[0] is part]
            for chunk in part.chunks():
                for taker in ready:
                    taker.writer.write(taker.file, chunk)
            for taker in ready:
                taker.waiting.popleft()
                if not taker.waiting:
                    taker.writer.finish(taker.file)
        for file, draft in zip(files, drafts, strict=True):
            if draft.ending is not None:
                draft.ending.finish(file)


@dataclass(frozen=True)
class _Taker:
    """A table's writer, its file, and the parts that it waits for, in their order."""

    file: BinaryIO
    writer: TableWriter
    waiting: deque[TablePart]


def _next(takers: Sequence[_Taker]) -> TablePart:
    """A part that nobody wants later; where orders contradict, one that is read twice."""
    fronts = [taker.waiting[0] for taker in takers]
    later = {id(part) for taker in takers for part in list(taker.waiting)[1:]}
    return next((part for part in fronts if id(part) not in later), fronts[0])
