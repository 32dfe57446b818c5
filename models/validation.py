"""Validation rows for a conversion: a file of raw values with labels, or a data set's split."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.cells import Cells
from ondevice.converters import Validation
from ondevice.converters.source.user_module import load_arrays
from ondevice.errors import InputError
from ondevice.features import FIRST_BUCKET_ID, PADDING_ID, FeatureSpec, Field
from ondevice.info import InputSpec
from ondevice.models.data import HashedLog, split
from ondevice.models.data.hashed import encoded
from ondevice.requests import TextFormat, format_of, opened, read_requests, read_table

BATCH = 8192
# Buckets that tell exactly 0 and exactly 1 from all other numbers and from a missing label.
_LABEL_EDGES = np.array([0.0, np.nextafter(0, 1), 1.0, np.nextafter(1, 2)])
_ZERO, _ONE = FIRST_BUCKET_ID + 1, FIRST_BUCKET_ID + 3


@dataclass(frozen=True)
class _Rows:
    """A file's columns: the model's inputs, and the label as one more."""

    path: Path
    inputs: tuple[InputSpec, ...]
    features: FeatureSpec


def rows_from_file(path: Path, features: FeatureSpec) -> dict[str, npt.NDArray[np.int64]]:
    """IDs by field, int64 [rows, ...], of raw values in CSV with a header or in JSON lines.

    Raises:
        InputError: names the line and what was expected; or there is no such file.
    """
    inputs = tuple(
        InputSpec(field.name, ("batch",) if field.length is None else ("batch", field.length))
        for field in features.fields
    )
    rows = _Rows(path, inputs, features)
    try:
        given = format_of(path.name)
        if given in ("parquet", "arrow"):
            batches = list(read_table(path, given, rows, False, BATCH, ()))
        else:
            text_format: TextFormat = "jsonl" if given == "jsonl" else "csv"
            with opened(path, text_format, features) as source:
                batches = list(
                    read_requests(source, text_format, rows, False, BATCH, (), path.name)
                )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not batches:
        raise InputError(f"{path}: no rows")
    return {
        item.name: np.concatenate([batch.ids[item.name] for batch in batches]) for item in inputs
    }


def validation_from_file(path: Path, features: FeatureSpec, label: str) -> Validation:
    """Read raw values and labels from CSV with a header, or from JSON lines.

    Args:
        path: the file; its suffix says which of the two it is.
        features: how raw values become IDs.
        label: name of the column that holds 0 or 1.

    Raises:
        InputError: names the line and what was expected; or there is no such file.
    """
    if label in {field.name for field in features.fields}:
        raise InputError(f"{label!r} is an input of the model; name the column of the label")
    with_label = Field(label, "number", "bucket", boundaries=_LABEL_EDGES)
    columns = rows_from_file(path, replace(features, fields=(*features.fields, with_label)))
    labels = columns.pop(label)
    if len(wrong := np.flatnonzero((labels != _ZERO) & (labels != _ONE))):
        raise InputError(f"{path}: column {label!r} must hold 0 or 1; row {wrong[0] + 1} does not")
    return Validation(columns, (labels == _ONE).astype(np.float32), path.name)


def validation_from_arrays(path: Path, label: str) -> Validation:
    """Read rows and labels from an .npz file, for a model without a feature specification.

    Args:
        path: the file: an array [rows, ...] for every input, by name.
        label: name of the array [rows] that holds 0 and 1.

    Raises:
        FileFormatError: not an .npz file of plain arrays.
        InputError: no labels, or they are not 0 and 1.
    """
    columns = load_arrays(path)
    if label not in columns:
        raise InputError(f"{path}: no array {label!r} of labels; it holds {', '.join(columns)}")
    labels = columns.pop(label)
    if labels.dtype.kind not in "bifu":
        raise InputError(f"{path}: labels {label!r} must be numbers, got dtype {labels.dtype}")
    return Validation(columns, labels.astype(np.float32), path.name)


def validation_from_log(log: HashedLog, features: FeatureSpec) -> Validation:
    """The validation split of a data set, encoded as the model expects, with its first label.

    Raises:
        InputError: the log lacks a field of the model, or has another one of that name, or has
            read cells otherwise than the model does.
    """
    names = [field.name for field in features.fields]
    if missing := [name for name in names if name not in log.hashes]:
        raise InputError(f"{log.name} has no field {', '.join(missing)}, which the model needs")
    for field in features.fields:
        present = log.features[field.name]
        if (present.kind, present.seed) != (field.kind, field.seed):
            raise InputError(f"{log.name}: its field {field.name!r} is hashed unlike the model's")
        _check_cells(log, field, present)
    part = encoded(split(log)[1], features)
    labels = part.labels.reshape(len(part), -1)[:, 0]
    return Validation(part.ids, labels, f"validation split of {log.name}", part.weights)


def _check_cells(log: HashedLog, field: Field, present: Field) -> None:
    """Check that a log's column was read as the model reads cells; other markers may not occur.

    Files written before cells were specified say nothing of them, and are not checked.

    Raises:
        InputError: a cell may mean a value to one of the two and no value to the other.
    """
    if field.cells is None or present.cells is None:
        return
    mine, theirs = field.cells, present.cells
    if (mine.form, mine.part, mine.utc_offset) != (theirs.form, theirs.part, theirs.utc_offset):
        raise InputError(f"{log.name}: its field {field.name!r} is another part or form of a time")
    read, meant = set(present.cells.missing), set(field.cells.missing)
    values = log.hashes[field.name]
    differs = read != meant and field.length is not None  # what fills up looks like a missing value
    if read - meant:
        absent = (
            np.isnan(values.view(np.float64)) if field.kind == "number" else values == PADDING_ID
        )
        differs |= bool(absent.any())
    differs |= bool(np.isin(values, _marker_values(field, meant - read)).any())
    if differs:
        raise InputError(
            f"{log.name}: its field {field.name!r} takes the cells {sorted(read)} as missing, the "
            f"model {sorted(meant)}; read the log with the model's markers"
        )


def _marker_values(field: Field, markers: set[str]) -> npt.NDArray[np.int64]:
    """What a log holds for these texts where they are no markers, int64 [n]."""
    cells = replace(field.cells or Cells(), missing=())
    found = []
    for text in markers:
        with contextlib.suppress(ValueError):  # no value of the field's kind: no log holds it
            found.append(cells.value(text, field.kind))
    if field.kind == "number":
        return np.array(found, np.float64).view(np.int64)
    return field.hashes(found)
