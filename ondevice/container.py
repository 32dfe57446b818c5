"""A checked safetensors container: named, aligned arrays and text, read into memory.

Format: https://github.com/huggingface/safetensors (8-byte header length, JSON header, one buffer
without holes). On top of it: arrays below 4 KiB lie together in one array, whose index is
deflated, because an entry of the header takes a hundred bytes; others start on 64-byte boundaries,
very large ones on pages, through named padding entries; the checksums are an array. In files of
versions 1 and 2 every array has an entry, and checksums but the header's are in the header.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ondevice.deflated import deflate, inflate
from ondevice.errors import FileFormatError
from ondevice.held_bytes import read_file
from ondevice.limits import MAX_ARRAYS, MAX_HEADER_BYTES, MAX_PLAN_BYTES, MAX_RANK
from ondevice.strict_json import parse_strictly

Array = npt.NDArray[Any]

CHECKSUMS = "ondevice.crc32"  # of the header, then of the arrays in the order of their places
INDEX = "ondevice.index"
SMALL = "ondevice.small"
PADDING_PREFIX = "ondevice.padding."
HEADER_CRC = "ondevice.header_crc32"  # of versions 1 and 2
OLD_CHECKSUMS = "crc32"  # of versions 1 and 2: metadata
SMALL_BYTES = 4096  # arrays below it lie in the array SMALL
SMALL_ALIGNMENT = 8
SMALL_GAP = 4  # arrays in SMALL start at multiples of it: bytes may be records of wider values
OVERRUN = 64  # bytes at least that follow every array of bytes: loads of records may read on
ALIGNMENT = 64  # a cache line
PAGE = 4096
PAGED_BYTES = 256 * PAGE  # from this size on, an array starts on a page, at 0.4 % of its bytes
ENTRY_KEYS = {"dtype", "shape", "data_offsets"}

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


# Of arrays that are alike: dtype, shape and bytes of each.
Kind = tuple[np.dtype[Any], tuple[int, ...], int]


class _SmallEntries(Mapping[str, Entry]):
    """Entries of the arrays within SMALL, each created when it is asked for."""

    def __init__(
        self,
        places: dict[str, int],
        kinds: list[Kind],
        numbers: list[int],
        starts: npt.NDArray[np.int64],
    ) -> None:
        """Take the place of every name in `numbers` (of its kind) and `starts` (in the file)."""
        self._places, self._kinds, self._numbers, self._starts = places, kinds, numbers, starts

    def __getitem__(self, name: str) -> Entry:
        place = self._places[name]
        dtype, shape, size = self._kinds[self._numbers[place]]
        start = int(self._starts[place])
        return Entry(dtype, shape, start, start + size)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def of_type(self, dtype: npt.DTypeLike) -> list[str]:
        """Names of the arrays of a dtype, without an entry for each array."""
        alike = {number for number, kind in enumerate(self._kinds) if kind[0] == dtype}
        if not alike:
            return []
        return [name for name, place in self._places.items() if self._numbers[place] in alike]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class Container:
    """An opened container; arrays are read-only views of the file's bytes.

    Attributes:
        stored: entries of the header by name, in the order of their places.
        small: of the arrays within the array of small ones, which the header does not list.
    """

    path: Path
    metadata: dict[str, str]
    stored: dict[str, Entry]
    small: Mapping[str, Entry]
    header_bytes: int
    data: npt.NDArray[np.uint8]

    def __contains__(self, name: str) -> bool:
        return name in self.stored or name in self.small

    @functools.cached_property
    def entries(self) -> dict[str, Entry]:
        """Where every array lies, by name."""
        return {**self.stored, **self.small}

    def of_type(self, dtype: npt.DTypeLike) -> list[str]:
        """Names of the arrays of a dtype."""
        stored = [name for name, entry in self.stored.items() if entry.dtype == dtype]
        return stored + (self.small.of_type(dtype) if isinstance(self.small, _SmallEntries) else [])

    def entry(self, name: str) -> Entry:
        """Where an array lies. Raises FileFormatError when the file has none of this name."""
        if name not in self:
            raise FileFormatError(f"{self.path}: array {name!r} is missing")
        return self.stored[name] if name in self.stored else self.small[name]

    def array(self, name: str) -> Array:
        """The array called `name`. Raises FileFormatError when the file has none."""
        entry = self.entry(name)
        return np.ndarray(entry.shape, entry.dtype, self.data, entry.start)

    def text(self, name: str, most: int = MAX_HEADER_BYTES) -> bytes:
        """The bytes that an array holds deflated, `most` of them. Raises FileFormatError."""
        array = self.array(name)
        if array.dtype != np.uint8 or array.ndim != 1:
            raise FileFormatError(f"{self.path}: array {name!r} must be bytes in one dimension")
        return inflate(array.tobytes(), f"{self.path}: array {name!r}", most)

    def verify(self) -> None:
        """Compare every array with its checksum.

        Raises:
            FileFormatError: an array does not match, or has no checksum.
        """
        checksums = self._checksums()
        for name in self._checked():
            entry = self.stored[name]
            if name not in checksums:
                raise FileFormatError(f"{self.path}: array {name!r} has no checksum")
            if zlib.crc32(self.data[entry.start : entry.stop].data) != checksums[name]:
                raise FileFormatError(f"{self.path}: array {name!r} is damaged (CRC-32 differs)")

    def _checked(self) -> list[str]:
        """Names of the arrays that have checksums."""
        unchecked = (HEADER_CRC, CHECKSUMS)
        names = (name for name in self.stored if name not in unchecked)
        return [name for name in names if not name.startswith(PADDING_PREFIX)]

    def _checksums(self) -> dict[str, Any]:
        if CHECKSUMS in self.stored:
            return dict(zip(self._checked(), self.array(CHECKSUMS)[1:].tolist(), strict=False))
        try:
            checksums = parse_strictly(self.metadata.get(OLD_CHECKSUMS, ""))
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{self.path}: no checksums in the header") from error
        if not isinstance(checksums, dict):
            raise FileFormatError(f"{self.path}: no checksums in the header")
        return checksums

    def check_header(self) -> None:
        """Compare the header with its checksum. Raises FileFormatError."""
        name = CHECKSUMS if CHECKSUMS in self.stored else HEADER_CRC
        sums = self.array(name)
        count = len(self._checked()) + 1 if name == CHECKSUMS else 1
        if sums.dtype != np.dtype("<u4") or sums.shape != (count,):
            raise FileFormatError(f"{self.path}: {name} must be {count} U32")
        if zlib.crc32(self.data[: self.header_bytes].data) != int(sums[0]):
            raise FileFormatError(f"{self.path}: the header is damaged (CRC-32 differs)")


class Views(Mapping[str, Array]):
    """Arrays of a container by the rest of their names, each a view that is created when it is
    read: a file may have 100,000 arrays, and a plan that reads ten of them.
    """

    def __init__(self, container: Container, prefix: str, names: Iterable[str]) -> None:
        """Stand for the arrays called `prefix` + name. Raises FileFormatError: one is missing."""
        self._container, self._prefix, self._names = container, prefix, dict.fromkeys(names)
        arrays = {prefix + name for name in self._names}
        if missing := arrays.difference(container.stored, container.small):
            raise FileFormatError(f"{container.path}: array {min(missing)!r} is missing")

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._container.array(self._prefix + name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ContainerWriter:
    """Writes a container: plain arrays at once, reserved ones piece by piece, checksums last."""

    def __init__(
        self, path: Path, arrays: Mapping[str, Array | Reserved], metadata: Mapping[str, str]
    ) -> None:
        """Create `path` with all arrays but the reserved ones (see the module text)."""
        _check_count(path, len(arrays))
        self._path = path
        self._arrays = {name: _storable(name, array) for name, array in arrays.items()}
        self._small_starts = _small_starts(self._arrays)
        self._small = bytearray(_small_bytes(self._arrays, self._small_starts))
        index = _index(self._arrays, self._small_starts)
        self._layout, self._starts = _layout(self._arrays, index, len(self._small))
        self._header = _header(self._layout, metadata)
        self._checksums = dict.fromkeys(self._starts, 0)
        self._written = dict.fromkeys(arrays, 0)
        with path.open("wb") as file:
            file.truncate(len(self._header) + sum(item.nbytes for item in self._layout.values()))
            self._write(file, INDEX, index)
            for name, array in self._arrays.items():
                if not isinstance(array, Reserved):
                    self.append(file, name, array)

    def append(self, file: BinaryIO, name: str, piece: Array) -> None:
        """Write the next elements of a reserved array; `file` is open for writing at any place."""
        dtype = self._arrays[name].dtype.newbyteorder("<")
        raw = np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8)
        written = self._written[name]
        self._written[name] += raw.nbytes
        if name not in self._small_starts:
            self._write(file, name, raw, written)
        elif self._written[name] <= self._arrays[name].nbytes:  # `finish` refuses others
            start = self._small_starts[name] + written
            self._small[start : start + raw.nbytes] = raw.tobytes()

    def _write(self, file: BinaryIO, name: str, raw: npt.NDArray[np.uint8], at: int = 0) -> None:
        """Write bytes of an array of the layout from byte `at` of it on."""
        file.seek(len(self._header) + self._starts[name] + at)
        file.write(raw.data)
        self._checksums[name] = zlib.crc32(raw.data, self._checksums[name])

    def finish(self, file: BinaryIO) -> None:
        """Write the small arrays, the header and the checksums.

        Raises:
            FileFormatError: a reserved array is not complete.
        """
        for name, written in self._written.items():
            if written != (expected := self._arrays[name].nbytes):
                raise FileFormatError(
                    f"{self._path}: array {name!r}: {written} bytes came, {expected} were expected"
                )
        self._write(file, SMALL, np.frombuffer(self._small, np.uint8))
        places = sorted(self._starts, key=self._starts.__getitem__)
        sums = [self._checksums[name] for name in places if name != CHECKSUMS]
        file.seek(0)
        file.write(self._header)
        sums.insert(0, zlib.crc32(self._header))
        self._write(file, CHECKSUMS, np.array(sums, "<u4").view(np.uint8))


def write_container(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to `path` (see the module text for the layout)."""
    writer = ContainerWriter(path, arrays, metadata)
    with path.open("r+b") as file:
        writer.finish(file)


def open_container(path: Path) -> Container:
    """Read a container and check its header completely, array contents not at all.

    Raises:
        FileFormatError: anything in the header that the format forbids.
    """
    data = _read(path)
    header, header_bytes = _read_header(path, data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FileFormatError(f"{path}: __metadata__ must map names to texts")
    stored = _entries(path, header, header_bytes, data.size)
    container = Container(path, metadata, stored, {}, header_bytes, data)
    container.check_header()
    return replace(container, small=_small_entries(container)) if INDEX in stored else container


def _storable(name: str, array: Array | Reserved) -> Array | Reserved:
    little = array.dtype.newbyteorder("<")
    if little not in _NAMES:
        raise FileFormatError(f"array {name!r}: dtype {array.dtype} cannot be stored")
    if isinstance(array, Reserved):
        return array
    return np.asarray(array, dtype=little, order="C")  # ascontiguousarray gives scalars an axis


def _small_starts(arrays: Mapping[str, Array | Reserved]) -> dict[str, int]:
    """Where each array below SMALL_BYTES begins in SMALL: wide elements first, so with few gaps."""
    names = [name for name, array in arrays.items() if array.nbytes < SMALL_BYTES]
    starts, position = {}, 0
    for name in sorted(names, key=lambda name: -arrays[name].dtype.itemsize):
        starts[name] = position + -position % max(SMALL_GAP, arrays[name].dtype.itemsize)
        position = starts[name] + arrays[name].nbytes
    return starts


def _small_bytes(arrays: Mapping[str, Array | Reserved], starts: Mapping[str, int]) -> int:
    """Bytes of SMALL, filled up so that whatever follows is aligned."""
    size = max((start + arrays[name].nbytes for name, start in starts.items()), default=0)
    return size + -size % SMALL_ALIGNMENT


def _index(
    arrays: Mapping[str, Array | Reserved], starts: Mapping[str, int]
) -> npt.NDArray[np.uint8]:
    """The deflated JSON that says dtype and shape of the arrays in SMALL, in their order."""
    items = {
        name: [_NAMES[arrays[name].dtype.newbyteorder("<")], list(arrays[name].shape)]
        for name in starts
    }
    text = json.dumps(items, separators=(",", ":"))
    return np.frombuffer(deflate(text.encode("utf-8")), np.uint8)


def _layout(
    arrays: Mapping[str, Array | Reserved], index: npt.NDArray[np.uint8], small_bytes: int
) -> tuple[dict[str, Array | Reserved], dict[str, int]]:
    """What the header lists, in order, with paddings; and where each but those begins."""
    names = [name for name, array in arrays.items() if array.nbytes >= SMALL_BYTES]
    names.sort(key=lambda name: arrays[name].dtype != np.uint8)  # records need what follows them
    large = {name: arrays[name] for name in names}
    listed: dict[str, Array | Reserved] = {
        SMALL: Reserved(np.dtype("u1"), (small_bytes,)),
        CHECKSUMS: Reserved(np.dtype("<u4"), (3 + len(large),)),
        INDEX: index,
        **large,
    }
    layout: dict[str, Array | Reserved] = {}
    starts, position = {}, 0
    for name, array in listed.items():
        if gap := -position % _alignment(name, array):
            layout[f"{PADDING_PREFIX}{len(layout)}"] = np.zeros(gap, np.uint8)
        layout[name], starts[name] = array, position + gap
        position += gap + array.nbytes
    ends_in_records = large and arrays[names[-1]].dtype == np.uint8
    if ends_in_records or position - small_bytes < OVERRUN:
        layout[f"{PADDING_PREFIX}{len(layout)}"] = np.zeros(OVERRUN, np.uint8)
    return layout, starts


def _alignment(name: str, array: Array | Reserved) -> int:
    """The multiple of bytes at which an array of the header starts in the file."""
    if name in (SMALL, CHECKSUMS, INDEX):
        return {SMALL: SMALL_ALIGNMENT, CHECKSUMS: 4, INDEX: 1}[name]
    return PAGE if array.nbytes >= PAGED_BYTES else ALIGNMENT


def _header(layout: Mapping[str, Array | Reserved], metadata: Mapping[str, str]) -> bytes:
    """The header, filled up with spaces, so that the buffer is aligned as its arrays need."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position, alignment = 0, SMALL_ALIGNMENT
    for name, array in layout.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
        if not name.startswith(PADDING_PREFIX):
            alignment = max(alignment, _alignment(name, array))
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (-(len(encoded) + 8) % alignment)
    return len(encoded).to_bytes(8, "little") + encoded


def _read(path: Path) -> npt.NDArray[np.uint8]:
    """A file's bytes. Raises FileFormatError: it cannot be read, or is too short."""
    data = read_file(path)
    if len(data) < 8:
        raise FileFormatError(f"{path}: {len(data)} bytes is too short for a model file")
    return np.frombuffer(data, dtype=np.uint8)


def _read_header(path: Path, data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(MAX_HEADER_BYTES, data.size - 8):
        raise FileFormatError(
            f"{path}: header length {length} exceeds the file ({data.size} bytes) "
            "or the format's limit; not a model file, or cut off"
        )
    try:
        text = data[8 : 8 + length].tobytes().decode("utf-8")
        header = parse_strictly(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: the header must be a JSON object")
    return header, 8 + length


def _entries(
    path: Path, header: dict[str, Any], header_bytes: int, file_size: int
) -> dict[str, Entry]:
    _check_count(path, len(header))
    entries = {
        name: _entry(path, name, item, header_bytes, file_size) for name, item in header.items()
    }
    position = header_bytes
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    for name, entry in entries.items():
        if entry.start != position:
            raise FileFormatError(f"{path}: array {name!r} leaves a hole or overlaps another")
        position = entry.stop
    if position != file_size:
        raise FileFormatError(
            f"{path}: arrays end at byte {position}, the file has {file_size}; cut off?"
        )
    return entries


def _check_count(path: Path, arrays: int) -> None:
    if arrays > MAX_ARRAYS:
        raise FileFormatError(f"{path}: {arrays} arrays; a file has at most {MAX_ARRAYS}")


def _small_entries(container: Container) -> Mapping[str, Entry]:
    """The arrays within SMALL. Raises FileFormatError: no index, or not one that fits."""
    path = container.path
    text = container.text(INDEX, MAX_PLAN_BYTES)
    try:
        index = parse_strictly(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: {INDEX} is not valid JSON: {error}") from error
    if not isinstance(index, dict):
        raise FileFormatError(f"{path}: {INDEX} must be a JSON object")
    _check_count(path, len(container.stored) + len(index))
    if SMALL not in container:
        raise FileFormatError(f"{path}: array {SMALL!r} is missing")
    whole = container.stored[SMALL]
    if doubled := container.stored.keys() & index.keys():
        raise FileFormatError(f"{path}: array {min(doubled)!r} occurs twice")
    most = whole.stop - whole.start
    kinds, numbers = _kinds(path, index, most)
    starts, stops = _places(kinds, numbers)
    if (outside := stops > most).any():
        name = list(index)[int(outside.argmax())]
        raise FileFormatError(f"{path}: array {name!r}: its bytes leave {SMALL}")
    if (left := most - int(stops[-1] if stops.size else 0)) >= SMALL_ALIGNMENT:
        raise FileFormatError(f"{path}: {left} bytes of {SMALL} are no array's")
    places = dict(zip(index, range(len(index)), strict=True))
    return _SmallEntries(places, kinds, numbers, starts + whole.start)


def _kinds(path: Path, index: dict[str, Any], most: int) -> tuple[list[Kind], list[int]]:
    """Dtype, shape and bytes of each kind of array in the index, as most are alike; and the number
    of the kind of every array.

    Raises:
        FileFormatError: an item is no list of dtype and shape, or stands for more than `most`
            bytes.
    """
    places: dict[str, int] = {}
    numbers = [places.setdefault(text, len(places)) for text in map(repr, index.values())]
    firsts = dict(zip(reversed(numbers), reversed(index.items()), strict=True))
    kinds = []
    for number in range(len(places)):
        name, item = firsts[number]
        fault = f"{path}: array {name!r}: "
        if not isinstance(item, list) or len(item) != 2:
            raise FileFormatError(fault + "expected a list of dtype and shape")
        kinds.append(_typed(fault, *item))
        if kinds[-1][2] > most:
            raise FileFormatError(f"{fault}its {kinds[-1][2]} bytes leave {SMALL}")
    return kinds, numbers


def _places(
    kinds: list[Kind], numbers: list[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First byte and end of every array in SMALL, each at the next multiple of its alignment."""
    of_array = np.array(numbers, np.int64)
    sizes = np.array([size for _, _, size in kinds], np.int64)[of_array]
    wide = np.array([dtype.itemsize > SMALL_GAP for dtype, _, _ in kinds], bool)[of_array]
    units = -(-sizes // SMALL_GAP)  # of SMALL_GAP bytes; wide elements take an even number
    before = np.cumsum(units) - units
    gaps = np.zeros_like(units)
    gaps[wide] = np.diff(before[wide], prepend=0) % 2  # units since the last one that was aligned
    starts = SMALL_GAP * (before + np.cumsum(gaps))
    return starts, starts + sizes


def _entry(path: Path, name: str, item: Any, header_bytes: int, file_size: int) -> Entry:
    fault = f"{path}: array {name!r}: "
    if not isinstance(item, dict) or item.keys() != ENTRY_KEYS:
        raise FileFormatError(fault + "expected dtype, shape and data_offsets")
    dtype, shape, size = _typed(fault, item["dtype"], item["shape"])
    offsets = item["data_offsets"]
    if not _sizes(offsets) or len(offsets) != 2:
        raise FileFormatError(fault + "data_offsets must be two sizes")
    start, stop = (header_bytes + cast(int, offset) for offset in offsets)
    if stop > file_size or stop - start != size:
        raise FileFormatError(fault + f"needs {size} bytes, has {offsets} of {file_size}")
    return Entry(dtype, shape, start, stop)


def _typed(fault: str, name: Any, shape: Any) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Dtype, shape and bytes of an array. Raises FileFormatError that begins with `fault`."""
    if not isinstance(name, str) or name not in _DTYPES:
        raise FileFormatError(fault + f"unknown dtype {name!r}")
    if not _sizes(shape) or len(shape) > MAX_RANK:
        raise FileFormatError(fault + f"shape must be a list of up to {MAX_RANK} sizes")
    size = _DTYPES[name].itemsize
    for extent in shape:
        size *= extent
    return _DTYPES[name], tuple(shape), size


def _sizes(values: Any) -> bool:
    """Whether it is a list of sizes: integers, True and False not among them."""
    if not isinstance(values, list) or not {int}.issuperset(map(type, values)):
        return False
    return not values or (min(values) >= 0 and max(values) < 2**63)
