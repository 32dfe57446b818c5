"""Requests as CSV or JSON lines: read them in batches, name the line of a fault."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TextIO, cast

import numpy as np
import numpy.typing as npt

from ondevice.cells import UNSPECIFIED
from ondevice.container import unique_keys
from ondevice.delimited import row_reader
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec

TextFormat = Literal["csv", "jsonl"]
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open}
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)  # while a file is read
with contextlib.suppress(ImportError):  # Python may be built without it
    import lzma

    OPENERS[".xz"] = lzma.open
    DAMAGE = (*DAMAGE, lzma.LZMAError)

Row = tuple[int, dict[str, Any]]  # line number, value by input name


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


def format_of(name: str) -> TextFormat:
    """Tell the format by a file's suffix. Raises InputError for another one."""
    path = Path(name)
    if path.suffix.lower() in OPENERS:
        path = path.with_suffix("")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    raise InputError(f"{name}: cannot tell the format by its name; expected .csv, .tsv or .jsonl")


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
    """A file of requests, plain, .xz or .gz, as text. Raises OSError, ValueError."""
    settings = text_settings(text_format, features)
    opener = OPENERS.get(path.suffix.lower(), Path.open)
    return cast(TextIO, opener(path, "rt", **settings))


def read_requests(
    source: IO[str], text_format: TextFormat, model: Described, ids: bool, batch: int
) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """IDs by input name, up to `batch` lines at a time.

    Args:
        source: CSV laid out as the training log, by default with commas and a header, or one JSON
            object a line; columns and keys that are no input are ignored.
        text_format: "csv" or "jsonl".
        model: whose inputs and feature specification apply.
        ids: whether values are int64 IDs already; their CSV has commas and a header.
        batch: most lines at a time.

    A cell is read as in training (see Cells); null and NaN in JSON are missing values. A sequence
    is a list in JSON, or one text in either. A CSV header has the log's columns of all inputs, or
    else their names; a JSON object has their names, or else the log's columns.

    Raises:
        InputError: names the line, the input, what was expected and what came.
    """
    if not ids and not model.features.fields:
        raise InputError(f"{model.path}: no feature specification inside; give IDs with --ids")
    features = FeatureSpec() if ids else model.features
    fields = [_field_of(spec, model, ids) for spec in model.inputs]
    if text_format == "csv":
        fields = [field_of_cells(field) for field in fields]
        rows = _csv_rows(source, features, fields)
    else:
        rows = _json_rows(source, fields)
    while chunk := list(itertools.islice(rows, batch)):
        yield {field.name: _column(field, chunk) for field in fields}


def field_of_cells(field: Field) -> Field:
    """The field, with cells to read texts by if its file specifies none."""
    return field if field.cells is not None else replace(field, cells=UNSPECIFIED)


def _csv_rows(source: IO[str], features: FeatureSpec, fields: Sequence[Field]) -> Iterator[Row]:
    """The rows of cells, each with the number of its last line. Raises InputError."""
    reader = row_reader(_lines(source), features.text_format)
    try:
        header: Sequence[str] | None = None
        for cells in reader:
            if not cells:  # a blank line
                continue
            if header is None:
                header, keys = _header(cells, features, fields)
                if header is cells:
                    continue
            if len(cells) != len(header):
                raise InputError(
                    f"line {reader.line_num}: expected {len(header)} cells, got {len(cells)}"
                )
            row = dict(zip(header, cells, strict=True))
            yield reader.line_num, {name: row[key] for name, key in keys.items()}
        if header is None:
            raise InputError("the CSV input is empty; expected a header line")
    except (csv.Error, UnicodeError) as error:
        raise InputError(f"line {reader.line_num + 1}: not valid CSV: {error}") from error


def _header(
    first: list[str], features: FeatureSpec, fields: Sequence[Field]
) -> tuple[Sequence[str], dict[str, str]]:
    """The column names, and the column name of each field.

    The first row holds them where it has the log's columns of all inputs, or else the names
    of all inputs; otherwise they are those of a training log without a header.

    Raises:
        InputError: a column is absent, or an input's column is named twice.
    """
    names = [field.name for field in fields]
    columns = _columns(fields)
    header: Sequence[str] = first
    if not set(columns) <= set(first):
        if set(names) <= set(first):
            columns = names
        elif features.columns is not None:
            header = features.columns
    if absent := [name for name in dict.fromkeys(columns) if name not in header]:
        delimiter = features.text_format.delimiter
        note = "" if delimiter == "," else f" (cells are separated by {delimiter!r})"
        raise InputError(
            f"line 1: columns {', '.join(absent)} are missing; "
            f"the header has {', '.join(map(repr, header))}{note}"
        )
    if doubled := [name for name in dict.fromkeys(columns) if header.count(name) > 1]:
        raise InputError(f"line 1: the header names {', '.join(doubled)} more than once")
    return header, dict(zip(names, columns, strict=True))


def _columns(fields: Sequence[Field]) -> list[str]:
    """The columns of the training log that the fields are read from."""
    aliases = (field.cells.column if field.cells is not None else None for field in fields)
    return [alias or field.name for alias, field in zip(aliases, fields, strict=True)]


def _json_rows(source: IO[str], fields: Sequence[Field]) -> Iterator[Row]:
    """The values by field name of JSON lines with their line numbers; empty lines are skipped."""
    number = 0
    try:
        for number, line in enumerate(_lines(source), start=1):
            if not line.strip():
                continue
            row = json.loads(line, object_pairs_hook=unique_keys)
            if not isinstance(row, dict):
                raise InputError(f"line {number}: expected a JSON object, got {line.strip()[:40]}")
            yield number, _by_name(fields, number, row)
    except UnicodeDecodeError as error:
        raise InputError(f"line {number + 1}: not valid UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits is a ValueError
        raise InputError(f"line {number}: not valid JSON: {error}") from error


def _lines(source: IO[str]) -> Iterator[str]:
    """The lines of a file. Raises InputError if it cannot be read: a bad disk, a folder."""
    try:
        yield from source
    except DAMAGE as error:
        name = getattr(source, "name", "the input")
        fault = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be read: {fault}") from error


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


def _column(field: Field, rows: list[Row]) -> npt.NDArray[np.int64]:
    """IDs int64 [rows, ...] of one input. Raises InputError, which names the line."""
    values = [row[field.name] for _, row in rows]
    try:
        return field.encode(values)
    except InputError:
        for (line, _), value in zip(rows, values, strict=True):  # once more, to name the line
            try:
                field.encode([value])
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
