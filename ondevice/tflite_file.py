"""Reads the description out of a .tflite file and checks its structure, trusting no offset in it.

A .tflite file is a flatbuffer (https://flatbuffers.dev/internals): tables that point at one
another by offsets. The TFLite runtimes follow those offsets unchecked, so a damaged file would
crash them; here every offset and count is compared with the file's size before it is followed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ondevice.deflated import inflate
from ondevice.errors import FileFormatError
from ondevice.held_bytes import FileBytes, read_file
from ondevice.limits import MAX_TFLITE_ELEMENTS
from ondevice.sealed import check_seal

METADATA_NAME = "ondevice.info"  # a deflated description
OLD_METADATA_NAME = "ondevice"  # JSON of version 1
IDENTIFIER = b"TFL3"
OLD_FILE = b"ondevice"  # the field "description" of files without a digest
NEW_FILE = "ondevice "  # what stands there before the digest's mark otherwise
SCHEMA_VERSION = 3


# Tensors hold numbers, except strings, resources and variants, whose bytes are offsets or pointers.
# The last known type is bfloat16.
_LAST_TENSOR_TYPE = 18
_TYPES_WITH_POINTERS = (5, 13, 14)


class _Kind(NamedTuple):
    """The fields that a table may have, by their number in the TFLite schema.

    Another field could hold an offset that nothing here checks: a table that has one is refused.
    """

    tables: dict[int, str]  # one table
    vectors_of_tables: dict[int, str]
    vectors: dict[int, int]  # of scalars: bytes per item
    texts: tuple[int, ...]  # strings, which end with a zero byte
    scalars: dict[int, int]  # bytes


_SCHEMA = {
    "Model": _Kind(
        {},
        {1: "OperatorCode", 2: "SubGraph", 4: "Buffer", 6: "Metadata", 7: "SignatureDef"},
        {5: 4},
        (3,),
        {0: 4},
    ),
    "OperatorCode": _Kind({}, {}, {}, (1,), {0: 1, 2: 4, 3: 4}),
    "SubGraph": _Kind({}, {0: "Tensor", 3: "Operator"}, {1: 4, 2: 4}, (4,), {}),
    "Tensor": _Kind({4: "Quantization"}, {}, {0: 4, 7: 4}, (3,), {1: 1, 2: 4, 5: 1, 8: 1}),
    "Quantization": _Kind({}, {}, {0: 4, 1: 4, 2: 4, 3: 8}, (), {4: 1, 6: 4}),
    "Operator": _Kind({}, {}, {1: 4, 2: 4, 5: 1, 7: 1, 8: 4}, (), {0: 4, 3: 1, 6: 1}),
    "Buffer": _Kind({}, {}, {0: 1}, (), {}),
    "Metadata": _Kind({}, {}, {}, (0,), {1: 4}),
    "SignatureDef": _Kind({}, {0: "TensorMap", 1: "TensorMap"}, {}, (2,), {4: 4}),
    "TensorMap": _Kind({}, {}, {}, (0,), {1: 4}),
}
# Operators that the converter writes: a file with another one is refused. Among the others are some
# that call graphs, without end, or that the runtimes run unchecked.
OPERATORS = {
    "ABS": 101,
    "ADD": 0,
    "ARG_MAX": 56,
    "ARG_MIN": 79,
    "BATCH_MATMUL": 126,
    "BITCAST": 159,
    "CAST": 53,
    "CEIL": 104,
    "CONCATENATION": 2,
    "CUMSUM": 128,
    "DEQUANTIZE": 6,
    "DIV": 42,
    "EQUAL": 71,
    "EXP": 47,
    "EXPAND_DIMS": 70,
    "FILL": 94,
    "FLOOR": 8,
    "FLOOR_MOD": 95,
    "FULLY_CONNECTED": 9,
    "GATHER": 36,
    "GATHER_ND": 107,
    "GREATER": 61,
    "GREATER_EQUAL": 62,
    "LEAKY_RELU": 98,
    "LESS": 58,
    "LESS_EQUAL": 63,
    "LOG": 73,
    "LOGICAL_AND": 86,
    "LOGICAL_NOT": 87,
    "LOGICAL_OR": 84,
    "LOGISTIC": 14,
    "MAXIMUM": 55,
    "MEAN": 40,
    "MINIMUM": 57,
    "MUL": 18,
    "NEG": 59,
    "NOT_EQUAL": 72,
    "PACK": 83,
    "PADV2": 60,
    "POW": 78,
    "QUANTIZE": 114,
    "REDUCE_MAX": 82,
    "REDUCE_MIN": 89,
    "REDUCE_PROD": 81,
    "RELU": 19,
    "RESHAPE": 22,
    "RIGHT_SHIFT": 161,
    "ROUND": 116,
    "SELECT_V2": 123,
    "SHAPE": 77,
    "SLICE": 65,
    "SOFTMAX": 25,
    "SQRT": 75,
    "SQUEEZE": 43,
    "STRIDED_SLICE": 45,
    "SUB": 41,
    "SUM": 74,
    "TANH": 28,
    "TOPK_V2": 48,
    "TRANSPOSE": 39,
    "UNPACK": 88,
}
_CODES = frozenset(OPERATORS.values())
_OPTIONS_FIELD = 4  # of Operator; field 3 says which kind of options it holds
_OPTIONS_WITH_SHAPE = (17, 30)  # ReshapeOptions, SqueezeOptions: a vector in field 0
_WIDEST_SCALAR = 8  # bytes
# Items of vectors that are read, for each byte of the file: of files that the converter writes, at
# most one, in all passes together.
_ITEMS_PER_BYTE = 4


def read_verified(path: Path) -> FileBytes:
    """All bytes of a file, once the digest in them is checked.

    Files of releases that wrote no digest (described as OLD_FILE) have none to check.

    Raises:
        FileFormatError: no such file, not TFLite, or damaged.
    """
    data = read_file(path)
    if check_seal(path, data) is None:
        with _open(path, data) as model:
            if model.text(3) != OLD_FILE:
                raise _FaultError("damaged, or not written by ondevice: it holds no digest")
    return data


def read_info(path: Path, data: FileBytes | None = None) -> bytes:
    """The description in the metadata of a file (see `ModelInfo.from_bytes`).

    Args:
        path: the file.
        data: its bytes, if they have been read already.

    Raises:
        FileFormatError: no such file, not TFLite, damaged, or not written by ondevice.
    """
    with _open(path, data) as model:
        for entry in model.tables(6):
            name = entry.text(0).decode(errors="replace")
            if name not in (METADATA_NAME, OLD_METADATA_NAME):
                continue
            buffers = model.tables(4)
            number = entry.uint32(1)
            if number >= len(buffers):
                raise _FaultError(f"its description is buffer {number} of {len(buffers)}")
            stored = buffers[number].text(0)
            if name == OLD_METADATA_NAME:
                return stored
            return inflate(stored, f"{path}: its description")
    raise FileFormatError(f"{path}: a TFLite file, but not one written by ondevice")


def check_structure(path: Path, data: FileBytes | None = None) -> None:
    """Check what the runtimes rely on, so that a damaged or crafted file cannot crash them.

    Every offset and count stays inside the file, no table has a field and no operator a kind that
    the converter does not write, every index names something, no operator reads a tensor before it
    is computed or writes one that the file stores, and tensors are of a plain type and of bounded
    size. The time it takes is linear in the file's size.

    Args:
        path: the file.
        data: its bytes, if they have been read already.

    Raises:
        FileFormatError: no such file, not TFLite, or damaged (a truncated file is).
    """
    with _open(path, data) as model:
        seen = set()
        waiting = [(model, "Model")]
        while waiting:
            table, name = waiting.pop()
            if (table.start, name) not in seen:
                seen.add((table.start, name))
                waiting += _children(table, name)
        _check_model(model)


class _FaultError(Exception):
    """What is wrong with the file, without its name."""


class _Budget:
    """Items of vectors that may still be read: vectors that lie on one another hold no more.

    A table of 20 bytes may name a vector of a million items, as a thousand other tables do.
    """

    def __init__(self, file_bytes: int) -> None:
        self._left = _ITEMS_PER_BYTE * file_bytes

    def spend(self, items: int) -> None:
        self._left -= items
        if self._left < 0:
            raise _FaultError("damaged: its tables share vectors, which hold more than the file")


class _Table:
    """One flatbuffer table; fields are counted from 0 in the order of the schema."""

    def __init__(self, data: FileBytes, start: int, budget: _Budget) -> None:
        self.data = data
        self.start = start
        self._budget = budget
        (back,) = _unpack(data, "<i", start)
        self._vtable = start - back
        self._vtable_bytes, size = _unpack(data, "<HH", self._vtable)
        _need(data, self._vtable, self._vtable_bytes)
        _need(data, start, size)
        self._bytes = size

    def place(self, field: int) -> int | None:
        """Where a field lies in the file; None if the table leaves it out."""
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return None
        (offset,) = _unpack(self.data, "<H", self._vtable + entry)
        if offset >= self._bytes > 0:
            raise _FaultError(f"damaged: field {field} lies outside its table at {self.start}")
        return self.start + offset if offset else None

    @property
    def fields(self) -> list[int]:
        """The fields that the table has."""
        return [n for n in range((self._vtable_bytes - 4) // 2) if self.place(n) is not None]

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
        self._budget.spend(count)
        return self.data[start : start + count]

    def check_text(self, field: int) -> None:
        """A string must end with a zero byte, which the runtimes look for."""
        start, count = self.vector(field, 1)
        if start and _unpack(self.data, "<B", start + count) != (0,):
            raise _FaultError(f"damaged: the text at {start} has no end")

    def indices(self, field: int) -> tuple[int, ...]:
        start, count = self.vector(field, 4)
        self._budget.spend(count)
        return _unpack(self.data, f"<{count}i", start)

    def table(self, field: int) -> _Table | None:
        target = self._target(field)
        return None if target is None else _Table(self.data, target, self._budget)

    def tables(self, field: int) -> list[_Table]:
        start, count = self.vector(field, 4)
        self._budget.spend(count)
        offsets = _unpack(self.data, f"<{count}I", start)
        return [
            _Table(self.data, start + 4 * i + offset, self._budget)
            for i, offset in enumerate(offsets)
        ]

    def _target(self, field: int) -> int | None:
        place = self.place(field)
        return None if place is None else place + int(_unpack(self.data, "<I", place)[0])


@contextmanager
def _open(path: Path, data: FileBytes | None) -> Iterator[_Table]:
    """Yield the root table of a file; faults found meanwhile get the file's name."""
    data = read_file(path) if data is None else data
    try:
        if len(data) < 8:
            raise _FaultError("too short for a TFLite file")
        if data[4:8] != IDENTIFIER:
            raise _FaultError(f"not a TFLite file: expected {IDENTIFIER!r}, got {data[4:8]!r}")
        root = _Table(data, int(_unpack(data, "<I", 0)[0]), _Budget(len(data)))
        if root.uint32(0) != SCHEMA_VERSION:
            raise _FaultError(f"TFLite schema version {root.uint32(0)}, not {SCHEMA_VERSION}")
        yield root
    except _FaultError as fault:
        raise FileFormatError(f"{path}: {fault}") from fault


def _children(table: _Table, name: str) -> list[tuple[_Table, str]]:
    """Check a table's own fields; return the tables that it points at, with their kinds."""
    if name == "Options":
        for field in table.fields:
            _need(table.data, table.place(field) or 0, _WIDEST_SCALAR)
        return []
    if name == "ShapeOptions":
        table.vector(0, 4)
        return []
    kind = _SCHEMA[name]
    known = {*kind.tables, *kind.vectors_of_tables, *kind.vectors, *kind.texts, *kind.scalars}
    if name == "Operator":
        known.add(_OPTIONS_FIELD)
    if strange := [field for field in table.fields if field not in known]:
        raise _FaultError(f"{name} has field {strange[0]}, which ondevice does not write")
    for field, item_bytes in kind.vectors.items():
        table.vector(field, item_bytes)
    for field in kind.texts:
        table.check_text(field)
    for field, size in kind.scalars.items():
        if (place := table.place(field)) is not None:
            _need(table.data, place, size)
    children = [(table.table(field), child) for field, child in kind.tables.items()]
    for field, child in kind.vectors_of_tables.items():
        children += [(item, child) for item in table.tables(field)]
    if name == "Operator":
        with_shape = table.uint8(_OPTIONS_FIELD - 1) in _OPTIONS_WITH_SHAPE
        children.append((table.table(_OPTIONS_FIELD), "ShapeOptions" if with_shape else "Options"))
    return [(item, child) for item, child in children if item is not None]


def _check_model(model: _Table) -> None:
    """Operators, indices between tables, the order of operators, and the sizes of tensors."""
    for code in model.tables(1):
        number = max(code.uint8(0), code.uint32(3))  # as the runtimes read it
        if number not in _CODES:
            raise _FaultError(f"operator {number}, which ondevice does not write")
    buffers = model.tables(4)
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise _FaultError(f"{len(graphs)} graphs; ondevice writes one")
    tensors = graphs[0].tables(0)
    for tensor in tensors:
        _check_index("buffer", tensor.uint32(2), len(buffers))
    for entry in model.tables(6):
        _check_index("buffer", entry.uint32(1), len(buffers))
    for signature in model.tables(7):
        _check_index("graph", signature.uint32(4), len(graphs))
        for entry in (*signature.tables(0), *signature.tables(1)):
            _check_index("tensor", entry.uint32(1), len(tensors))
    stored = [buffers[tensor.uint32(2)].vector(0, 1)[1] > 0 for tensor in tensors]
    _check_sizes(tensors, stored)
    _check_order(graphs[0], stored, len(model.tables(1)))


def _check_sizes(tensors: list[_Table], stored: list[bool]) -> None:
    """Tensors must be of a plain type; what is computed must not take gigabytes."""
    elements = 0
    for tensor, is_stored in zip(tensors, stored, strict=True):
        if tensor.uint8(1) > _LAST_TENSOR_TYPE or tensor.uint8(1) in _TYPES_WITH_POINTERS:
            raise _FaultError(f"a tensor of type {tensor.uint8(1)}, which ondevice does not write")
        shape = tensor.indices(0)
        if any(size < 0 for size in shape):
            raise _FaultError(f"damaged: a tensor of shape {list(shape)}")
        elements += 0 if is_stored else math.prod(shape)
    if elements > MAX_TFLITE_ELEMENTS:
        raise _FaultError(f"tensors of {elements} elements; the limit is {MAX_TFLITE_ELEMENTS}")


def _check_order(graph: _Table, stored: list[bool], codes: int) -> None:
    """Operators read what exists, and write each tensor once and none that the file stores.

    No input is left out (-1): the runtimes do not check which operators can do without.
    """
    known = list(stored)
    for index in graph.indices(1):
        _check_index("tensor", index, len(known))
        if stored[index]:
            raise _FaultError(f"damaged: input {index} is stored in the file")
        known[index] = True
    for operator in graph.tables(3):
        _check_index("operator code", operator.uint32(0), codes)
        for index in operator.indices(1):
            _check_index("tensor", index, len(known))
            if not known[index]:
                raise _FaultError(f"damaged: tensor {index} is read before it is computed")
        for index in operator.indices(2):
            _check_index("tensor", index, len(known))
            if known[index]:
                raise _FaultError(f"damaged: tensor {index} is written twice")
            known[index] = True
        for index in operator.indices(8):
            _check_index("tensor", index, len(known))
    for index in graph.indices(2):
        _check_index("tensor", index, len(known))
        if not known[index]:
            raise _FaultError(f"damaged: output {index} is never computed")


def _check_index(what: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise _FaultError(f"damaged: {what} {index} is used, but there are {count}")


def _unpack(data: FileBytes, layout: str, start: int) -> tuple[int, ...]:
    _need(data, start, struct.calcsize(layout))
    return struct.unpack_from(layout, data, start)


def _need(data: FileBytes, start: int, count: int) -> None:
    if start < 0 or start + count > len(data):
        raise _FaultError(
            f"damaged or truncated: needs bytes {start} to {start + count}, has {len(data)}"
        )
