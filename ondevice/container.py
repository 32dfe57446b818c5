"""A checked safetensors container: named, aligned arrays and text, mapped into memory.

Format: https://github.com/huggingface/safetensors (8-byte header length, JSON header, one buffer
without holes). On top of it: arrays start on 64-byte boundaries, large ones on pages, through
named padding entries; the header's own CRC-32 is the first array, those of the other arrays are
in the header.
"""

from __future__ import annotations

import json
import math
import mmap
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError
from ondevice.limits import MAX_HEADER_BYTES, MAX_RANK

Array = npt.NDArray[Any]

HEADER_CRC = "ondevice.header_crc32"
PADDING_PREFIX = "ondevice.padding."
CHECKSUMS = "crc32"
ALIGNMENT = 64  # a cache line
PAGE = 4096
PAGED_BYTES = 16 * PAGE  # from this size on, an array starts on a page
ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
WIDEST_CRC = 2**32 - 1  # as a number of JSON it takes the most digits

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Reserved:
    """Room for an array that is written piece by piece and is never in memory as a whole."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class Entry(NamedTuple):
    """Where an array lies: dtype, shape, and byte range within the file.

    A tuple, because a header may have 100,000 of them and a frozen dataclass takes five times as
    long to make.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Container:
    """An opened container; arrays are read-only views of the mapped file."""

    path: Path
    metadata: dict[str, str]
    entries: dict[str, Entry]
    header_bytes: int
    data: npt.NDArray[np.uint8]

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def array(self, name: str) -> Array:
        """The array called `name`. Raises FileFormatError when the file has none."""
        if name not in self.entries:
            raise FileFormatError(f"{self.path}: array {name!r} is missing")
        entry = self.entries[name]
        return self.data[entry.start : entry.stop].view(entry.dtype).reshape(entry.shape)

    def verify(self) -> None:
        """Compare every array with its checksum.

        Raises:
            FileFormatError: an array does not match, or has no checksum.
        """
        checksums = self._checksums()
        for name, entry in self.entries.items():
            if name == HEADER_CRC or name.startswith(PADDING_PREFIX):
                continue
            if name not in checksums:
                raise FileFormatError(f"{self.path}: array {name!r} has no checksum")
            if zlib.crc32(self.data[entry.start : entry.stop].data) != checksums[name]:
                raise FileFormatError(f"{self.path}: array {name!r} is damaged (CRC-32 differs)")

    def _checksums(self) -> dict[str, Any]:
        try:
            checksums = json.loads(self.metadata.get(CHECKSUMS, ""))
        except (json.JSONDecodeError, RecursionError) as error:
            raise FileFormatError(f"{self.path}: no checksums in the header") from error
        if not isinstance(checksums, dict):
            raise FileFormatError(f"{self.path}: no checksums in the header")
        return checksums


class ContainerWriter:
    """Writes a container: plain arrays at once, reserved ones piece by piece, the header last."""

    def __init__(
        self, path: Path, arrays: Mapping[str, Array | Reserved], metadata: Mapping[str, str]
    ) -> None:
        """Create `path` with all arrays but the reserved ones (see the module text)."""
        self._path, self._metadata = path, metadata
        self._layout: dict[str, Array | Reserved] = {HEADER_CRC: np.zeros(1, dtype="<u4")}
        self._starts: dict[str, int] = {}
        position = 4
        for name, array in arrays.items():
            stored = _storable(name, array)
            alignment = PAGE if stored.nbytes >= PAGED_BYTES else ALIGNMENT
            if gap := -position % alignment:
                self._layout[f"{PADDING_PREFIX}{len(self._layout)}"] = np.zeros(gap, np.uint8)
            self._layout[name], self._starts[name] = stored, position + gap
            position += gap + stored.nbytes
        # checksums are known only when everything is written, so space for the header is reserved
        widest = dict.fromkeys(arrays, WIDEST_CRC)
        self._header_bytes = len(_header(self._layout, metadata, widest))
        self._checksums = dict.fromkeys(arrays, 0)
        self._written = dict.fromkeys(arrays, 0)
        with path.open("wb") as file:
            file.truncate(self._header_bytes + position)
            for name in arrays:
                array = self._layout[name]
                if not isinstance(array, Reserved):
                    self.append(file, name, array)

    def append(self, file: BinaryIO, name: str, piece: Array) -> None:
        """Write the next elements of a reserved array; `file` is open for writing at any place."""
        dtype = self._layout[name].dtype.newbyteorder("<")
        data = np.ascontiguousarray(piece, dtype).reshape(-1)
        raw = data.view(np.uint8).data
        file.seek(self._header_bytes + self._starts[name] + self._written[name])
        file.write(raw)
        self._checksums[name] = zlib.crc32(raw, self._checksums[name])
        self._written[name] += data.nbytes

    def finish(self, file: BinaryIO) -> None:
        """Write the header.

        Raises:
            FileFormatError: a reserved array is not complete.
        """
        for name, written in self._written.items():
            if written != (expected := self._layout[name].nbytes):
                raise FileFormatError(
                    f"{self._path}: array {name!r}: {written} bytes came, {expected} were expected"
                )
        header = _header(self._layout, self._metadata, self._checksums, self._header_bytes)
        file.seek(0)
        file.write(header)
        file.write(zlib.crc32(header).to_bytes(4, "little"))


def write_container(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to `path` (see the module text for the layout)."""
    writer = ContainerWriter(path, arrays, metadata)
    with path.open("r+b") as file:
        writer.finish(file)


def open_container(path: Path) -> Container:
    """Map a container and check its header completely; array contents are not read.

    Raises:
        FileFormatError: anything in the header that the format forbids.
    """
    data = _map(path)
    header, header_bytes = _read_header(path, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileFormatError(f"{path}: __metadata__ must map names to texts")
    entries = _entries(path, header, header_bytes, data.size)
    container = Container(path, metadata, entries, header_bytes, data)
    expected = container.array(HEADER_CRC)
    if expected.dtype != np.dtype("<u4") or expected.shape != (1,):
        raise FileFormatError(f"{path}: {HEADER_CRC} must be one U32")
    if zlib.crc32(data[:header_bytes].data) != int(expected[0]):
        raise FileFormatError(f"{path}: the header is damaged (CRC-32 differs)")
    return container


def _storable(name: str, array: Array | Reserved) -> Array | Reserved:
    little = array.dtype.newbyteorder("<")
    if little not in _NAMES:
        raise FileFormatError(f"array {name!r}: dtype {array.dtype} cannot be stored")
    if isinstance(array, Reserved):
        return array
    return np.asarray(array, dtype=little, order="C")  # ascontiguousarray gives scalars an axis


def _header(
    layout: Mapping[str, Array | Reserved],
    metadata: Mapping[str, str],
    checksums: Mapping[str, int],
    size: int = 0,
) -> bytes:
    """The header, filled up with spaces to `size` bytes or more, so that the buffer is aligned."""
    text = json.dumps(dict(checksums), sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {**metadata, CHECKSUMS: text}}
    position = 0
    for name, array in layout.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    paged = any(array.nbytes >= PAGED_BYTES for array in layout.values())
    whole = len(encoded) + 8
    whole += -whole % (PAGE if paged else ALIGNMENT)  # where the buffer starts
    encoded = encoded.ljust(max(whole, size) - 8)
    return len(encoded).to_bytes(8, "little") + encoded


def _map(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 8:
                raise FileFormatError(f"{path}: {size} bytes is too short for a model file")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    return np.frombuffer(mapped, dtype=np.uint8)


def _read_header(path: Path, data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(MAX_HEADER_BYTES, data.size - 8):
        raise FileFormatError(
            f"{path}: header length {length} exceeds the file ({data.size} bytes) "
            "or the format's limit; not a model file, or cut off"
        )
    try:
        text = data[8 : 8 + length].tobytes().decode("utf-8")
        header = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: the header must be a JSON object")
    return header, 8 + length


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, for json.loads. Raises ValueError if a key occurs twice."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a name occurs twice")
    return keys


def _entries(
    path: Path, header: dict[str, Any], header_bytes: int, file_size: int
) -> dict[str, Entry]:
    entries = {
        name: _entry(path, name, item, header_bytes, file_size) for name, item in header.items()
    }
    position = header_bytes
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            raise FileFormatError(f"{path}: array {name!r} leaves a hole or overlaps another")
        position = entry.stop
    if position != file_size:
        raise FileFormatError(
            f"{path}: arrays end at byte {position}, the file has {file_size}; cut off?"
        )
    return entries


def _entry(path: Path, name: str, item: Any, header_bytes: int, file_size: int) -> Entry:
    fault = f"{path}: array {name!r}: "
    if not isinstance(item, dict) or item.keys() != ENTRY_KEYS:
        raise FileFormatError(fault + "expected dtype, shape and data_offsets")
    if not isinstance(item["dtype"], str) or item["dtype"] not in _DTYPES:
        raise FileFormatError(fault + f"unknown dtype {item['dtype']!r}")
    dtype = _DTYPES[item["dtype"]]
    shape, offsets = item["shape"], item["data_offsets"]
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2 and len(shape) <= MAX_RANK):
        raise FileFormatError(fault + "shape and data_offsets must be lists of sizes")
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    start, stop = (header_bytes + cast(int, offset) for offset in offsets)
    if stop > file_size or stop - start != size:
        raise FileFormatError(fault + f"needs {size} bytes, has {offsets} of {file_size}")
    return Entry(dtype, tuple(shape), start, stop)


def _sizes(values: Any) -> bool:
    """Whether it is a list of sizes: integers, True and False not among them."""
    if not isinstance(values, list) or not {int}.issuperset(map(type, values)):
        return False
    return not values or (min(values) >= 0 and max(values) < 2**63)
