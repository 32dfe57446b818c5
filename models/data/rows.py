"""Rows of delimited text files, plain or compressed, in chunks that know their line numbers."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from ondevice.compression import SUFFIXES, damage, decompressed, kind_of_bytes
from ondevice.delimited import DelimitedFormat, RowLines, row_reader
from ondevice.errors import DataError, needs_extra
from ondevice.models.data.chunks import BadRows, TextChunk, shown
from ondevice.models.data.listing import exists, is_folder, listed

with needs_extra("reading a click log", "train"):
    from tqdm import tqdm

# Small, because the cells of larger chunks fall out of the processor's cache before they are hashed
# (16384 rows took twice as long), and below the 700 new objects that set off Python's cyclic
# garbage collector, whose passes are long once large packages are loaded.
CHUNK_ROWS = 512
COMPRESSED_SUFFIXES = ("", *SUFFIXES)


def find_file(folder: Path, *names: str) -> Path:
    """The first of `names` in `folder`, each also tried with .gz, .xz, ... behind it.

    Raises:
        DataError: none is there; the message lists all that were looked for.
    """
    candidates = [folder / f"{name}{suffix}" for name in names for suffix in COMPRESSED_SUFFIXES]
    for candidate in candidates:
        if exists(candidate) and candidate.is_file():
            return candidate
    wanted = ", ".join(candidate.name for candidate in candidates)
    problem = "none of these files is there" if is_folder(folder) else "no such folder"
    raise DataError(f"{folder}: {problem}; looked for {wanted}")


def read_rows(
    path: Path,
    text_format: DelimitedFormat,
    *,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
    max_rows: int | None = None,
    bad_rows: BadRows | None = None,
) -> Iterator[TextChunk]:
    """The rows of a file in chunks, one in memory at a time; .gz, .xz, ... are decompressed.

    Blank lines are skipped. Bytes that do not decode become lone surrogates, so that whoever uses
    the cell can report it with its line and column; cells nobody uses are not checked.

    Args:
        path: the file.
        text_format: delimiter, quoting, encoding.
        columns: the column names, in the file's order; None takes them from the header.
        header: True: the first row is a header, and equal to `columns` where those are given.
            False: there is none. None: the first row is a header if it equals `columns`.
        max_rows: stop after so many rows.
        bad_rows: counts rows with too few or too many columns, which are left out; by default the
            first one is an error.

    Raises:
        DataError: no such file, an empty one, a damaged or truncated compression, a row with too
            few or too many columns, broken quoting, a header that is not the expected one.
    """
    rows_read = 0
    bad_rows = bad_rows or BadRows()
    with (
        opened(path) as raw,
        progress(path) as bar,
        closing(_batches(path, raw, text_format)) as batches,
    ):
        names: tuple[str, ...] | None = None
        for lines, rows in batches:
            if names is None:
                names, is_header = _names(path, lines[0], rows[0], columns, header)
                if is_header:
                    del lines[0], rows[0]
            if max_rows is not None:
                del lines[max_rows - rows_read :], rows[max_rows - rows_read :]
            rows_read += len(rows)
            if chunk := _chunk(path, names, lines, rows, bad_rows):
                yield chunk
            bar.update(raw.tell() - bar.n)
            if rows_read == max_rows:
                break
    if names is None:
        raise DataError(f"{path}: the file is empty")
    if not rows_read:
        raise DataError(f"{path}: no rows")


def opened(path: Path) -> BinaryIO:
    """The file's bytes. Raises DataError that names a folder or an unknown compression."""
    if is_folder(path):
        files = ", ".join(item.name for item in listed(path)[:5]) or "nothing"
        raise DataError(f"{path}: expected a file, got a folder; it holds {files}")
    if not exists(path) or not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        raw = path.open("rb")
        kind = kind_of_bytes(raw)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error}") from error
    is_read = kind in COMPRESSED_SUFFIXES
    if kind is not None and not (is_read and kind == path.suffix):
        raw.close()
        advice = f"let its name end in {kind}" if is_read else "unpack it first"
        if kind in (".parquet", ".arrow"):
            advice = f"let its name end in {kind} and read it with --data log"
        readable = ", ".join(SUFFIXES)
        raise DataError(
            f"{path}: expected text, plain or {readable}, got the bytes of a {kind} file; {advice}"
        )
    return raw


def progress(path: Path) -> tqdm[None]:
    """A bar of the file's bytes, on stderr if that is a terminal."""
    return tqdm(
        total=path.stat().st_size,
        desc=path.name,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,  # quiet where stderr is not a terminal
    )


def _batches(
    path: Path, raw: BinaryIO, text_format: DelimitedFormat
) -> Generator[tuple[list[int], list[list[str]]], None, None]:
    """Rows that are not blank, and the physical lines on which they start, many at a time."""
    encoding = text_format.codec
    opened = decompressed(raw, path.suffix)
    text = io.TextIOWrapper(opened, encoding, errors="surrogateescape", newline="")
    source = RowLines(text)
    reader = row_reader(source, text_format)
    line = 0  # the last one of the row before
    try:
        lines: list[int] = []
        rows: list[list[str]] = []
        for row in reader:
            if row:
                lines.append(line + 1)
                rows.append(row)
            line = source.done = reader.line_num
            if len(rows) == CHUNK_ROWS:
                yield lines, rows
                lines, rows = [], []
        if rows:
            yield lines, rows
    except UnicodeError as error:  # encodings that cannot keep an undecodable byte, as UTF-16
        raise DataError(f"{path}, after line {line}: expected {encoding} text: {error}") from error
    except damage() as error:
        raise DataError(
            f"{path}: damaged or truncated after line {line}: {error or type(error).__name__}"
        ) from error
    except csv.Error as error:
        is_long = "field larger than field limit" in str(error)
        reason = (
            f"expected cells of up to {csv.field_size_limit():,} characters" if is_long else error
        )
        raise DataError(f"{path}, after line {line}: broken quoting: {reason}") from error
    finally:
        text.detach()  # or its end would close `raw`, whose position is still asked for


def _names(
    path: Path, line: int, row: list[str], columns: Sequence[str] | None, header: bool | None
) -> tuple[tuple[str, ...], bool]:
    """The column names, and whether the first row is a header."""
    if columns is None:
        if doubled := sorted(name for name, count in Counter(row).items() if count > 1):
            raise DataError(f"{path}, line {line}: columns named twice: {', '.join(doubled)}")
        return tuple(row), True
    is_header = row == list(columns)
    if header and not is_header:
        raise DataError(
            f"{path}, line {line}: expected the header {','.join(columns)}, "
            f"got {shown(','.join(row))}"
        )
    return tuple(columns), is_header and header is not False


def _chunk(
    path: Path,
    names: tuple[str, ...],
    lines: list[int],
    rows: list[list[str]],
    bad_rows: BadRows,
) -> TextChunk | None:
    """The rows as columns, those of a wrong width left out; None where no row is left."""
    if set(map(len, rows)) - {len(names)}:
        for line, row in zip(lines, rows, strict=True):
            if len(row) != len(names):
                bad_rows.refuse(_width_fault(path, line, names, row))
        fitting = [number for number, row in enumerate(rows) if len(row) == len(names)]
        lines, rows = [lines[n] for n in fitting], [rows[n] for n in fitting]
    return TextChunk(path, names, lines, list(zip(*rows, strict=True))) if rows else None


def _width_fault(path: Path, line: int, names: tuple[str, ...], row: list[str]) -> DataError:
    expected, got = len(names), len(row)
    if got < expected:
        where = f"nothing for column {names[got]!r}"
    else:
        where = f"{shown(row[expected])} follows the last column, {names[-1]!r}"
    return DataError(f"{path}, line {line}: expected {expected} columns, got {got}: {where}")
