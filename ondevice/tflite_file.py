"""Reads the description out of a .tflite file and checks its structure, trusting no offset in it.

A .tflite file is a flatbuffer (https://flatbuffers.dev/internals): tables that point at one
another by offsets. The TFLite runtimes follow those offsets unchecked, so a damaged file would
crash them; here every offset and count is compared with the file's size before it is followed.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ondevice.errors import FileFormatError

METADATA_NAME = "ondevice"
IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3


class _Kind(NamedTuple):
    """The fields of a table that hold offsets, by their number in the TFLite schema."""

    tables: dict[int, str]  # one table
    vectors_of_tables: dict[int, str]
    vectors: dict[int, int]  # of scalars: bytes per item; a string has 1


_SCHEMA = {
    "Model": _Kind(
        {},
        {1: "OperatorCode", 2: "SubGraph", 4: "Buffer", 6: "Metadata", 7: "SignatureDef"},
        {3: 1, 5: 4},
    ),
    "OperatorCode": _Kind({}, {}, {1: 1}),
    "SubGraph": _Kind({}, {0: "Tensor", 3: "Operator"}, {1: 4, 2: 4, 4: 1}),
    "Tensor": _Kind({4: "Quantization"}, {}, {0: 4, 3: 1, 7: 4}),
    "Quantization": _Kind({}, {}, {0: 4, 1: 4, 2: 4, 3: 8}),
    "Operator": _Kind({}, {}, {1: 4, 2: 4, 5: 1, 7: 1, 8: 4}),
    "Options": _Kind({}, {}, {}),
    "ShapeOptions": _Kind({}, {}, {0: 4}),
    "Buffer": _Kind({}, {}, {0: 1}),
    "Metadata": _Kind({}, {}, {0: 1}),
    "SignatureDef": _Kind({}, {0: "TensorMap", 1: "TensorMap"}, {2: 1}),
    "TensorMap": _Kind({}, {}, {0: 1}),
}
_OPTIONS_FIELD = 4  # of Operator; field 3 says which kind of options it holds
_OPTIONS_WITH_SHAPE = (17, 30)  # ReshapeOptions, SqueezeOptions: a vector in field 0


def read_info(path: Path) -> str:
    """The text of the metadata entry "ondevice".

    The file is mapped; only its graph and the text itself are read.

    Raises:
        FileFormatError: no such file, not TFLite, damaged, or not written by ondevice.
    """
    with _open(path) as model:
        for entry in model.tables(6):
            if entry.text(0) != METADATA_NAME.encode():
                continue
            buffers = model.tables(4)
            number = entry.uint32(1)
            if number >= len(buffers):
                raise _FaultError(f"its description is buffer {number} of {len(buffers)}")
            try:
                return buffers[number].text(0).decode()
            except UnicodeDecodeError as error:
                raise _FaultError(f"its description is not UTF-8: {error}") from error
    raise FileFormatError(f"{path}: a TFLite file, but not one written by ondevice")


def check_structure(path: Path) -> None:
    """Check that every offset and count in the file stays inside the file.

    Raises:
        FileFormatError: no such file, not TFLite, or damaged (a truncated file is).
    """
    with _open(path) as model:
        seen = set()
        waiting = [(model, "Model")]
        while waiting:
            table, name = waiting.pop()
            if (table.start, name) not in seen:
                seen.add((table.start, name))
                waiting += _children(table, name)
        _check_indices(model)


class _FaultError(Exception):
    """What is wrong with the file, without its name."""


class _Table:
    """One flatbuffer table; fields are counted from 0 in the order of the schema."""

    def __init__(self, data: mmap.mmap, start: int) -> None:
        self.data = data
        self.start = start
        (back,) = _unpack(data, "<i", start)
        self._vtable = start - back
        self._vtable_bytes, size = _unpack(data, "<HH", self._vtable)
        _need(data, self._vtable, self._vtable_bytes)
        _need(data, start, size)

    def place(self, field: int) -> int | None:
        """Where a field lies in the file, None where it is left out."""
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return None
        (offset,) = _unpack(self.data, "<H", self._vtable + entry)
        return self.start + offset if offset else None

    def uint32(self, field: int) -> int:
        place = self.place(field)
        return 0 if place is None else int(_unpack(self.data, "<I", place)[0])

    def uint8(self, field: int) -> int:
        place = self.place(field)
        return 0 if place is None else int(_unpack(self.data, "<B", place)[0])

    def vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        """First item's place and the number of items; (0, 0) where it is left out."""
        target = self._target(field)
        if target is None:
            return 0, 0
        (count,) = _unpack(self.data, "<I", target)
        _need(self.data, target + 4, count * item_bytes)
        return target + 4, count

    def text(self, field: int) -> bytes:
        start, count = self.vector(field, 1)
        return self.data[start : start + count]

    def indices(self, field: int) -> tuple[int, ...]:
        start, count = self.vector(field, 4)
        return _unpack(self.data, f"<{count}i", start)

    def table(self, field: int) -> _Table | None:
        target = self._target(field)
        return None if target is None else _Table(self.data, target)

    def tables(self, field: int) -> list[_Table]:
        start, count = self.vector(field, 4)
        offsets = _unpack(self.data, f"<{count}I", start)
        return [_Table(self.data, start + 4 * i + offset) for i, offset in enumerate(offsets)]

    def _target(self, field: int) -> int | None:
        place = self.place(field)
        return None if place is None else place + int(_unpack(self.data, "<I", place)[0])


@contextmanager
def _open(path: Path) -> Iterator[_Table]:
    """Map a file and yield its root table; faults found meanwhile get the file's name."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < 8:
                raise _FaultError("too short for a TFLite file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[4:8] != IDENTIFIER:
                    raise _FaultError(
                        f"not a TFLite file: expected {IDENTIFIER!r}, got {data[4:8]!r}"
                    )
                root = _Table(data, int(_unpack(data, "<I", 0)[0]))
                if root.uint32(0) != SCHEMA_VERSION:
                    raise _FaultError(
                        f"TFLite schema version {root.uint32(0)}, not {SCHEMA_VERSION}"
                    )
                yield root
    except _FaultError as fault:
        raise FileFormatError(f"{path}: {fault}") from fault
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error


def _children(table: _Table, name: str) -> list[tuple[_Table, str]]:
    kind = _SCHEMA[name]
    for field, item_bytes in kind.vectors.items():
        table.vector(field, item_bytes)
    found = [(table.table(field), child) for field, child in kind.tables.items()]
    for field, child in kind.vectors_of_tables.items():
        found += [(item, child) for item in table.tables(field)]
    if name == "Operator":
        with_shape = table.uint8(_OPTIONS_FIELD - 1) in _OPTIONS_WITH_SHAPE
        found.append((table.table(_OPTIONS_FIELD), "ShapeOptions" if with_shape else "Options"))
    return [(item, child) for item, child in found if item is not None]


def _check_indices(model: _Table) -> None:
    """Tensors must name existing buffers, operators existing codes and tensors."""
    buffers, codes = model.vector(4, 4)[1], model.vector(1, 4)[1]
    for graph in model.tables(2):
        tensors = graph.tables(0)
        for tensor in tensors:
            _check_index("buffer", tensor.uint32(2), buffers)
        lists = [graph.indices(1), graph.indices(2)]
        for operator in graph.tables(3):
            _check_index("operator code", operator.uint32(0), codes)
            lists += [operator.indices(1), operator.indices(2)]
        for indices in lists:
            for index in indices:
                if index != -1:  # an optional input that is left out
                    _check_index("tensor", index, len(tensors))


def _check_index(what: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise _FaultError(f"damaged: {what} {index} is used, but there are {count}")


def _unpack(data: mmap.mmap, layout: str, start: int) -> tuple[int, ...]:
    _need(data, start, struct.calcsize(layout))
    return struct.unpack_from(layout, data, start)


def _need(data: mmap.mmap, start: int, count: int) -> None:
    if start < 0 or start + count > len(data):
        raise _FaultError(
            f"damaged or truncated: needs bytes {start} to {start + count}, has {len(data)}"
        )
