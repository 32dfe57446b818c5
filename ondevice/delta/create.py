"""Computes a delta file: array by array where names and sizes agree, else by searching."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.container import SMALL, open_container
from ondevice.delta.layout import (
    LONG_RUN,
    UNIT,
    ZEROS,
    BlockHeader,
    Header,
    Kind,
    Operation,
    operation_bytes,
)
from ondevice.delta.match import Match, Windows, read_bits
from ondevice.errors import FileFormatError, InputError, OutputError
from ondevice.limits import MAX_DELTA_BYTES, MAX_MANIFEST_BYTES
from ondevice.manifest import parse_manifest
from ondevice.model import check_one_file

PIECE = MAX_DELTA_BYTES // 2  # bytes of an operation with data, so that blocks can be filled
OPERATION_BYTES = 18  # at most: two numbers
LEAST_COPY = 4096  # equal bytes that become a COPY; fewer are zeros of a difference

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Piece:
    """An operation and its data."""

    operation: Operation
    data: bytes


@dataclass(frozen=True)
class _Span:
    """Bytes start..stop of the new file; `place`: the byte of the old that they begin at."""

    start: int
    stop: int
    place: int | None


def create_delta(old: Path, new: Path, manifest: Path | None = None) -> bytes:
    """The delta file that makes `new` of `old`, both held in memory.

    Args:
        old: what devices have.
        new: what they are to have.
        manifest: the manifest.json of the new file's set, which travels along.

    Raises:
        FileFormatError: a file cannot be read, or the manifest does not list the new file.
        InputError: a folder, or an .onnx file with external data.
        OutputError: the new file is larger than a delta may make of the old one.
    """
    for path in (old, new):
        if path.is_dir():
            raise InputError(f"{path}: a folder; expected the file of a model, such as model.odm")
        check_one_file(path)
    before, after = _read(old), _read(new)
    attached = b"" if manifest is None else _checked_manifest(manifest, new, after)
    header = Header(
        before.size,
        after.size,
        hashlib.sha256(before.tobytes()).digest(),
        hashlib.sha256(after.tobytes()).digest(),
        len(attached),
    )
    try:
        Header.from_bytes(header.to_bytes(), str(new))
    except FileFormatError as error:
        raise OutputError(f"no delta: {error}") from error
    blocks = _Blocks()
    for pieces in _pieces(before, after, _spans(old, new)):
        blocks.add(pieces)
    blocks.finish()
    return header.to_bytes() + attached + b"".join(blocks.finished)


def _read(path: Path) -> Bytes:
    try:
        return np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error


def _checked_manifest(manifest: Path, new: Path, data: Bytes) -> bytes:
    """The manifest's bytes. Raises FileFormatError: it does not list the new file as it is."""
    content = _read(manifest).tobytes()
    if len(content) > MAX_MANIFEST_BYTES:
        raise FileFormatError(f"{manifest}: more than {MAX_MANIFEST_BYTES} bytes")
    files = parse_manifest(content, str(manifest)).model_set.files
    listed = {item.sha256 for item in files.values()}
    if hashlib.sha256(data.tobytes()).hexdigest() not in listed:
        raise FileFormatError(f"{manifest}: no file that it lists has the SHA-256 of {new}")
    return content


def _spans(old: Path, new: Path) -> list[_Span]:
    """The new file cut into its arrays, with the old arrays of the same names and sizes.

    A file that is no .odm, and what is not such an array, has spans without a place.
    """
    try:
        before, after = open_container(old), open_container(new)
    except FileFormatError:
        return [_Span(0, new.stat().st_size, None)]
    spans, done = [], 0
    for name, entry in sorted(after.entries.items(), key=lambda item: item[1].start):
        size = entry.stop - entry.start
        if size == 0 or name == SMALL:
            continue
        if entry.start > done:
            spans.append(_Span(done, entry.start, None))
        same = before.entries.get(name)
        aligned = same is not None and same.stop - same.start == size
        place = same.start if same is not None and aligned else None
        spans.append(_Span(entry.start, entry.stop, place))
        done = entry.stop
    if done < after.data.size:
        spans.append(_Span(done, after.data.size, None))
    return spans


def _pieces(old: Bytes, new: Bytes, spans: list[_Span]) -> Iterator[list[Piece]]:
    """Operations for the whole new file, span after span."""
    windows: Windows | None = None
    for span in spans:
        data = new[span.start : span.stop]
        if span.place is not None:
            yield list(_aligned(old, data, 8 * span.place))
            continue
        if windows is None:
            windows = Windows(old, _unmatched(old.size, spans))
        yield list(_searched(old, data, windows.matches(data)))


def _unmatched(size: int, spans: list[_Span]) -> list[tuple[int, int]]:
    """The stretches of an old file of `size` bytes that no span has its place in."""
    taken = [
        (span.place, span.place + span.stop - span.start)
        for span in spans
        if span.place is not None
    ]
    stretches, done = [], 0
    for start, stop in sorted(taken):
        if start > done:
            stretches.append((done, start))
        done = max(done, stop)
    if done < size:
        stretches.append((done, size))
    return stretches


def _searched(old: Bytes, data: Bytes, matches: list[Match]) -> Iterator[Piece]:
    done = 0
    for match in matches:
        yield from _new(data[done : match.start])
        yield from _aligned(old, data[match.start : match.stop], match.place)
        done = match.stop
    yield from _new(data[done:])


def _new(data: Bytes) -> Iterator[Piece]:
    for start in range(0, data.size, PIECE):
        part = data[start : start + PIECE]
        yield Piece(Operation(Kind.NEW, part.size, 0), part.tobytes())


def _aligned(old: Bytes, data: Bytes, place: int) -> Iterator[Piece]:
    """Operations for data that the old file has from bit `place` on, about."""
    if not data.size:
        return
    before = read_bits(old, place, data.size)
    for start, stop, equal in _runs(before == data):
        if equal:
            yield Piece(Operation(Kind.COPY, stop - start, place + 8 * start), b"")
            continue
        for first in range(start, stop, PIECE):
            last = min(first + PIECE, stop)
            yield _smallest(before[first:last], data[first:last], place + 8 * first)


def _runs(equal: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int, bool]]:
    """Stretches of equal bytes of at least LEAST_COPY, and what lies between them."""
    edges = np.flatnonzero(np.diff(equal.astype(np.int8), prepend=0, append=0))
    done = 0
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if stop - start < min(LEAST_COPY, equal.size):
            continue
        if start > done:
            yield done, start, False
        yield start, stop, True
        done = stop
    if done < equal.size:
        yield done, equal.size, False


def _smallest(before: Bytes, after: Bytes, place: int) -> Piece:
    """The operation whose data deflates best."""
    candidates = {Kind.NEW: after, Kind.ADD: after - before, Kind.XOR: after ^ before}
    for kind, unit in UNIT.items():
        if after.size % unit == 0:
            candidates[kind] = _planes(before, after, unit)
    candidates[Kind.SPARSE] = _sparse(after - before)
    kind = min(candidates, key=lambda kind: len(_deflated(candidates[kind].tobytes())))
    return Piece(Operation(kind, after.size, place), candidates[kind].tobytes())


def _planes(before: Bytes, after: Bytes, unit: int) -> Bytes:
    """Zigzag differences of numbers of `unit` bytes, all lowest bytes first."""
    dtype = np.dtype(f"<u{unit}")
    difference = (
        np.ascontiguousarray(after).view(dtype) - np.ascontiguousarray(before).view(dtype)
    ).view(f"<i{unit}")
    zigzag = ((difference << 1) ^ (difference >> (8 * unit - 1))).astype(f"<i{unit}")
    return np.ascontiguousarray(zigzag.view(np.uint8).reshape(-1, unit).T).reshape(-1)


def _sparse(differences: Bytes) -> Bytes:
    """Differences as data of SPARSE: the distances of those that are not 0, then large ones."""
    places = np.flatnonzero(differences)
    values = differences[places]
    kinds = np.select([values == 1, values == 255], [0, 1], 2)
    gaps = np.diff(places, prepend=-1) - 1
    rest = differences.size - (int(places[-1]) + 1 if places.size else 0)
    # the codes of a difference: LONG_RUN for each ZEROS before it, then its own
    runs = np.append(gaps // ZEROS, -(-rest // ZEROS))
    codes = np.full(int(runs.sum()) + places.size, LONG_RUN, np.uint8)
    codes[np.cumsum(runs[:-1] + 1) - 1] = gaps % ZEROS * 3 + kinds
    return np.concatenate([codes, values[kinds == 2]])


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return packer.compress(data) + packer.flush()


class _Blocks:
    """Gathers operations into blocks; what belongs together shares one where that is shorter."""

    def __init__(self) -> None:
        """Begin with no block, at the first bit of the old file."""
        self.finished: list[bytes] = []
        self._waiting: list[Piece] = []
        self._place = 0  # where the operations of the finished blocks stopped reading

    def add(self, pieces: list[Piece]) -> None:
        """Take the operations of a span: into the block that waits, or into one of their own."""
        for group in _fitting(pieces):
            joined = [*self._waiting, *group]
            if self._waiting and (_too_large(joined) or self._apart_is_shorter(group)):
                self.finish()
                joined = group
            self._waiting = joined

    def finish(self) -> None:
        """Close the block that waits."""
        if self._waiting:
            block, self._place = _block(self._waiting, self._place)
            self.finished.append(block)
            self._waiting = []

    def _apart_is_shorter(self, group: list[Piece]) -> bool:
        first, place = _block(self._waiting, self._place)
        second, _ = _block(group, place)
        joined, _ = _block([*self._waiting, *group], self._place)
        return len(first) + len(second) < len(joined)


def _block(pieces: list[Piece], place: int) -> tuple[bytes, int]:
    """A block, header and stream, and where its last operation stops reading."""
    codes = bytearray()
    for operation in _joined(pieces):
        codes += operation_bytes(operation, place)
        if operation.kind != Kind.NEW:
            place = operation.place + 8 * operation.size
    data = b"".join(piece.data for piece in pieces)
    packed = _deflated(bytes(codes) + data)
    return BlockHeader(len(codes), len(data), len(packed)).to_bytes() + packed, place


def _joined(pieces: list[Piece]) -> Iterator[Operation]:
    """The operations; copies that go on where the one before stopped are one."""
    waiting: Operation | None = None
    for operation in (piece.operation for piece in pieces):
        if waiting is not None:
            goes_on = operation.place == waiting.place + 8 * waiting.size
            if goes_on and waiting.kind == operation.kind == Kind.COPY:
                size = waiting.size + operation.size
                waiting = Operation(Kind.COPY, size, waiting.place)
                continue
            yield waiting
        waiting = operation
    if waiting is not None:
        yield waiting


def _too_large(pieces: list[Piece]) -> bool:
    return (
        sum(len(piece.data) for piece in pieces) > MAX_DELTA_BYTES
        or OPERATION_BYTES * len(pieces) > MAX_DELTA_BYTES
    )


def _fitting(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """The operations in groups that fit into a block each."""
    group: list[Piece] = []
    for piece in pieces:
        if _too_large([*group, piece]):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
