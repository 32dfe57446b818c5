"""Requests as CSV or JSON lines: read them in batches, name the line of a fault."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.container import unique_keys
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field, shown
from ondevice.info import InputSpec

TextFormat = Literal["csv", "jsonl"]

# Between the values of a sequence in one CSV cell; an empty cell is an empty sequence.
SEPARATOR = "|"

INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")

Row = tuple[int, dict[str, Any]]  # line number, value by input name


class Described(Protocol):
    """What says how requests are read: a loaded model, or one that is yet to be written."""

    @property
    def path(self) -> Path:
        """Where it lies, for messages."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs, in order."""

    @property
    def features(self) -> FeatureSpec:
        """How raw values become IDs."""


def format_of(name: str) -> TextFormat:
    """Tell the format by a file's suffix. Raises InputError for another one."""
    suffix = Path(name).suffix.lower()
    if suffix == ".csv":
        return "csv"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    raise InputError(f"{name}: cannot tell the format by its name; expected .csv or .jsonl")


def read_requests(
    source: IO[str], text_format: TextFormat, model: Described, ids: bool, batch: int
) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """IDs by input name, up to `batch` lines at a time.

    Args:
        source: CSV with a header, or one JSON object a line; further columns are ignored.
        text_format: "csv" or "jsonl".
        model: whose inputs and feature specification apply.
        ids: whether values are int64 IDs already.
        batch: most lines at a time.

    An empty CSV cell, or null in JSON, is a missing value. A sequence is a list in JSON; in a CSV
    cell its values are separated by SEPARATOR.

    Raises:
        InputError: names the line, the input, what was expected and what came.
    """
    if not ids and not model.features.fields:
        raise InputError(f"{model.path}: no feature specification inside; give IDs with --ids")
    rows = _csv_rows(source, model) if text_format == "csv" else _json_rows(source)
    while chunk := list(itertools.islice(rows, batch)):
        yield {spec.name: _column(spec, chunk, model, text_format, ids) for spec in model.inputs}


def _csv_rows(source: IO[str], model: Described) -> Iterator[Row]:
    """The rows below the header, each with the number of its last line. Raises InputError."""
    reader = csv.reader(_lines(source), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError("the CSV input is empty; expected a header line")
        _check_header(header, [spec.name for spec in model.inputs])
        for cells in reader:
            if len(cells) != len(header):
                raise InputError(
                    f"line {reader.line_num}: expected {len(header)} cells, got {len(cells)}"
                )
            yield reader.line_num, {k: v or None for k, v in zip(header, cells, strict=True)}
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"line {reader.line_num + 1}: not valid CSV: {error}") from error


def _check_header(header: list[str], names: list[str]) -> None:
    """Every input must be a column, once. Raises InputError."""
    if missing := [name for name in names if name not in header]:
        raise InputError(
            f"line 1: columns {', '.join(missing)} are missing; the header has {', '.join(header)}"
        )
    if doubled := [name for name in names if header.count(name) > 1]:
        raise InputError(f"line 1: the header names {', '.join(doubled)} more than once")


def _json_rows(source: IO[str]) -> Iterator[Row]:
    """The objects of JSON lines with their line numbers; empty lines are skipped."""
    number = 0
    try:
        for number, line in enumerate(_lines(source), start=1):
            if not line.strip():
                continue
            row = json.loads(line, object_pairs_hook=unique_keys)
            if not isinstance(row, dict):
                raise InputError(f"line {number}: expected a JSON object, got {line.strip()[:40]}")
            yield number, row
    except UnicodeDecodeError as error:
        raise InputError(f"line {number + 1}: not valid UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits is a ValueError
        raise InputError(f"line {number}: not valid JSON: {error}") from error


def _lines(source: IO[str]) -> Iterator[str]:
    """The lines of a file, its read errors as InputError: a disk's, a folder in place of a file."""
    try:
        yield from source
    except OSError as error:
        name = getattr(source, "name", "the input")
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error


def _column(
    spec: InputSpec, rows: list[Row], model: Described, text_format: TextFormat, ids: bool
) -> npt.NDArray[np.int64]:
    """IDs int64 [rows, ...] of one input. Raises InputError, which names the line."""
    field = _field_of(spec, model, ids)
    values = []
    for line, row in rows:
        if spec.name not in row:
            raise InputError(f"line {line}: {spec.name!r} is missing")
        value = row[spec.name]
        if text_format == "csv" and value is not None:
            value = value_of_cell(value, field, line)
        values.append(value)
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


def value_of_cell(text: str, field: Field, line: int) -> Any:
    """The raw value, or list of values, of a CSV cell that is not empty. Raises InputError."""
    if field.length is not None:
        cells = text.split(SEPARATOR)
        return [_value(cell, field, line) if cell else None for cell in cells]
    return _value(text, field, line)


def _value(text: str, field: Field, line: int) -> Any:
    """A cell as the field's kind of value; digits are ASCII, and Python's 1_000 is no number."""
    if field.kind == "string":
        return text
    try:
        if field.kind == "integer" and INTEGER.fullmatch(text):
            return int(text)
        if field.kind == "number" and text.isascii() and "_" not in text:
            return float(text)
    except ValueError:  # no number, or an integer of more digits than Python converts
        pass
    expected = "an integer" if field.kind == "integer" else "a number"
    raise InputError(f"line {line}: {field.name!r}: expected {expected}, got {shown(text)}")
