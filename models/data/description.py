"""What the columns of a log are: fields, labels, time, weight, split; read from TOML or JSON."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ondevice.cells import Cells, Form, RawKind
from ondevice.delimited import DelimitedFormat
from ondevice.errors import PARSE_ERRORS, DataError, SpecError
from ondevice.features import Field
from ondevice.limits import MAX_LENGTH
from ondevice.models.data.buckets import MAX_BUCKETS, SCALES, Scale
from ondevice.models.data.hashed import hashed_field
from ondevice.models.data.splits import SplitRule
from ondevice.sections import table_codec
from ondevice.times import TimeForm, TimePart

Kind = Literal["string", "integer", "number", "boolean", "timestamp", "tokens"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_LENGTH = 20  # of a list: most values of one row that count, the last ones
DEFAULT_PARTS: tuple[TimePart, ...] = ("hour", "weekday")
_OFFSET = re.compile(r"([+-])([0-9]{2}):([0-9]{2})")


@dataclass(frozen=True)
class LogField:
    """One input field of a log.

    Attributes:
        kind: "string", "integer" or "boolean", which decide how a value is hashed; "number", put
            into buckets; "timestamp", of which the parts become fields; "tokens", a text that a
            separator cuts into strings.
        column: the column it is read from; None: the one of the field's own name.
        missing: texts that mean "no value"; None: those of the description.
        list: whether a row has several values, whose vectors are averaged (always of "tokens").
        separator: between the values of a list in one text; None: "|", a space of "tokens".
        length: of a list, how many values count at most, the last ones.
        format: how a timestamp is written: see ondevice.times.
        parts: of a timestamp: the fields NAME_hour, NAME_weekday, NAME_day, NAME_month.
        utc_offset: minutes by which the parts' time is ahead of UTC.
        dim: width of the embedding vector; None: the experiment's.
        scheme: how values share rows; None: the experiment's.
        ratio: values per row; None: the experiment's.
        codec: of the table in a converted file, or its sections as a text
            (`ondevice.sections`); None: what the conversion is asked for.
        vocabulary: whether every value has a row of its own; None: if there are few values.
        min_count: a vocabulary keeps values with so many training rows; the rest are one value.
        buckets: of numbers, at most so many; None: the experiment's.
        scale: of the buckets; None: the experiment's.
    """

    kind: Kind = "string"
    column: str | None = None
    missing: tuple[str, ...] | None = None
    list: bool = False
    separator: str | None = None
    length: int = DEFAULT_LENGTH
    format: TimeForm = "iso"
    parts: tuple[TimePart, ...] = DEFAULT_PARTS
    utc_offset: int = 0
    dim: int | None = None
    scheme: str | None = None
    ratio: float | None = None
    codec: str | None = None
    vocabulary: bool | None = None
    min_count: int = 1
    buckets: int | None = None
    scale: Scale | None = None

    def features(self, name: str, missing: tuple[str, ...]) -> tuple[Field, ...]:
        """The input fields of this column under the name `name`; a timestamp has several.

        Args:
            name: of the field.
            missing: markers of the whole description, where this field names none.

        Raises:
            SpecError: the settings contradict one another.
        """
        markers = missing if self.missing is None else self.missing
        column = self.column
        if self.kind == "timestamp":
            return tuple(
                hashed_field(
                    f"{name}_{part}",
                    "integer",
                    Cells(
                        markers,
                        column=column or name,
                        part=part,
                        form=self.format,
                        utc_offset=self.utc_offset,
                    ),
                )
                for part in self.parts
            )
        is_list = self.list or self.kind == "tokens"
        separator = self.separator or (" " if self.kind == "tokens" else "|")
        form: Form | None = "boolean" if self.kind == "boolean" else None
        cells = Cells(markers, separator, column, form=form)
        kinds: dict[str, RawKind] = {"integer": "integer", "boolean": "integer", "number": "number"}
        length = self.length if is_list else None
        return (hashed_field(name, kinds.get(self.kind, "string"), cells, length),)


@dataclass(frozen=True)
class LogLabel:
    """A label and how its column says 0 and 1; by itself where neither setting is given.

    Attributes:
        column: where it is read.
        at_least: the column holds numbers; from this one on the label is 1.
        values: the column holds two texts; the first means 0, the second 1.
    """

    column: str
    at_least: float | None = None
    values: tuple[str, str] | None = None


@dataclass(frozen=True)
class LogDescription:
    """The roles of the columns of a log.

    Attributes:
        labels: by name of the label; the first is the one that training stops by.
        fields: the input fields by name, in order.
        ignore: columns that are no feature, so that nothing leaks into the features unnoticed;
            ("*",) ignores every column not named.
        columns: all column names, for delimited text without a header; None: the first row names
            them.
        delimiter: between two cells of delimited text; several characters need quote None.
        quote: the quoting character, None for text without quoting.
        encoding: of the text's bytes.
        missing: texts that mean "no value" in every field.
        time: the column that orders the rows in time; no feature unless a field reads it too.
        time_format: how `time` is written; None: integers of any unit.
        weight: the column of a row's weight in training and in metrics, a number above 0.
        negative_sampling: the share of the rows without a click that the log holds; the model's
            probabilities are calibrated back to the unsampled log. 1: all of them.
        keys: fields or other columns that metrics group rows by; the log carries their hashes.
        split: which rows are for training, validation and test; None: by time, where there is one,
            else at random.

    Raises:
        SpecError: the settings contradict one another; the message lists every fault.
    """

    labels: Mapping[str, LogLabel]
    fields: Mapping[str, LogField]
    ignore: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ("",)
    time: str | None = None
    time_format: TimeForm | None = None
    weight: str | None = None
    negative_sampling: float = 1.0
    keys: tuple[str, ...] = ()
    split: SplitRule | None = None

    def __post_init__(self) -> None:
        """Check the settings together. Raises SpecError."""
        if faults := _faults(self):
            raise SpecError("log description: " + "; ".join(faults))

    @property
    def features(self) -> tuple[Field, ...]:
        """The input fields, hashed; see LogField.features."""
        return tuple(
            feature
            for name, item in self.fields.items()
            for feature in item.features(name, self.missing)
        )

    @property
    def text_format(self) -> DelimitedFormat:
        """How delimited text is cut into cells."""
        return DelimitedFormat(self.delimiter, self.quote, self.encoding)

    @property
    def used(self) -> list[str]:
        """The columns that are read, each once."""
        columns = [label.column for label in self.labels.values()]
        columns += [item.column or name for name, item in self.fields.items()]
        columns += [column for column in (self.time, self.weight) if column is not None]
        columns += self.key_columns.values()
        if self.split is not None:
            columns += self.split.columns
        return list(dict.fromkeys(columns))

    @property
    def key_columns(self) -> dict[str, str]:
        """The column of each key: that of the field of its name, else the one of its name."""
        return {
            name: (self.fields[name].column if name in self.fields else None) or name
            for name in self.keys
        }

    def with_keys(self, names: Iterable[str]) -> LogDescription:
        """The description with more keys; parts of timestamps are fields already.

        Raises:
            SpecError: a key that cannot be one.
        """
        parts = {feature.name for feature in self.features} - set(self.fields)
        added = [name for name in names if name not in parts]
        keys = tuple(dict.fromkeys([*self.keys, *added]))
        ignore = tuple(column for column in self.ignore if column not in added)
        return replace(self, keys=keys, ignore=ignore)

    @classmethod
    def from_dict(cls, data: object) -> LogDescription:
        """Build a description from decoded JSON or TOML; docs/data.md lists the keys.

        Raises:
            SpecError: an unknown or missing key, or a wrong type; the message lists every fault.
        """
        return _description(data)

    @classmethod
    def from_file(cls, path: Path) -> LogDescription:
        """Read a description from a .toml or .json file; see `from_dict`.

        Raises:
            DataError: the file cannot be read.
            SpecError: it is neither, does not parse, or describes nothing sound.
        """
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot read the description of columns: {error}") from error
        try:
            if path.suffix == ".toml":
                return cls.from_dict(tomllib.loads(text))
            if path.suffix == ".json":
                return cls.from_dict(json.loads(text))
        except PARSE_ERRORS as error:
            raise SpecError(f"{path}: {error}") from error
        raise SpecError(f"{path}: a description of columns is a .toml or .json file")


def _faults(description: LogDescription) -> list[str]:
    """What is wrong with a description: roles that exclude each other, fields, text format."""
    faults = []
    if not description.labels:
        faults.append("at least one label is needed")
    if not description.fields:
        faults.append("at least one field is needed")
    fields_of = [item.column or name for name, item in description.fields.items()]
    roles = {label.column: "the label" for label in description.labels.values()}
    if description.weight is not None:
        roles[description.weight] = "the weight"
    for column, role in roles.items():
        if column in fields_of or column == description.time:
            faults.append(f"{role} column {column!r} cannot be a field or the time")
    if both := sorted(set(description.used) & set(description.ignore)):
        faults.append(f"used and ignored: {', '.join(both)}")
    for name in (*description.fields, *description.labels):
        if "\0" in name or not _is_unicode(name):
            faults.append(f"no file holds a name with U+0000 or half a surrogate pair: {name!r}")
    for name, item in description.fields.items():
        faults += [f"field {name!r}: {fault}" for fault in _field_faults(item)]
    if not faults:
        names = [feature.name for feature in description.features]
        if doubled := sorted(name for name, count in Counter(names).items() if count > 1):
            faults.append(f"fields named twice: {', '.join(doubled)}")
    if description.columns is not None:
        columns = description.columns
        if doubled := sorted(name for name, count in Counter(columns).items() if count > 1):
            faults.append(f"columns named twice: {', '.join(doubled)}")
    if not 0 < description.negative_sampling <= 1:
        share = description.negative_sampling
        faults.append(f"negative_sampling must be above 0 and at most 1, got {share}")
    split = description.split
    if split is not None and split.by == "time" and description.time is None:
        faults.append("a split by time needs the column of times: time = NAME")
    return faults + description.text_format.faults()


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _field_faults(item: LogField) -> list[str]:
    """What is wrong with a field's settings."""
    faults = []
    if item.kind not in KINDS:
        return [f"kind must be one of {', '.join(KINDS)}, got {item.kind!r}"]
    if item.format not in get_args(TimeForm):
        faults.append(f"format must be one of {', '.join(get_args(TimeForm))}, got {item.format!r}")
    if wrong := [part for part in item.parts if part not in get_args(TimePart)]:
        faults.append(f"parts must be among {', '.join(get_args(TimePart))}, got {wrong}")
    if item.list and item.kind in ("number", "timestamp"):
        faults.append(f"a list of kind {item.kind} is not supported")
    if not 1 <= item.length <= MAX_LENGTH:
        faults.append(f"length must be 1..{MAX_LENGTH}, got {item.length}")
    if item.dim is not None and item.dim < 1:
        faults.append(f"dim must be at least 1, got {item.dim}")
    if item.ratio is not None and not item.ratio >= 1:
        faults.append(f"ratio must be at least 1, got {item.ratio}")
    if item.min_count < 1:
        faults.append(f"min_count must be at least 1, got {item.min_count}")
    if item.buckets is not None and not 1 <= item.buckets <= MAX_BUCKETS:
        faults.append(f"buckets must be 1..{MAX_BUCKETS}, got {item.buckets}")
    if item.scale is not None and item.scale not in SCALES:
        faults.append(f"scale must be one of {', '.join(SCALES)}, got {item.scale!r}")
    if (item.buckets is not None or item.scale is not None) and item.kind != "number":
        faults.append("buckets and scale are for numbers")
    if item.codec is not None:
        try:
            table_codec(item.codec)
        except SpecError as error:
            faults.append(str(error))
    if item.vocabulary is False and item.min_count > 1:
        faults.append("min_count needs a vocabulary")
    return faults


_TOP = (
    *("label", "labels", "fields", "ignore", "columns", "delimiter", "quote", "encoding"),
    *("missing", "time", "time_format", "weight", "negative_sampling", "keys", "split"),
)
_TEXTS = ("delimiter", "quote", "encoding", "time", "weight")
_FIELD_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "kind": ((str,), "a string"),
    "column": ((str,), "a string"),
    "missing": ((list, tuple), "a list of strings"),
    "list": ((bool,), "true or false"),
    "separator": ((str,), "a string"),
    "length": ((int,), "an integer"),
    "format": ((str,), "a string"),
    "parts": ((list, tuple), "a list of strings"),
    "utc_offset": ((str,), "a text as +08:00"),
    "dim": ((int,), "an integer"),
    "scheme": ((str,), "a string"),
    "ratio": ((int, float), "a number"),
    "codec": ((str,), "a string"),
    "vocabulary": ((bool,), "true or false"),
    "min_count": ((int,), "an integer"),
    "buckets": ((int,), "an integer"),
    "scale": ((str,), "a string"),
}
assert set(_FIELD_TYPES) == {item.name for item in fields(LogField)}  # noqa: S101


def _description(data: object) -> LogDescription:
    """A description of decoded JSON; an empty `quote` stands for none.

    Raises:
        SpecError: lists every unknown key and every setting of a wrong type.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"log description: expected an object, got {type(data).__name__}")
    faults: list[str] = []
    if unknown := sorted(str(key) for key in data if key not in _TOP):
        faults.append(f"unknown keys {', '.join(unknown)} (known: {', '.join(_TOP)})")
    settings: dict[str, Any] = {
        "labels": _labels(data, faults),
        "fields": _fields(data.get("fields"), faults),
    }
    for key in ("ignore", "columns", "missing", "keys"):
        if key in data:
            settings[key] = _strings(data[key], key, faults)
    for key in _TEXTS:
        if key in data:
            settings[key] = data[key]
            if not isinstance(data[key], str):
                faults.append(f"{key} must be a string, got {data[key]!r}")
    if settings.get("quote") == "":
        settings["quote"] = None
    if "time_format" in data:
        settings["time_format"] = data["time_format"]
        if data["time_format"] not in get_args(TimeForm):
            known = ", ".join(get_args(TimeForm))
            faults.append(f"time_format must be one of {known}, got {data['time_format']!r}")
    if "negative_sampling" in data:
        settings["negative_sampling"] = data["negative_sampling"]
        if not _is_number(data["negative_sampling"]):
            faults.append(f"negative_sampling must be a number, got {data['negative_sampling']!r}")
    if faults:
        raise SpecError("log description: " + "; ".join(faults))
    if "split" in data:
        settings["split"] = SplitRule.from_dict(data["split"])
    return LogDescription(**settings)


def _labels(data: Mapping[str, object], faults: list[str]) -> dict[str, LogLabel]:
    """The labels of `label` (one) or `labels` (a list, or an object by name)."""
    if ("label" in data) == ("labels" in data):
        faults.append("either label or labels is needed")
        return {}
    if "label" in data:
        label = _label(data["label"], faults)
        return {label.column: label}
    given = data["labels"]
    if isinstance(given, list) and given:
        labels = [_label(item, faults) for item in given]
        if len({label.column for label in labels}) < len(labels):
            faults.append("labels: a column is named twice")
        return {label.column: label for label in labels}
    if isinstance(given, Mapping) and given:
        return {str(name): _label(item, faults) for name, item in given.items()}
    faults.append(f"labels must be a list of labels, or an object of them by name, got {given!r}")
    return {}


def _label(data: object, faults: list[str]) -> LogLabel:
    expected = (
        'label must be a column name, {"column": name, "at_least": number} or '
        '{"column": name, "values": [text for 0, text for 1]}'
    )
    if isinstance(data, str):
        return LogLabel(data)
    column = data.get("column") if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and isinstance(column, str):
        given = {key: data[key] for key in data if key != "column" and data[key] is not None}
        threshold: Any = given.get("at_least")
        words: Any = given.get("values")
        if not given:
            return LogLabel(column)
        if given.keys() == {"at_least"} and _is_number(threshold):
            return LogLabel(column, at_least=float(threshold))
        if given.keys() == {"values"} and _are_two_texts(words):
            return LogLabel(column, values=(words[0], words[1]))
    shown = dict(data) if isinstance(data, Mapping) else data
    faults.append(f"{expected}, got {shown!r}")
    return LogLabel("")


def _are_two_texts(data: Any) -> bool:
    """Whether it is a list of two different texts."""
    is_pair = isinstance(data, list | tuple) and len(data) == 2
    return is_pair and all(isinstance(item, str) for item in data) and data[0] != data[1]


def _fields(data: object, faults: list[str]) -> dict[str, LogField]:
    if not isinstance(data, Mapping):
        faults.append(f"fields must be an object of field names and kinds, got {data!r}")
        return {}
    return {str(name): _field(str(name), item, faults) for name, item in data.items()}


def _field(name: str, item: object, faults: list[str]) -> LogField:
    """One field, of its kind as a text or of an object of settings."""
    given = {"kind": item} if isinstance(item, str) else item
    if not isinstance(given, Mapping) or (set(given) - set(_FIELD_TYPES)):
        faults.append(
            f"field {name!r}: expected a kind or an object of {', '.join(_FIELD_TYPES)}; "
            f"got {item!r}"
        )
        return LogField()
    settings: dict[str, Any] = {}
    for key, value in given.items():
        types, wanted = _FIELD_TYPES[key]
        is_wrong_bool = isinstance(value, bool) and bool not in types
        if not isinstance(value, types) or is_wrong_bool:
            faults.append(f"field {name!r}: {key} must be {wanted}, got {value!r}")
        elif key in ("missing", "parts"):
            settings[key] = _strings(value, f"field {name!r}: {key}", faults)
        elif key == "utc_offset":
            settings[key] = _minutes(value, name, faults)
        else:
            settings[key] = value
    if settings.get("kind", "string") not in KINDS:
        faults.append(
            f"field {name!r}: kind must be one of {', '.join(KINDS)}, got {settings['kind']!r}"
        )
        del settings["kind"]
    return LogField(**settings)


def _minutes(text: object, name: str, faults: list[str]) -> int:
    if match := _OFFSET.fullmatch(str(text)):
        sign, hours, minutes = match.groups()
        if int(hours) < 24 and int(minutes) < 60:
            return (-1 if sign == "-" else 1) * (60 * int(hours) + int(minutes))
    faults.append(f"field {name!r}: utc_offset must be a text as +08:00, got {text!r}")
    return 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _strings(data: object, what: str, faults: list[str]) -> tuple[str, ...]:
    if isinstance(data, list | tuple) and all(isinstance(item, str) for item in data):
        return tuple(data)
    faults.append(f"{what} must be a list of strings, got {data!r}")
    return ()
