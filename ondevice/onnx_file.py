"""Reads out of an .onnx file which files hold its external data, trusting no length in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ondevice.errors import FileFormatError
from ondevice.held_bytes import FileBytes

# Numbers of fields in onnx.proto3.
_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_EXTERNAL_DATA = 13  # of TensorProto: entries of key and value
_KEY, _VALUE = 1, 2

# Wire types of protobuf, and the bytes that those of a fixed size take.
_VARINT, _DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
_VARINT_BYTES = 10  # at most


class _FaultError(Exception):
    """What is wrong in the file; `external_files` says in which."""


def external_files(path: Path, data: FileBytes) -> list[str]:
    """The names of the files with data of the initializers, in order; they must lie beside it.

    Args:
        path: begins the text of errors.
        data: all bytes of the file.

    Raises:
        FileFormatError: the file is no protobuf, or a name is no plain file name.
    """
    if data.find(b"location") < 0:
        return []
    names = set()
    try:
        for graph in _fields(data, (0, len(data)), _GRAPH):
            for tensor in _fields(data, graph, _INITIALIZER):
                for entry in _fields(data, tensor, _EXTERNAL_DATA):
                    if _text(data, entry, _KEY) == b"location":
                        names.add(_text(data, entry, _VALUE).decode())
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: the name of its external data is no text") from error
    except _FaultError as error:
        raise FileFormatError(f"{path}: not an ONNX file, or damaged: {error}") from error
    plain = {name for name in names if Path(name).name == name != ".." and "\0" not in name}
    if strange := sorted(names - plain):
        raise FileFormatError(f"{path}: its external data {strange[0]!r} is not beside it")
    return sorted(names)


def _text(data: FileBytes, place: tuple[int, int], number: int) -> bytes:
    """The last field of a number, as protobuf reads fields that come twice; empty without one."""
    text = b""
    for start, stop in _fields(data, place, number):
        text = data[start:stop]
    return text


def _fields(data: FileBytes, place: tuple[int, int], number: int) -> Iterator[tuple[int, int]]:
    """Where the contents of all delimited fields of a number lie, in a message at a place."""
    at, stop = place
    while at < stop:
        tag, at = _varint(data, at, stop)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at, stop)
            continue
        size = _FIXED.get(kind)
        if kind == _DELIMITED:
            size, at = _varint(data, at, stop)
        if size is None or size > stop - at:
            raise _FaultError(f"a field of wire type {kind} leaves its message at byte {at}")
        if kind == _DELIMITED and tag >> 3 == number:
            yield at, at + size
        at += size


def _varint(data: FileBytes, at: int, stop: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(at, min(at + _VARINT_BYTES, stop)):
        value |= (data[place] & 0x7F) << 7 * (place - at)
        if data[place] < 0x80:
            return value, place + 1
    raise _FaultError(f"a number has no end at byte {at}")
