"""A log's columns as they are: kinds, distinct values, missing shares, and what the label knows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import compress
from typing import Any

import numpy as np

from ondevice.cells import boolean, integer, number
from ondevice.compression import damage, decompressed
from ondevice.delimited import DelimitedFormat
from ondevice.errors import DataError, needs_extra
from ondevice.models.data.arrow_chunks import ArrowChunk, ipc_chunks, parquet_chunks, table_chunks
from ondevice.models.data.chunks import BadRows, Chunk, ObjectChunk, WithValues
from ondevice.models.data.description import Kind
from ondevice.models.data.json_rows import read_objects
from ondevice.models.data.parts import LogFile
from ondevice.models.data.rows import opened, read_rows
from ondevice.times import TimeForm, seconds_of_text

MARKERS = ("", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "none", "\\N", "-")
# A number field takes finite numbers only, so these are no values of one either.
INFINITE = ("inf", "-inf", "Inf", "-Inf", "Infinity", "-Infinity")
NEGATIVE = ("no", "n", "false", "f", "neg", "negative", "not clicked", "none")
LABEL_NAMES = ("click", "clicked", "is_click", "label", "target", "y", "is_clicked", "conversion")
TIME_NAMES = ("ts", "time", "timestamp", "datetime", "date", "event_time", "created_at")
SEPARATORS = ("|", ";", "^", ",")
LEAK_AUC = 0.95
_SECONDS = (9.0e8, 4.2e9)  # 1998 to 2103: what a column of times holds whatever its name
_NAMED_SECONDS = (3.0e8, 4.2e9)  # from 1979 on, of a column that is called time or the like
_DELIMITERS = (",", "\t", ";", "|")


@dataclass
class ColumnProfile:
    """What one column holds.

    Attributes:
        name: of the column.
        kind: the field's kind that fits all of its values; None: no field has such values.
        rows: how many were looked at.
        missing: how many have no value.
        distinct: how many values there are.
        markers: texts that mean "no value", as far as they occur.
        examples: some values.
        is_list: whether a row has several values.
        separator: between them, in a text.
        time_format: how times are written.
        alone_auc: AUC of the best prediction of the label by this column alone; None: no label.
        absent: in how many rows there is no such column or key, which training refuses.
        of_folders: whether folders name it, as `dt=2026-10-01`, and no file holds it.
    """

    name: str
    kind: Kind | None
    rows: int
    missing: int
    distinct: int
    markers: tuple[str, ...] = ()
    examples: tuple[Any, ...] = ()
    is_list: bool = False
    separator: str | None = None
    time_format: TimeForm | None = None
    alone_auc: float | None = None
    absent: int = 0
    of_folders: bool = False


@dataclass(frozen=True)
class LogProfile:
    """What a log holds.

    Attributes:
        rows: how many were looked at.
        columns: in their order.
        label: the column that is taken for the label; None: no column has only 0 and 1.
        label_rate: the share of rows whose label is 1; 0 or 1 where the rows have one label only.
        label_values: the label's two texts, that for 0 first; None where it is 0 and 1 itself.
        time: the column that is taken for the time of a row.
        delimiter: of delimited text; None of other files.
    """

    rows: int
    columns: tuple[ColumnProfile, ...]
    label: str | None = None
    label_rate: float = math.nan
    label_values: tuple[str, str] | None = None
    time: str | None = None
    delimiter: str | None = None


@dataclass
class _Values:
    """The values of one column, row by row.

    Attributes:
        values: row by row, None where a row has none.
        is_read: whether fields can read their type.
        absent: in how many rows there is no such column or key.
        of_folders: whether only names of folders hold it.
    """

    values: list[Any] = field(default_factory=list)
    is_read: bool = True
    absent: int = 0
    of_folders: bool = True


_ABSENT = object()  # in place of the value where a row has no such column or key


def profile_log(source: Any, files: list[LogFile], max_rows: int, label: str | None) -> LogProfile:
    """Look at the first rows of a log.

    Args:
        source: a table, if there are no files.
        files: of the log.
        max_rows: how many rows are looked at.
        label: the label's column; None: it is guessed.

    Raises:
        DataError: a file cannot be read, has no rows, or no column of the label's name.
    """
    delimiter = None
    if files and files[0].format == "csv":
        delimiter = _delimiter_of(files[0])
    names, columns = _collected(_chunks(source, files, delimiter), max_rows)
    if label is not None and label not in columns:
        raise DataError(f"no column {label!r}; the columns are {', '.join(names)}")
    rows = len(columns[names[0]].values)
    profiles = [_profile(name, columns[name]) for name in names]
    label = label or _label_of(profiles, columns)
    rate, texts = math.nan, None
    if label is not None:
        texts = _two_texts(columns[label].values)
        profile = next(item for item in profiles if item.name == label)
        labelled = [not _has_no_value(profile, value) for value in columns[label].values]
        labels = _labels(list(compress(columns[label].values, labelled)), texts)
        rate = float(labels.mean()) if len(labels) else math.nan
        for item in profiles:
            if item.name != label:
                values = list(compress(columns[item.name].values, labelled))
                item.alone_auc = _alone_auc(values, labels)
    return LogProfile(rows, tuple(profiles), label, rate, texts, _time_of(profiles), delimiter)


def _delimiter_of(file: LogFile) -> str:
    """The character that cuts the first line into most cells. Raises DataError."""
    with opened(file.path) as raw:
        try:
            start = decompressed(raw, file.path.suffix).readline(1 << 20)
        except damage() as error:
            reason = error or type(error).__name__
            raise DataError(f"{file.path}: damaged or truncated in line 1: {reason}") from error
    line = start.decode("utf-8", "replace")
    return max(_DELIMITERS, key=line.count)


def _chunks(source: Any, files: list[LogFile], delimiter: str | None) -> Iterator[Chunk]:
    """All columns of all files. Raises DataError."""
    if not files:
        yield from table_chunks(source, "the table")
        return
    for file in files:
        chunks: Iterator[Chunk]
        if file.format == "parquet":
            chunks = parquet_chunks(file.path, None)
        elif file.format == "arrow":
            chunks = ipc_chunks(file.path)
        elif file.format == "jsonl":
            chunks = read_objects(file.path, (), BadRows())
        else:
            chunks = read_rows(file.path, DelimitedFormat(delimiter or ","))
        for chunk in chunks:
            yield WithValues(chunk, file.values) if file.values else chunk


def _collected(chunks: Iterator[Chunk], max_rows: int) -> tuple[list[str], dict[str, _Values]]:
    """The values of every column of the first rows. Raises DataError where there are none."""
    columns: dict[str, _Values] = {}
    rows = 0
    for chunk in chunks:
        for name in _names_of(chunk):
            column = columns.setdefault(name, _Values([_ABSENT] * rows))
            values, is_read = _rows_of(chunk, name)
            column.values += values
            column.is_read &= is_read
            column.of_folders &= isinstance(chunk, WithValues) and name in chunk.added
        rows += len(chunk)
        for column in columns.values():
            column.values += [_ABSENT] * (rows - len(column.values))
        if rows >= max_rows:
            break
    if not rows:
        raise DataError("the log has no rows")
    if not columns:
        raise DataError("the log has no columns")
    for column in columns.values():
        del column.values[max_rows:]
        column.absent = sum(value is _ABSENT for value in column.values)
        column.values = [None if value is _ABSENT else value for value in column.values]
    return list(columns), columns


def _names_of(chunk: Chunk) -> list[str]:
    """The names of all columns; a JSON object may have keys that the first of its file lacks."""
    inner = chunk.chunk if isinstance(chunk, WithValues) else chunk
    rows = inner.rows if isinstance(inner, ObjectChunk) else []
    return list(dict.fromkeys([*itertools.chain.from_iterable(rows), *chunk.names]))


def _rows_of(chunk: Chunk, name: str) -> tuple[list[Any], bool]:
    """The raw values of a column, row by row, and whether fields can read them.

    Those of a type that no field has are as Arrow gives them.
    """
    inner = chunk.chunk if isinstance(chunk, WithValues) else chunk
    is_added = isinstance(chunk, WithValues) and name in chunk.added
    if isinstance(inner, ObjectChunk) and not is_added:
        return [row.get(name, _ABSENT) for row in inner.rows], True
    try:
        column = chunk.values(name)
    except DataError:
        if not isinstance(inner, ArrowChunk):
            raise
        array = inner.batch.column(inner.batch.schema.get_field_index(name))
        try:
            return list(array.to_pylist()), False
        except (OverflowError, ValueError):  # a span or a time that Python does not have
            return [
                str(array.type) if is_valid else None for is_valid in array.is_valid().to_pylist()
            ], False
    values = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values
    if isinstance(column.values, np.ndarray) and column.values.dtype.kind == "M":
        values = column.values.astype("datetime64[us]").tolist()
    if column.positions is None:
        return list(values), True
    return [values[place] for place in column.positions.tolist()], True


def _profile(name: str, column: _Values) -> ColumnProfile:
    """What the values of one column are."""
    values = column.values
    present = [value for value in values if not _is_missing(value)]
    texts = {value for value in present if isinstance(value, str)}
    markers = tuple(marker for marker in (*MARKERS, *INFINITE) if marker in texts)
    span = _NAMED_SECONDS if name.lower() in TIME_NAMES else _SECONDS
    kind, form = _kind_of(present, texts - set(markers), span)
    if kind == "string" or not texts:  # "NA" may be a value of texts
        markers = tuple(marker for marker in markers if marker in ("", "\\N", "NULL", "null"))
    kept = [value for value in present if not (isinstance(value, str) and value in markers)]
    is_list = bool(kept) and all(isinstance(value, list) for value in kept)
    separator = None
    if is_list:
        kind = _kind_of_lists(kept)
    elif kind == "string":
        separator = _separator_of(kept)
        is_list = separator is not None
    kind = kind if column.is_read else None
    counts = Counter(map(_hashable, kept))
    examples = tuple(value for value, _ in counts.most_common(3))
    return ColumnProfile(
        name,
        kind,
        len(values),
        len(values) - len(kept),
        len(counts),
        markers,
        examples,
        is_list,
        separator,
        form,
        absent=column.absent,
        of_folders=column.of_folders,
    )


def _hashable(value: Any) -> Any:
    """Lists, also within lists, as tuples; objects as texts."""
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return repr(value) if isinstance(value, dict) else value


def _kind_of(
    present: list[Any], texts: set[str], span: tuple[float, float]
) -> tuple[Kind | None, TimeForm | None]:
    """The kind of single values, and how times are written; integers in `span` are times."""
    types = {_type_of(value) for value in present if not isinstance(value, str)}
    if types and texts:
        return None, None
    if types == {bool}:
        return "boolean", None
    if types and all(each is not None and issubclass(each, datetime) for each in types):
        return "timestamp", "iso"
    if types == {int}:
        return ("timestamp", "seconds") if _are_seconds(present, span) else ("integer", None)
    if types and types <= {int, float}:
        return "number", None
    if types:
        return ("string" if types == {list} else None), None
    if not texts:
        return "string", None
    if {text.lower() for text in texts} <= {"true", "false"} and _all(texts, boolean):
        return "boolean", None
    if _all(texts, integer):
        numbers = [float(text) for text in texts]
        return ("timestamp", "seconds") if _are_seconds(numbers, span) else ("integer", None)
    if _all(texts, number) and not all(text.isdigit() for text in texts):
        return "number", None  # digits beyond 64 bits are names
    if _all(texts, lambda text: seconds_of_text(text, "iso")):
        return "timestamp", "iso"
    return "string", None


def _type_of(value: Any) -> type | None:
    """The type of a value; int also of numpy's, None of an integer that no field of IDs takes."""
    if isinstance(value, np.integer):  # of Arrow's unsigned ones, whose bits are kept
        return int
    return None if type(value) is int and not -(2**63) <= value < 2**63 else type(value)


def _kind_of_lists(lists: list[list[Any]]) -> Kind | None:
    types = {_type_of(value) for row in lists for value in row if value is not None}
    if types <= {int}:
        return "integer"
    return "string" if types <= {str} else None


def _are_seconds(numbers: list[Any], span: tuple[float, float]) -> bool:
    """Whether all are seconds since 1970 within `span`, and several: IDs rarely lie so."""
    inside = [span[0] <= value <= span[1] for value in numbers]
    return len(inside) > 1 and all(inside)


def _all(texts: set[str], parse: Callable[[str], Any]) -> bool:
    try:
        for text in texts:
            parse(text)
    except ValueError:
        return False
    return True


def _separator_of(texts: list[Any]) -> str | None:
    """A separator that half of the texts have, with no space beside it: the texts are lists."""
    for separator in SEPARATORS[:3]:
        with_it = [text for text in texts if separator in text]
        if 2 * len(with_it) > len(texts) and not any(f"{separator} " in text for text in with_it):
            return separator
    return None


def _label_of(profiles: list[ColumnProfile], columns: dict[str, _Values]) -> str | None:
    """The column of 0 and 1 whose name says so, or else the only one.

    A column of that name has precedence over others even where all of its values are 0, or 1, and
    where some are missing.
    """
    flags = []
    for item in profiles:
        values = [v for v in columns[item.name].values if not _has_no_value(item, v)]
        is_named = item.name.lower() in LABEL_NAMES
        if item.distinct in (1, 2) and (is_named or not item.missing) and _is_binary(values):
            flags.append(item)
    named = [item for item in flags if item.name.lower() in LABEL_NAMES]
    if named:
        best = min(named, key=lambda item: (-item.distinct, LABEL_NAMES.index(item.name.lower())))
        return best.name
    for item in profiles:
        if item.name.lower() in LABEL_NAMES and _two_texts(columns[item.name].values):
            return item.name
    binary = [item.name for item in flags if item.distinct == 2]
    return binary[0] if len(binary) == 1 else None


def _is_binary(values: list[Any]) -> bool:
    return {str(value).lower() for value in values} <= {"0", "1", "true", "false", "0.0", "1.0"}


def _two_texts(values: list[Any]) -> tuple[str, str] | None:
    """The two texts of a label that says 0 and 1 in words, that for 0 first; None for others.

    The word for 0 is one of NEGATIVE, or else the more frequent of the two.
    """
    counts = Counter(map(_hashable, values))
    if len(counts) != 2 or _is_binary(values) or not all(isinstance(key, str) for key in counts):
        return None
    if "" in counts:
        return None
    (frequent, _), (rare, _) = counts.most_common()
    if rare.lower() in NEGATIVE and frequent.lower() not in NEGATIVE:
        return rare, frequent
    return frequent, rare


def _time_of(profiles: list[ColumnProfile]) -> str | None:
    """The column of times, by name if there are several."""
    times = [item.name for item in profiles if item.kind == "timestamp" and not item.missing]
    named = [name for name in times if name.lower() in TIME_NAMES]
    return next(iter(named or times), None)


def _labels(
    values: list[Any], texts: tuple[str, str] | None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if texts is not None:
        return np.array([value == texts[1] for value in values], dtype=np.float64)
    ones = ("1", "true", "1.0")
    return np.array([str(value).lower() in ones for value in values], dtype=np.float64)


def _alone_auc(values: list[Any], labels: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """AUC of the label rate by value, learned on even rows and measured on odd ones.

    None where a half has one label only.
    """
    with needs_extra("the profile of a log", "train"):
        from sklearn.metrics import roc_auc_score
    even, odd = labels[::2], labels[1::2]
    if not (0 < even.sum() < len(even) and 0 < odd.sum() < len(odd)):
        return None
    shown, clicked = Counter(map(repr, values[::2])), Counter[str]()
    for value, label in zip(values[::2], even.tolist(), strict=True):
        clicked[repr(value)] += int(label)
    rate = even.mean()
    by_value = [(clicked[key] + rate) / (shown[key] + 1) for key in map(repr, values[1::2])]
    best = float(roc_auc_score(odd, by_value))
    numbers = _as_numbers(values[1::2])
    if numbers is not None:  # a number may order the rows though no value occurs twice
        ordered = float(roc_auc_score(odd, numbers))
        best = max(best, ordered, 1 - ordered)
    return best


def _as_numbers(values: list[Any]) -> list[float] | None:
    try:
        numbers = [
            float(value) if not isinstance(value, datetime) else value.timestamp()
            for value in values
        ]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _has_no_value(item: ColumnProfile, value: Any) -> bool:
    return _is_missing(value) or (isinstance(value, str) and value in item.markers)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
