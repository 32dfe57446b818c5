"""Requests as CSV, JSON lines, Parquet or Arrow: read them in batches, name the line of a fault."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import pyarrow
from ondevice.cells import UNSPECIFIED
from ondevice.compression import SUFFIXES, damage, decompressed
from ondevice.delimited import DelimitedFormat, RowLines, row_reader
from ondevice.engines.options import ENGINES_OF_SUFFIX
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec
from ondevice.strict_json import unique_keys

TextFormat = Literal["csv", "jsonl"]
Format = Literal["csv", "jsonl", "parquet", "arrow"]
FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "arrow",
    ".arrow": "arrow",
    ".ipc": "arrow",
}
ALL = ("*",)  # keep every column of the input

IdArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some requests.

    Attributes:
        ids: by input name, int64 [rows, ...].
        kept: columns of the input by name that are to stand beside the scores, [rows] each: texts
            of CSV, values of JSON, pyarrow Arrays.
    """

    ids: dict[str, IdArray]
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many requests."""
        return len(next(iter(self.ids.values())))


class Described(Protocol):
    """A description of how requests are read: a loaded model, or a model still to be written."""

    @property
    def path(self) -> Path:
        """The file, for messages."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs, in order."""

    @property
    def features(self) -> FeatureSpec:
        """How raw values become IDs."""


def format_of(name: str) -> Format:
    """Tell the format by a file's suffix. Raises InputError for another one."""
    path = Path(name)
    packed = path.suffix.lower() in SUFFIXES
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    known = FORMATS.get(suffix)
    if known is None and suffix in ENGINES_OF_SUFFIX:
        raise InputError(
            f"{name}: a model file, not a file of rows; `ondevice run` takes the model first"
        )
    if known is None and path.is_dir():
        raise InputError(
            f"{name}: a folder, not a file of rows; `ondevice score` reads folders of Parquet files"
        )
    if known is None:
        raise InputError(
            f"{name}: cannot tell the format by its name; expected one that ends in "
            f"{', '.join(FORMATS)}, text also with {', '.join(SUFFIXES)}"
        )
    if packed and known in ("parquet", "arrow"):
        raise InputError(f"{name}: {known} inside {path.suffix} is not read; unpack it")
    return known


def text_settings(text_format: TextFormat, features: FeatureSpec | None) -> dict[str, Any]:
    """How the text of requests is decoded, as arguments of `open`.

    JSON lines and IDs (features None) are UTF-8. CSV is of the training log's encoding, whose
    undecodable bytes are refused where a cell that holds them is used, as in training.
    """
    if text_format == "jsonl":
        return {"encoding": "utf-8-sig", "errors": "strict", "newline": ""}
    codec = (features or FeatureSpec()).text_format.codec
    return {"encoding": codec, "errors": "surrogateescape", "newline": ""}


def opened(path: Path, text_format: TextFormat, features: FeatureSpec | None) -> TextIO:
    """A file of requests, plain or compressed, as text. Raises OSError, ValueError."""
    settings = text_settings(text_format, features)
    return io.TextIOWrapper(decompressed(path.open("rb"), path.suffix, closes=True), **settings)


def read_requests(
    source: IO[str],
    text_format: TextFormat,
    model: Described,
    ids: bool,
    batch: int,
    keep: Sequence[str] = (),
    name: str = "",
) -> Iterator[Batch]:
    """Batches of requests from text, up to `batch` lines at a time.

    Args:
        source: CSV laid out as the training log, by default with commas and a header, or one JSON
            object a line; columns and keys that are no input are ignored.
        text_format: "csv" or "jsonl".
        model: whose inputs and feature specification apply.
        ids: whether values are int64 IDs already; their CSV has commas and a header.
        batch: most lines at a time.
        keep: names of columns that the batches keep; ALL for every column.
        name: of the file, which tells tabs from commas; see `DelimitedFormat.of_file`.

    A cell is read as in training (see Cells); null and NaN in JSON are missing values. A sequence
    is a list in JSON, or one text in either. A CSV header has the log's columns of all inputs, or
    else their names; a JSON object has their names, or else the log's columns.

    Raises:
        InputError: names the line, the input, what was expected and what came.
    """
    fields = fields_of(model, ids)
    if text_format == "csv":
        features = FeatureSpec() if ids else model.features
        features = replace(features, text_format=features.text_format.of_file(name))
        cells = [field_of_cells(item) for item in fields]
        return _csv_batches(source, features, cells, batch, keep)
    return _json_batches(source, fields, batch, keep)


def read_table(
    path: Path, table_format: Format, model: Described, ids: bool, batch: int, keep: Sequence[str]
) -> Iterator[Batch]:
    """Batches of requests from a Parquet or Arrow (Feather) file; see `read_requests`.

    Raises:
        InputError: the file cannot be read, or a value is none of its field; names the row.
        MissingDependencyError: pyarrow is not installed.
    """
    pa = pyarrow()
    fields = fields_of(model, ids)
    try:
        first = 0
        for piece in _pieces(path, table_format, batch):
            yield requests_of(piece, fields, keep, first)
            first += piece.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{path}: cannot be read as {table_format}: {lines[0]}") from error


def requests_of(piece: Any, fields: Sequence[Field], keep: Sequence[str], first: int) -> Batch:
    """The requests of a record batch.

    Args:
        piece: a pyarrow RecordBatch.
        fields: of the inputs: see `fields_of`.
        keep: see `read_requests`.
        first: the number of its first row, from 0, for messages.

    Raises:
        InputError: a column is absent, or a value is none of its field; names the row.
    """
    names = piece.schema.names
    places = _places(names, fields, "the file")
    columns = {name: piece.column(place) for name, place in places.items()}
    return Batch(
        {item.name: item.encode_arrow(columns[item.name], first) for item in fields},
        {name: piece.column(name) for name in _kept(keep, names, "the file")},
    )


def columns_of(names: Sequence[str], fields: Sequence[Field], keep: Sequence[str]) -> list[str]:
    """Which of a file's columns `requests_of` reads. Raises InputError for an absent one."""
    places = _places(names, fields, "the file").values()
    return list(
        dict.fromkeys([*(names[place] for place in places), *_kept(keep, names, "the file")])
    )


def _pieces(path: Path, table_format: Format, batch: int) -> Iterator[Any]:
    """Record batches of up to `batch` rows."""
    pa = pyarrow()
    if table_format == "parquet":
        with pyarrow("pyarrow.parquet").ParquetFile(path, memory_map=True) as file:
            for group in range(file.num_row_groups):  # each with dictionaries of its own
                yield from file.iter_batches(batch, row_groups=[group])
        return
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pa.ArrowInvalid:  # a stream
            source.seek(0)
            batches = pa.ipc.open_stream(source)
        for whole in batches:
            for start in range(0, whole.num_rows, batch):
                yield whole.slice(start, batch)


def fields_of(model: Described, ids: bool) -> list[Field]:
    """How the inputs are read. Raises InputError."""
    if not ids and not model.features.fields:
        raise InputError(f"{model.path}: no feature specification inside; give IDs with --ids")
    return [_field_of(spec, model, ids) for spec in model.inputs]


def field_of_cells(field: Field) -> Field:
    """The field, with cells to read texts by if its file specifies none."""
    return field if field.cells is not None else replace(field, cells=UNSPECIFIED)


def _csv_batches(
    source: IO[str], features: FeatureSpec, fields: Sequence[Field], batch: int, keep: Sequence[str]
) -> Iterator[Batch]:
    """Batches of rows of cells. Raises InputError."""
    rows = _rows_of_cells(source, features.text_format)
    try:
        start = next(rows, None)
        if start is None:
            raise InputError("the CSV input is empty; expected a header line")
        header, places = _header(start[1], features, fields)
        kept = _kept(keep, header, "the header")
        if header is not start[1]:
            rows = itertools.chain([start], rows)
        while chunk := list(itertools.islice(rows, batch)):
            for line, cells in chunk:
                if len(cells) != len(header):
                    raise InputError(f"line {line}: expected {len(header)} cells, got {len(cells)}")
            lines = [line for line, _ in chunk]
            columns = list(zip(*(cells for _, cells in chunk), strict=True))
            yield Batch(
                {item.name: _column(item, columns[places[item.name]], lines) for item in fields},
                {name: columns[header.index(name)] for name in kept},
            )
    except damage() as error:
        raise _unreadable(source, error) from error


def _rows_of_cells(
    source: IO[str], text_format: DelimitedFormat
) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with their last lines. Raises InputError, and `damage()`."""
    lines = RowLines(source)
    reader = row_reader(lines, text_format)
    try:
        for cells in reader:
            lines.done = reader.line_num
            if cells:
                yield lines.done, cells
    except (csv.Error, UnicodeError) as error:
        raise InputError(f"line {reader.line_num + 1}: not valid CSV: {error}") from error


def _header(
    first: list[str], features: FeatureSpec, fields: Sequence[Field]
) -> tuple[Sequence[str], dict[str, int]]:
    """The column names, and the place of each field's column.

    The first row holds them where it has the log's columns of all inputs, or else the names
    of all inputs; otherwise they are those of a training log without a header.

    Raises:
        InputError: a column is absent, or an input's column is named twice.
    """
    names = {item.name for item in fields}
    header: Sequence[str] = first
    if features.columns is not None and not set(_columns(fields)) <= set(first):
        header = first if names <= set(first) else features.columns
    delimiter = features.text_format.delimiter
    note = "" if delimiter == "," else f" (cells are separated by {delimiter!r})"
    return header, _places(header, fields, "the header", "line 1: ", note)


def _places(
    header: Sequence[str], fields: Sequence[Field], what: str, line: str = "", note: str = ""
) -> dict[str, int]:
    """The place of each field's column: the log's columns, or else the fields' names.

    Raises:
        InputError: a column is absent, or an input's column is named twice.
    """
    names = [item.name for item in fields]
    columns = log_columns(header, fields)
    if absent := [name for name in dict.fromkeys(columns) if name not in header]:
        have = f"{what} has {', '.join(map(repr, header))}{note}"
        raise InputError(f"{line}columns {', '.join(absent)} are missing; {have}")
    if doubled := [name for name in dict.fromkeys(columns) if header.count(name) > 1]:
        raise InputError(f"{line}{what} names {', '.join(doubled)} more than once")
    return {name: header.index(column) for name, column in zip(names, columns, strict=True)}


def _kept(keep: Sequence[str], header: Sequence[str], what: str) -> list[str]:
    """The names of the columns to keep. Raises InputError for one that is absent."""
    if tuple(keep) == ALL:
        return list(dict.fromkeys(header))
    if absent := [name for name in keep if name not in header]:
        raise InputError(f"--keep {','.join(absent)}: {what} has {', '.join(map(repr, header))}")
    return list(keep)


def log_columns(header: Sequence[str], fields: Sequence[Field]) -> list[str]:
    """What the columns of fields are called: as in the training log, or else as the fields.

    Args:
        header: the names of all columns; the fields' names count where it has all of these, and
            not all of the log's.
        fields: that are read.
    """
    names, columns = [field.name for field in fields], _columns(fields)
    return names if not set(columns) <= set(header) and set(names) <= set(header) else columns


def _columns(fields: Sequence[Field]) -> list[str]:
    """The columns of the training log that the fields are read from."""
    return [field.column for field in fields]


def _json_batches(
    source: IO[str], fields: Sequence[Field], batch: int, keep: Sequence[str]
) -> Iterator[Batch]:
    """Batches of JSON lines; empty lines are skipped. Raises InputError."""
    rows = _json_rows(source, fields)
    while chunk := list(itertools.islice(rows, batch)):
        lines = [line for line, _, _ in chunk]
        kept: dict[str, Any] = {}
        if keep:
            objects = [row for _, row, _ in chunk]
            names = list(dict.fromkeys(itertools.chain.from_iterable(objects)))
            kept = {
                name: [row.get(name) for row in objects]
                for name in _kept(keep, names, f"the object of line {lines[0]}")
            }
        yield Batch(
            {
                item.name: _column(item, [values[item.name] for _, _, values in chunk], lines)
                for item in fields
            },
            kept,
        )


def _json_rows(
    source: IO[str], fields: Sequence[Field]
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Line number, object, and values by field name, of each JSON line. Raises InputError."""
    number = 0
    try:
        for number, line in enumerate(_lines(source), start=1):
            if not line.strip():
                continue
            row = json.loads(line, object_pairs_hook=unique_keys)
            if not isinstance(row, dict):
                raise InputError(f"line {number}: expected a JSON object, got {line.strip()[:40]}")
            yield number, row, _by_name(fields, number, row)
    except UnicodeDecodeError as error:
        raise InputError(f"line {number + 1}: not valid UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits is a ValueError
        raise InputError(f"line {number}: not valid JSON: {error}") from error


def _lines(source: IO[str]) -> Iterator[str]:
    """The lines of a file. Raises InputError if it cannot be read: a bad disk, a folder."""
    try:
        yield from source
    except damage() as error:
        raise _unreadable(source, error) from error


def _unreadable(source: IO[str], error: Exception) -> InputError:
    name = getattr(source, "name", "the input")
    return InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}")


def _by_name(fields: Sequence[Field], line: int, row: dict[str, Any]) -> dict[str, Any]:
    """The values of a JSON row by field name: under these names, or else the log's columns.

    Raises:
        InputError: a value is absent under both.
    """
    names = [field.name for field in fields]
    columns = _columns(fields)
    absent = [name for name in names if name not in row]
    if not absent:
        return row
    if all(column in row for column in columns):
        return {name: row[column] for name, column in zip(names, columns, strict=True)}
    raise InputError(f"line {line}: {', '.join(map(repr, absent))} is missing")


def _column(item: Field, values: Sequence[Any], lines: Sequence[int]) -> IdArray:
    """IDs int64 [rows, ...] of one input. Raises InputError, which names the line."""
    try:
        return item.encode(list(values))
    except InputError:
        for line, value in zip(lines, values, strict=True):  # once more, to name the line
            try:
                item.encode([value])
            except InputError as error:
                raise InputError(f"line {line}: {error}") from error
        raise


def _field_of(spec: InputSpec, model: Described, ids: bool) -> Field:
    """How the values of an input are read; IDs are read as integers."""
    if not ids:
        return model.features[spec.name]
    if len(spec.shape) == 1:
        return Field(spec.name, "integer", "id")
    if len(spec.shape) == 2 and isinstance(spec.shape[1], int):
        return Field(spec.name, "integer", "id", length=spec.shape[1])
    raise InputError(
        f"input {spec.name!r} has shape {list(spec.shape)}; `run` reads single values and "
        "sequences of a fixed length"
    )
