"""Click logs in delimited text files of any layout, read by a description of their columns."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ondevice.cells import Cells, RawKind
from ondevice.delimited import DelimitedFormat
from ondevice.errors import DataError, SpecError
from ondevice.features import FeatureSpec
from ondevice.models.data.columns import LabelRule, LogBuilder, Rule, at_least, rule, zero_one
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.rows import read_rows

_KEYS = (
    "label",
    "fields",
    "time",
    "ignore",
    "columns",
    "delimiter",
    "quote",
    "encoding",
    "missing",
)


@dataclass(frozen=True)
class CsvField:
    """One input field.

    Attributes:
        kind: "string" or "integer", which decides how a value is hashed, or "number" (bucketed).
        column: the column it is read from; None: the one of the field's own name.
        missing: cells that mean "no value"; None: those of the description.
    """

    kind: RawKind = "string"
    column: str | None = None
    missing: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CsvDescription:
    """The roles of the columns of a file.

    Attributes:
        label: the label's column.
        fields: the input fields by name, in order.
        label_at_least: None: the label column holds 0 and 1. A number: the label is 1 where the
            column's number is that or more.
        ignore: columns that are no feature, so that nothing leaks into the features unnoticed;
            ("*",) ignores every column not named.
        columns: all column names, for a file without a header; None: the first row names them.
        delimiter: between two cells; more than one character needs quote None.
        quote: the quoting character, None for a file without quoting.
        encoding: of the file's bytes.
        missing: cells that mean "no value" in every field.
        time: column of integers that order the rows in time (for histories); no feature.

    Raises:
        SpecError: the settings contradict one another; the message lists every fault.
    """

    label: str
    fields: Mapping[str, CsvField]
    label_at_least: float | None = None
    ignore: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ("",)
    time: str | None = None

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise SpecError("CSV description: " + "; ".join(faults))

    @classmethod
    def from_dict(cls, data: object) -> CsvDescription:
        """Build a description from decoded JSON or TOML.

        Keys: `label` ("click" or {"column": "rating", "at_least": 4}), `fields` ({"user":
        "integer", "item": {"kind": "string", "column": "item_id", "missing": ["-1"]}}), and
        optionally `ignore`, `time`, `columns`, `delimiter`, `quote` ("" for none), `encoding`,
        `missing`.

        Raises:
            SpecError: an unknown or missing key, or a wrong type; the message lists every fault.
        """
        return _description(data)

    @classmethod
    def from_file(cls, path: Path) -> CsvDescription:
        """Read a description from a .toml or .json file; see `from_dict`.

        Raises:
            DataError: the file cannot be read.
            SpecError: it is neither, does not parse, or describes nothing sound.
        """
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot read the CSV description: {error}") from error
        try:
            if path.suffix == ".toml":
                return cls.from_dict(tomllib.loads(text))
            if path.suffix == ".json":
                return cls.from_dict(json.loads(text))
        except ValueError as error:  # tomllib's and json's errors are ValueErrors
            raise SpecError(f"{path}: {error}") from error
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error
        raise SpecError(f"{path}: a CSV description is a .toml or .json file")


def csv_log(
    path: Path, description: CsvDescription, *, name: str | None = None, max_rows: int | None = None
) -> HashedLog:
    """Read a delimited text file, plain, .xz or .gz, as its description says.

    Args:
        path: the file.
        description: what its columns are.
        name: of the log; the file's name if None.
        max_rows: read only so many rows from the start.

    Raises:
        DataError: a file that is absent, empty or damaged; columns of the description that it
            lacks or columns the description does not mention; a bad row, with line and column.
    """
    rules = [_rule(field, item, description) for field, item in description.fields.items()]
    threshold = description.label_at_least
    label = LabelRule(description.label, zero_one if threshold is None else at_least(threshold))
    text_format = _text_format(description)
    fields = tuple(item.field for item in rules)
    features = FeatureSpec(fields, text_format, description.columns)
    builder = LogBuilder(features, description.time)
    header = description.columns is None
    chunks = read_rows(
        path, text_format, columns=description.columns, header=header, max_rows=max_rows
    )
    for number, chunk in enumerate(chunks):
        if number == 0:
            _check_columns(path, chunk.names, description)
        builder.add_chunk(chunk, rules, label)
    return builder.build(name or path.name)


def _rule(name: str, item: CsvField, description: CsvDescription) -> Rule:
    missing = description.missing if item.missing is None else item.missing
    return rule(name, item.kind, Cells(missing, column=item.column))


def _text_format(description: CsvDescription) -> DelimitedFormat:
    return DelimitedFormat(description.delimiter, description.quote, description.encoding)


def _used(description: CsvDescription) -> list[str]:
    columns = [item.column or name for name, item in description.fields.items()]
    return [description.label, *columns, *([description.time] if description.time else [])]


def _check_columns(path: Path, names: tuple[str, ...], description: CsvDescription) -> None:
    used = _used(description)
    ignored = set(description.ignore) - {"*"}
    faults = []
    if absent := [name for name in dict.fromkeys([*used, *sorted(ignored)]) if name not in names]:
        faults.append(f"no column {', '.join(map(repr, absent))}")
    unused = [name for name in names if name not in used and name not in ignored]
    if unused and "*" not in description.ignore:
        faults.append(f"neither field, label nor ignored: {', '.join(map(repr, unused))}")
    if faults:
        columns = ", ".join(names)
        raise DataError(f"{path}: {'; '.join(faults)} (the file's columns: {columns})")


def _faults(description: CsvDescription) -> list[str]:
    faults = []
    if not description.fields:
        faults.append("at least one field is needed")
    used = _used(description)
    if description.label in used[1:]:
        faults.append(f"the label column {description.label!r} cannot be a field")
    if both := sorted(set(used) & set(description.ignore)):
        faults.append(f"used and ignored: {', '.join(both)}")
    for name, item in description.fields.items():
        if item.kind not in get_args(RawKind):
            faults.append(
                f"field {name!r}: kind must be 'string', 'integer' or 'number', got {item.kind!r}"
            )
    if description.columns is not None:
        columns = description.columns
        if doubled := sorted({name for name in columns if columns.count(name) > 1}):
            faults.append(f"columns named twice: {', '.join(doubled)}")
    return faults + _text_format(description).faults()


def _description(data: object) -> CsvDescription:
    """A description of decoded JSON; an empty `quote` stands for none.

    Raises:
        SpecError: lists every unknown key and every setting of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"CSV description: expected an object, got {type(data).__name__}")
    faults: list[str] = []
    if unknown := sorted(str(key) for key in data if key not in _KEYS):
        faults.append(f"unknown keys {', '.join(unknown)} (known: {', '.join(_KEYS)})")
    settings: dict[str, Any] = {}
    settings["label"], settings["label_at_least"] = _label(data.get("label"), faults)
    settings["fields"] = _fields(data.get("fields"), faults)
    for key in ("ignore", "columns", "missing"):
        if key in data:
            settings[key] = _strings(data[key], key, faults)
    for key in ("delimiter", "quote", "encoding", "time"):
        if key in data:
            if isinstance(data[key], str):
                settings[key] = data[key]
            else:
                faults.append(f"{key} must be a string, got {data[key]!r}")
    if settings.get("quote") == "":
        settings["quote"] = None
    if faults:
        raise SpecError("CSV description: " + "; ".join(faults))
    return CsvDescription(**settings)


def _label(data: object, faults: list[str]) -> tuple[str, float | None]:
    if isinstance(data, str):
        return data, None
    expected = 'label must be a column name or {"column": name, "at_least": number}'
    if not isinstance(data, Mapping) or set(data) - {"column", "at_least"}:
        faults.append(f"{expected}, got {data!r}")
        return "", None
    column, threshold = data.get("column"), data.get("at_least")
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not isinstance(column, str) or not (threshold is None or number):
        faults.append(f"{expected}, got {dict(data)!r}")
        return "", None
    return column, None if threshold is None else float(threshold)


def _fields(data: object, faults: list[str]) -> dict[str, CsvField]:
    if not isinstance(data, Mapping):
        faults.append(f"fields must be an object of field names and kinds, got {data!r}")
        return {}
    return {str(name): _field(str(name), item, faults) for name, item in data.items()}


def _field(name: str, item: object, faults: list[str]) -> CsvField:
    settings = {"kind": item} if isinstance(item, str) else item
    if not isinstance(settings, Mapping) or set(settings) - {"kind", "column", "missing"}:
        faults.append(
            f"field {name!r}: expected a kind or an object of kind, column, missing; got {item!r}"
        )
        return CsvField()
    kind, column = settings.get("kind", "string"), settings.get("column")
    if kind not in get_args(RawKind):
        faults.append(f"field {name!r}: kind must be 'string', 'integer' or 'number', got {kind!r}")
        kind = "string"
    if column is not None and not isinstance(column, str):
        faults.append(f"field {name!r}: column must be a string, got {column!r}")
        column = None
    missing = settings.get("missing")
    if missing is not None:
        missing = _strings(missing, f"field {name!r}: missing", faults)
    return CsvField(kind, column, missing)


def _strings(data: object, what: str, faults: list[str]) -> tuple[str, ...]:
    if isinstance(data, list | tuple) and all(isinstance(item, str) for item in data):
        return tuple(data)
    faults.append(f"{what} must be a list of strings, got {data!r}")
    return ()
