"""Checks the structure of an .onnx file before a runtime opens it, trusting no length in it.

An .onnx file is a message of protobuf (https://protobuf.dev/programming-guides/encoding). A few
hundred bytes of it can stand for a graph of any size, by functions that call functions, or for a
tensor that has no bytes: what follows from the file is bounded here before anything is built of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ondevice.errors import FileFormatError
from ondevice.held_bytes import FileBytes
from ondevice.limits import MAX_ONNX_DEPTH, MAX_ONNX_NODES

# Numbers of fields in onnx.proto3, by message.
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTION = 7, 14, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_OVERLOAD = 4, 5, 7, 8
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = (22, 23)
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_FUNCTION_ATTRIBUTE, _FUNCTION_OVERLOAD = 11, 13
_TENSOR_DIMS, _TENSOR_EXTERNAL = 1, 13
_TENSOR_VALUES = (4, 5, 6, 7, 9, 10, 11)  # float_data to uint64_data
_KEY, _VALUE = 1, 2  # of an entry of text

# Wire types of protobuf, and the bytes that those of a fixed size take.
_VARINT, _DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
_VARINT_BYTES = 10  # at most
# Numbers of an attribute one by one, as its fields `floats` and `ints` are written: of a tree
# ensemble there are millions.
_NUMBERS = re.compile(rb"(?:\x3d[\s\S]{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f])++")

_NO_ONNX = "not an ONNX file, or damaged"
_VALUES_PER_BYTE = 8  # a value of a tensor takes a bit or more

Place = tuple[int, int]  # where a message lies: its first byte, and the byte behind its last
Function = tuple[str, str, str]  # domain, name and overload


@dataclass(frozen=True)
class OnnxStructure:
    """What an .onnx file holds, as far as it matters before a runtime opens it.

    Attributes:
        external: how many values are claimed to lie in each file of external data, by its name.
        metadata: texts by name.
        with_graphs: operators that hold a graph of their own, such as "Loop", by name.
    """

    external: dict[str, int]
    metadata: dict[str, str]
    with_graphs: frozenset[str]


def check_structure(path: Path, data: FileBytes) -> OnnxStructure:
    """Check what a file claims, in a time that depends on its own size only.

    Graphs and functions nest to at most MAX_ONNX_DEPTH levels; with every function in the place of
    its calls there are at most MAX_ONNX_NODES nodes; no function calls itself; a tensor has bytes
    for its values, or names a file beside this one that has; no tensor is sparse.

    Args:
        path: begins the text of errors.
        data: all bytes of the file.

    Raises:
        FileFormatError: a claim is wrong, or the file is no protobuf.
    """
    reader = _Reader(data)
    try:
        reader.read_model()
        reader.check_expanded()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: a name in it is no text") from error
    except _FaultError as error:
        raise FileFormatError(f"{path}: {error}") from error
    names = set(reader.external)
    plain = {name for name in names if Path(name).name == name != ".." and "\0" not in name}
    if strange := sorted(names - plain):
        raise FileFormatError(f"{path}: its external data {strange[0]!r} is not beside it")
    external = dict(sorted(reader.external.items()))
    return OnnxStructure(external, reader.metadata, frozenset(reader.with_graphs))


def check_external(path: Path, structure: OnnxStructure, name: str, size: int) -> None:
    """Compare what a file claims of external data with that data's size in bytes.

    Raises:
        FileFormatError: it claims more values than there are.
    """
    claimed = structure.external[name]
    if claimed > size * _VALUES_PER_BYTE:
        raise FileFormatError(
            f"{path}: claims {claimed} values in {name!r}, which has {size} bytes"
        )


class _FaultError(Exception):
    """What is wrong in the file, without its name."""


class _Field(NamedTuple):
    """One field of a message: its number, its wire type, and its content.

    The content is where it lies; of a number (`_VARINT`) its value comes first, then 0.
    """

    number: int
    kind: int
    place: Place


@dataclass
class _Body:
    """The nodes of a graph or function, with those of the graphs inside it.

    Attributes:
        nodes: how many there are.
        depth: how deep graphs are nested in it.
        calls: how often each operator is used, as a function that it may name.
    """

    nodes: int = 0
    depth: int = 0
    calls: Counter[Function] = field(default_factory=Counter)


class _Reader:
    """Walks once over a file; see `check_structure`."""

    def __init__(self, data: FileBytes) -> None:
        self.data = data
        self.external: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.with_graphs: set[str] = set()
        self._main = _Body()
        self._functions: dict[Function, _Body] = {}
        self._expanded: dict[Function, tuple[int, int]] = {}

    def read_model(self) -> None:
        """Read the whole file. Raises _FaultError."""
        graphs = 0
        for item in self._messages((0, len(self.data))):
            if item.number == _MODEL_GRAPH:
                graphs += 1
                self._graph(item.place, self._main, 0)
            elif item.number == _MODEL_FUNCTION:
                self._function(item.place)
            elif item.number == _MODEL_METADATA:
                key, value = self._entry(item.place)
                self.metadata[key] = value
        if graphs != 1:
            raise _FaultError(f"{_NO_ONNX}: {graphs} graphs; expected one")

    def check_expanded(self) -> None:
        """Bound the graph in which every function stands in the place of its calls."""
        nodes = self._main.nodes
        for name, count in self._main.calls.items():
            inner, _ = self._function_size(name, self._main.depth + 1)
            nodes += count * inner
        _check_nodes(nodes)

    def _function_size(self, name: Function, depth: int) -> tuple[int, int]:
        """The nodes of a function in which functions are expanded, and how deep they nest."""
        body = self._functions.get(name)
        if body is None:
            return 0, 0
        if name in self._expanded:
            _check_depth(depth + self._expanded[name][1])
            return self._expanded[name]
        _check_depth(depth + body.depth)  # and so a function that calls itself
        nodes, deepest = body.nodes, 0
        for called, count in body.calls.items():
            inner, height = self._function_size(called, depth + body.depth + 1)
            nodes += count * inner
            deepest = max(deepest, height + 1 if inner else 0)
        self._expanded[name] = nodes, body.depth + deepest
        return self._expanded[name]

    def _graph(self, place: Place, body: _Body, depth: int) -> None:
        _check_depth(depth)
        body.depth = max(body.depth, depth)
        for item in self._messages(place):
            if item.number == _GRAPH_NODE:
                self._node(item.place, body, depth)
            elif item.number == _GRAPH_INITIALIZER:
                self._tensor(item.place)
            elif item.number == _GRAPH_SPARSE:
                raise _FaultError("it has a sparse tensor")

    def _function(self, place: Place) -> None:
        body, names = _Body(), {}
        for item in self._messages(place):
            if item.number == _FUNCTION_NODE:
                self._node(item.place, body, 0)
            elif item.number == _FUNCTION_ATTRIBUTE:
                self._attribute(item.place, body, 0)
            elif item.number in (_FUNCTION_NAME, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD):
                names[item.number] = self._text(item.place)
        name = _function_name(
            names.get(_FUNCTION_DOMAIN, ""),
            names.get(_FUNCTION_NAME, ""),
            names.get(_FUNCTION_OVERLOAD, ""),
        )
        if name in self._functions:
            raise _FaultError(f"the function {name[1]!r} stands there twice")
        self._functions[name] = body

    def _node(self, place: Place, body: _Body, depth: int) -> None:
        body.nodes += 1
        _check_nodes(body.nodes)
        names, has_graph = {}, False
        for item in self._messages(place):
            if item.number == _NODE_ATTRIBUTE:
                has_graph |= self._attribute(item.place, body, depth)
            elif item.number in (_NODE_OPERATOR, _NODE_DOMAIN, _NODE_OVERLOAD):
                names[item.number] = self._text(item.place)
        operator = names.get(_NODE_OPERATOR, "")
        domain, overload = names.get(_NODE_DOMAIN, ""), names.get(_NODE_OVERLOAD, "")
        body.calls[_function_name(domain, operator, overload)] += 1
        if has_graph:
            self.with_graphs.add(operator)

    def _attribute(self, place: Place, body: _Body, depth: int) -> bool:
        """Read an attribute; whether it holds a graph."""
        held = Counter[int]()
        for item in self._messages(place):
            held[item.number] += 1
            if item.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                self._graph(item.place, body, depth + 1)
            elif item.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                self._tensor(item.place)
            elif item.number in _ATTRIBUTE_SPARSE:
                raise _FaultError("it has a sparse tensor")
        if max(held[_ATTRIBUTE_GRAPH], held[_ATTRIBUTE_TENSOR]) > 1:  # would be read as one
            raise _FaultError(f"the attribute at byte {place[0]} has two values")
        return bool(held[_ATTRIBUTE_GRAPH] + held[_ATTRIBUTE_GRAPHS])

    def _tensor(self, place: Place) -> None:
        """Compare the shape of a tensor with what it stores."""
        shape: list[int] = []
        stored, location = 0, None
        for item in self._fields(place):
            start, stop = item.place
            if item.number == _TENSOR_DIMS:
                shape += [start] if item.kind == _VARINT else self._numbers(item.place)
            elif item.number in _TENSOR_VALUES:
                stored += 1 if item.kind == _VARINT else stop - start + 1
            elif item.number == _TENSOR_EXTERNAL and item.kind == _DELIMITED:
                key, value = self._entry(item.place)
                location = value if key == "location" else location
        if any(size >= 2**63 for size in shape):
            raise _FaultError(f"a tensor of a negative size at byte {place[0]}")
        values = math.prod(shape)
        if location is not None:
            self.external[location] = max(values, self.external.get(location, 0))
        elif values > stored * _VALUES_PER_BYTE:
            raise _FaultError(
                f"a tensor of {values} values at byte {place[0]} has {stored} bytes for them"
            )

    def _entry(self, place: Place) -> tuple[str, str]:
        """A key and its text; of fields that come twice, protobuf reads the last."""
        texts = {item.number: item.place for item in self._messages(place)}
        key, value = (self._text(texts.get(number, (0, 0))) for number in (_KEY, _VALUE))
        return key, value

    def _text(self, place: Place) -> str:
        return self.data[place[0] : place[1]].decode()

    def _numbers(self, place: Place) -> Iterator[int]:
        at, stop = place
        while at < stop:
            value, at = _varint(self.data, at, stop)
            yield value

    def _messages(self, place: Place) -> Iterator[_Field]:
        """The fields of a message that have a length: texts and messages."""
        return (item for item in self._fields(place) if item.kind == _DELIMITED)

    def _fields(self, place: Place) -> Iterator[_Field]:
        """All fields of a message. Raises _FaultError where one leaves it."""
        data = self.data
        at, stop = place
        while at < stop:
            if data[at] in (0x3D, 0x40) and (run := _NUMBERS.match(data, at, stop)):
                at = run.end()
                continue
            tag, at = _varint(data, at, stop)
            kind = tag & 7
            if kind == _VARINT:
                value, at = _varint(data, at, stop)
                yield _Field(tag >> 3, kind, (value, 0))
                continue
            size = _FIXED.get(kind)
            if kind == _DELIMITED:
                size, at = _varint(data, at, stop)
            if size is None or size > stop - at:
                raise _FaultError(
                    f"{_NO_ONNX}: a field of wire type {kind} leaves its message at byte {at}"
                )
            yield _Field(tag >> 3, kind, (at, at + size))
            at += size


def _function_name(domain: str, name: str, overload: str) -> Function:
    return "" if domain == "ai.onnx" else domain, name, overload


def _check_nodes(count: int) -> None:
    if count > MAX_ONNX_NODES:
        raise _FaultError(
            f"{count} nodes, with every function in the place of its calls; the limit is "
            f"{MAX_ONNX_NODES}"
        )


def _check_depth(depth: int) -> None:
    if depth > MAX_ONNX_DEPTH:
        raise _FaultError(
            f"graphs and functions nest deeper than {MAX_ONNX_DEPTH} levels, or call themselves"
        )


def _varint(data: FileBytes, at: int, stop: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(at, min(at + _VARINT_BYTES, stop)):
        value |= (data[place] & 0x7F) << 7 * (place - at)
        if data[place] < 0x80:
            return value, place + 1
    raise _FaultError(f"{_NO_ONNX}: a number has no end at byte {at}")
