"""Requests as CSV or JSON lines: read them in batches, name the line of a fault, write scores."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec

# Between the values of a sequence in one CSV cell; an empty cell is an empty sequence.
SEPARATOR = "|"

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


def kind_of(name: str) -> str:
    """Say "csv" or "jsonl" by a file's suffix. Raises InputError for another one."""
    suffix = Path(name).suffix.lower()
    if suffix == ".csv":
        return "csv"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    raise InputError(f"{name}: cannot tell the format by its name; expected .csv or .jsonl")


def read_requests(
    source: IO[str], kind: str, model: Described, ids: bool, batch: int
) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """IDs by input name, up to `batch` lines at a time.

    Args:
        source: CSV with a header, or one JSON object a line; further columns are ignored.
        kind: "csv" or "jsonl".
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
    rows = _csv_rows(source, model) if kind == "csv" else _json_rows(source)
    while chunk := list(itertools.islice(rows, batch)):
        encoded = {spec.name: _column(spec, chunk, model, kind, ids) for spec in model.inputs}
        yield encoded


def write_scores(sink: IO[str], kind: str, scores: npt.NDArray[np.float32], *, first: bool) -> None:
    """Write a score per line, in the order of the requests; CSV begins with the header "score"."""
    if kind == "csv":
        if first:
            sink.write("score\n")
        sink.writelines(f"{score:.6g}\n" for score in scores.tolist())
    else:
        sink.writelines(json.dumps({"score": float(f"{score:.6g}")}) + "\n" for score in scores)


def _csv_rows(source: IO[str], model: Described) -> Iterator[Row]:
    reader = csv.reader(source, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError("the CSV input is empty; expected a header line")
        if missing := [spec.name for spec in model.inputs if spec.name not in header]:
            raise InputError(
                f"line 1: columns {', '.join(missing)} are missing; the header has "
                f"{', '.join(header)}"
            )
        for cells in reader:
            if len(cells) != len(header):
                raise InputError(
                    f"line {reader.line_num}: expected {len(header)} cells, got {len(cells)}"
                )
            yield reader.line_num, {k: v or None for k, v in zip(header, cells, strict=True)}
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"line {reader.line_num + 1}: not valid CSV: {error}") from error


def _json_rows(source: IO[str]) -> Iterator[Row]:
    number = 0
    try:
        for number, line in enumerate(source, start=1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InputError(f"line {number}: expected a JSON object, got {line.strip()[:40]}")
            yield number, row
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"line {number}: not valid JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"line {number + 1}: not valid UTF-8: {error.reason}") from error


def _column(
    spec: InputSpec, rows: list[Row], model: Described, kind: str, ids: bool
) -> npt.NDArray[np.int64]:
    field = _field_of(spec, model, ids)
    values = []
    for line, row in rows:
        if spec.name not in row:
            raise InputError(f"line {line}: {spec.name!r} is missing")
        value = row[spec.name]
        if kind == "csv" and value is not None:
            value = value_of_cell(value, field, line)
        values.append(value)
    try:
        return field.encode(values)
    except InputError:
        for line, row in rows:  # find the line, then say it
            try:
                field.encode([row[spec.name]])
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
    if field.kind == "string":
        return text
    try:
        return int(text) if field.kind == "integer" else float(text)
    except ValueError as error:
        wanted = "an integer" if field.kind == "integer" else "a number"
        raise InputError(f"line {line}: {field.name!r}: expected {wanted}, got {text!r}") from error
