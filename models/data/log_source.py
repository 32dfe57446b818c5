"""Your own log: files or tables of any layout, read by a description of their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.cells import Cells
from ondevice.errors import DataError, InputError
from ondevice.features import PADDING_ID, FeatureSpec, Field
from ondevice.hashing import hash_texts
from ondevice.models.data.arrow_chunks import ipc_chunks, parquet_chunks, table_chunks
from ondevice.models.data.builder import LogBuilder, Rows, ordered_by_part
from ondevice.models.data.cache import cache_key, cached_log
from ondevice.models.data.chunks import BadRows, Chunk, ObjectChunk, WithValues
from ondevice.models.data.columns import (
    Faults,
    LabelRule,
    Rule,
    at_least,
    encoded_column,
    hash_column,
    label_column,
    number_column,
    rule_of,
    zero_one,
)
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import FieldSettings, HashedLog, IdArray
from ondevice.models.data.json_rows import read_objects
from ondevice.models.data.parts import LogFile, find_files
from ondevice.models.data.rows import read_rows
from ondevice.models.data.splits import (
    PARTS,
    PartArray,
    SplitRule,
    mixed_hash,
    part_of_hash,
    part_of_name,
    part_of_time,
)

_SPLIT_HASH = "split hash"  # a key that decides the part of a row, dropped afterwards
MAX_TEXTS = 1000  # the texts of a key with more distinct values are not kept


@dataclass(frozen=True)
class Reading:
    """How much of a log is read.

    Attributes:
        where: a condition on the values of Hive's folders: see `find_files`.
        max_rows: read only so many rows from the start.
        bad_rows: counts rows that cannot be read; by default the first one is an error.
        cache: a folder in which the encoded log of files is kept, to be mapped the next time.
    """

    where: str | None = None
    max_rows: int | None = None
    bad_rows: BadRows | None = None
    cache: Path | None = None


def read_log(
    source: Any,
    description: LogDescription,
    *,
    name: str | None = None,
    reading: Reading | None = None,
    split: SplitRule | None = None,
) -> HashedLog:
    """Read files or a table as their description says.

    Args:
        source: a path, several paths, or a table: see `table_chunks`.
        description: what the columns are.
        name: of the log; that of the first file if None.
        reading: how much is read.
        split: divides the rows; None leaves them in their order, to be divided at random.

    Raises:
        DataError: a file that is absent, empty or damaged; columns of the description that it
            lacks or columns the description does not mention; a bad row, with line and column;
            a part without rows or with rows of one label only.
        InputError: the source is none.
    """
    reading = reading or Reading()
    bad_rows = reading.bad_rows or BadRows()
    name = name or name_of_log(source)
    files = log_files(source, reading.where)

    def read() -> HashedLog:
        return _read(source, files, description, name, reading, split, bad_rows)

    if reading.cache is None or not files:
        return read()
    key = cache_key(files, description, split, (reading.max_rows, bad_rows.most))
    log = cached_log(reading.cache, key, read)
    bad_rows.count = log.refused
    return log


def _read(
    source: Any,
    files: Sequence[LogFile],
    description: LogDescription,
    name: str,
    reading: Reading,
    split: SplitRule | None,
    bad_rows: BadRows,
) -> HashedLog:
    """The log of files, or of a table if there are none. Raises DataError; see `read_log`."""
    rules = RowRules(description, split)
    collected = CollectedRows(description, split)
    for part, chunks in _sources(source, files, rules, reading, bad_rows):
        for chunk in chunks:
            rows = rules.rows(chunk, bad_rows)
            collected.add(_limited(rows, len(collected), reading.max_rows), part)
            if len(collected) == reading.max_rows:
                return collected.log(name, bad_rows.count, rules.texts)
    return collected.log(name, bad_rows.count, rules.texts)


class CollectedRows:
    """The rows of a log so far, and the part that each row's file says."""

    def __init__(self, description: LogDescription, split: SplitRule | None) -> None:
        """No rows yet."""
        self._description = description
        self._split = split
        features = FeatureSpec(description.features, description.text_format, description.columns)
        self._builder = LogBuilder(features, labels=tuple(description.labels))
        self._parts: list[tuple[int, int]] = []  # how many rows, and their part

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._builder)

    def add(self, rows: Rows, part: int) -> None:
        """Append rows of a file that says this part."""
        self._builder.add_rows(rows)
        self._parts.append((len(rows.labels), part))

    def log(self, name: str, refused: int, texts: Mapping[str, Mapping[int, str]]) -> HashedLog:
        """The log of all rows, divided as the split says; add nothing after.

        Args:
            name: of the log.
            refused: how many rows could not be read.
            texts: by key, the texts of its hashes: see `RowRules.texts`.

        Raises:
            DataError: no rows, or a part without rows or with rows of one label only.
        """
        description, split = self._description, self._split
        log = self._builder.build(name)
        if not len(log):
            raise DataError(f"{name}: no rows")
        log = replace(
            log,
            settings=_settings(description),
            negative_sampling=description.negative_sampling,
            refused=refused,
            key_texts={key: known for key, known in texts.items() if len(known) <= MAX_TEXTS},
        )
        if split is None:
            return log
        parts = _parts(log, split, self._parts)
        keys = {key: values for key, values in log.keys.items() if key != _SPLIT_HASH}
        try:
            ordered = ordered_by_part(replace(log, keys=keys), parts)
            _check_labels(ordered, description)
        except DataError as error:
            if split.by != "random":
                raise
            raise DataError(
                f"{error}; a random split keeps equal rows together: where a log has few different "
                "rows, give it a time column, or split it by hash:COLUMN"
            ) from error
        return ordered


class RowRules:
    """What the columns of a chunk become.

    Attributes:
        description: of the columns.
        split: whose columns are hashed too.
        columns: that are read.
        texts: by key, the texts of the hashes so far, until they are more than MAX_TEXTS.
    """

    def __init__(self, description: LogDescription, split: SplitRule | None) -> None:
        self.description = description
        self.split = split
        self.rules = [rule_of(field) for field in description.features]
        self.labels = [
            LabelRule(
                label.column, zero_one if label.at_least is None else at_least(label.at_least)
            )
            for label in description.labels.values()
        ]
        self.texts: dict[str, dict[int, str]] = {key: {} for key in description.keys}
        self.columns = tuple(dict.fromkeys([*description.used, *(split.columns if split else ())]))

    def rows(self, chunk: Chunk, bad_rows: BadRows) -> Rows:
        """The chunk's rows without those that cannot be read. Raises DataError."""
        faults, description = Faults(chunk), self.description
        labels = [label_column(chunk, label, faults) for label in self.labels]
        hashes = {item.field.name: hash_column(chunk, item, faults) for item in self.rules}
        times = self._times(chunk, faults)
        weights = self._weights(chunk, faults)
        keys = {
            key: _text_hashes(chunk, column, faults, description.missing, self.texts[key])
            for key, column in description.key_columns.items()
        }
        if self.split is not None and self.split.by == "hash":
            keys[_SPLIT_HASH] = mixed_hash(
                [_text_hashes(chunk, column, faults) for column in self.split.columns]
            ).view(np.int64)
        together = labels[0] if len(labels) == 1 else np.stack(labels, axis=1)
        rows = Rows(hashes, together, times, weights, keys)
        if not faults.rows.any():
            return rows
        faults.refuse(bad_rows)
        return rows.take(np.flatnonzero(~faults.rows))

    def _times(self, chunk: Chunk, faults: Faults) -> IdArray | None:
        column = self.description.time
        if column is None:
            return None
        form = self.description.time_format
        values = chunk.values(column).values
        if form is None and isinstance(values, np.ndarray) and values.dtype.kind == "M":
            form = "iso"  # any form but none: these are times already
        field = Field(column, "integer", "id", cells=Cells((), form=form))
        return encoded_column(chunk, Rule(field, column), faults)

    def _weights(self, chunk: Chunk, faults: Faults) -> npt.NDArray[np.float32] | None:
        column = self.description.weight
        if column is None:
            return None
        field = Field(column, "number", "bucket", cells=Cells(()))
        weights = number_column(chunk, Rule(field, column), faults).astype(np.float32)
        wrong = ~((weights > 0) & np.isfinite(weights)) & ~faults.rows
        if wrong.any():
            faults.add(column, wrong, "expected a weight above 0, and finite")
        return weights


def log_files(source: Any, where: str | None = None) -> list[LogFile]:
    """The files of paths: see `find_files`; none of a table. Raises DataError, InputError."""
    if not _are_paths(source):
        return []
    return find_files([source] if isinstance(source, str | Path) else list(source), where)


def _sources(
    source: Any,
    files: Sequence[LogFile],
    rules: RowRules,
    reading: Reading,
    bad_rows: BadRows,
) -> Iterator[tuple[int, Iterator[Chunk]]]:
    """The chunks of each file with the part that its name says, or of a table (part 0).

    Raises:
        DataError: a name that says no part, in a split by folders; a file without rows.
    """
    if not files:
        yield 0, table_source(source, "the table", rules)
    for file in files:
        yield part_of_file(file, rules.split), file_source(file, rules, bad_rows, reading)


def part_of_file(file: LogFile, split: SplitRule | None) -> int:
    """The part that a file's name says, else training; none may be missing in a split by folders.

    Raises:
        DataError: it is missing there.
    """
    part = part_of_name(file.below)
    if part is None and split is not None and split.by == "folders":
        raise DataError(
            f"{file.path}: a split by folders needs a file or folder called train, "
            "validation or test"
        )
    return part or 0


def file_source(
    file: LogFile, rules: RowRules, bad_rows: BadRows, reading: Reading | None = None
) -> Iterator[Chunk]:
    """The chunks of a file, with its folders' values. Raises DataError: see `read_log`."""
    description, columns = rules.description, rules.columns
    chunks = _file_chunks(file, description, columns, reading or Reading(), bad_rows)
    return _checked(str(file.path), _with_values(chunks, file), columns, description)


def table_source(source: Any, name: str, rules: RowRules) -> Iterator[Chunk]:
    """The chunks of a table: see `table_chunks`. Raises DataError, InputError."""
    return _checked(name, table_chunks(source, name), rules.columns, rules.description)


def _file_chunks(
    file: LogFile,
    description: LogDescription,
    columns: tuple[str, ...],
    reading: Reading,
    bad_rows: BadRows,
) -> Iterator[Chunk]:
    """The rows of one file, by its format."""
    if file.format == "parquet":
        return parquet_chunks(file.path, columns, file.groups)
    if file.format == "arrow":
        return ipc_chunks(file.path)
    if file.format == "jsonl":
        return read_objects(file.path, [c for c in columns if c not in file.values], bad_rows)
    text_format = description.text_format
    if file.path.name.lower().split(".")[1:2] == ["tsv"] and text_format.delimiter == ",":
        text_format = replace(text_format, delimiter="\t")
    return read_rows(
        file.path,
        text_format,
        columns=description.columns,
        header=description.columns is None,
        max_rows=reading.max_rows,
        bad_rows=bad_rows,
    )


def _with_values(chunks: Iterator[Chunk], file: LogFile) -> Iterator[Chunk]:
    for chunk in chunks:
        yield WithValues(chunk, file.values) if file.values else chunk


def _checked(
    name: str, chunks: Iterator[Chunk], columns: tuple[str, ...], description: LogDescription
) -> Iterator[Chunk]:
    """The chunks, once the first one's columns are those described. Raises DataError."""
    rows = 0
    for chunk in chunks:
        if not rows:
            _check_columns(name, chunk, columns, description)
        rows += len(chunk)
        yield chunk
    if not rows:
        raise DataError(f"{name}: no rows")


def _check_columns(
    name: str, chunk: Chunk, columns: tuple[str, ...], description: LogDescription
) -> None:
    """Refuse columns that are absent or not described. Raises DataError."""
    shared: Mapping[str, str] = {}
    if isinstance(chunk, WithValues):
        shared, chunk = chunk.shared, chunk.chunk
    ignored = set(description.ignore) - {"*"}
    faults = []
    # an object's other keys come and go
    needed = [*columns, *([] if isinstance(chunk, ObjectChunk) else sorted(ignored))]
    names = (*chunk.names, *shared)
    if absent := [column for column in dict.fromkeys(needed) if column not in names]:
        faults.append(f"no column {', '.join(map(repr, absent))}")
    known = {*columns, *ignored, *shared}
    unused = [column for column in chunk.names if column not in known]
    if unused and "*" not in description.ignore:
        faults.append(f"neither field, label nor ignored: {', '.join(map(repr, unused))}")
    if faults:
        listed = ", ".join(names)
        raise DataError(f"{name}: {'; '.join(faults)} (the file's columns: {listed})")


def _text_hashes(
    chunk: Chunk,
    column: str,
    faults: Faults,
    missing: Sequence[str] = (),
    known: dict[int, str] | None = None,
) -> IdArray:
    """Hashes of a column's values as texts, so that 5 and "5" are equal in every kind of file.

    Args:
        chunk: the rows.
        column: its name.
        faults: of texts that are none.
        missing: texts that mean "no value": PADDING_ID.
        known: takes the other texts by hash, up to about MAX_TEXTS.
    """
    found = chunk.values(column)
    texts = ["" if value is None else str(value) for value in found.values]
    try:
        hashes = hash_texts(texts)
        hashes[[text in missing for text in texts]] = PADDING_ID
        if known is not None and len(known) <= MAX_TEXTS:
            known.update(zip(hashes.tolist(), texts, strict=True))
            known.pop(PADDING_ID, None)
        return found.spread(hashes)
    except InputError:
        faults.add(column, np.ones(len(chunk), dtype=bool), "expected text in the file's encoding")
        return np.zeros(len(chunk), np.int64)


def _parts(log: HashedLog, split: SplitRule, file_parts: Sequence[tuple[int, int]]) -> PartArray:
    """The part of each row, uint8 [n]. Raises DataError."""
    if split.by == "folders":
        counts, parts = zip(*file_parts, strict=True)
        return np.repeat(np.array(parts, np.uint8), counts)
    if split.by == "time":
        if log.times is None:
            raise InputError("a split by time needs the column of times in the description")
        return part_of_time(log.times, split, log.name)
    if split.by == "hash":
        return part_of_hash(log.keys[_SPLIT_HASH].view(np.uint64), split.shares)
    return _at_random(log, split)


def _at_random(log: HashedLog, split: SplitRule, chunk: int = 1 << 18) -> PartArray:
    """Parts by a hash of the whole row: of its fields, labels and time. Equal rows share one."""
    parts = np.empty(len(log), np.uint8)
    for start in range(0, len(log), chunk):
        rows = slice(start, start + chunk)
        columns = [
            column
            for values in log.hashes.values()
            for column in values[rows].reshape(len(values[rows]), -1).T
        ]
        columns += list(log.labels[rows].reshape(len(log.labels[rows]), -1).T.astype(np.int64))
        if log.times is not None:
            columns.append(log.times[rows])
        parts[rows] = part_of_hash(mixed_hash(columns), split.shares)
    return parts


def _limited(rows: Rows, before: int, max_rows: int | None) -> Rows:
    left = len(rows.labels) if max_rows is None else max_rows - before
    return rows if len(rows.labels) <= left else rows.take(np.arange(left))


def _check_labels(log: HashedLog, description: LogDescription) -> None:
    """Refuse a part whose rows all have one label: it has no AUC. Raises DataError."""
    for number, part in enumerate(PARTS):
        labels = log.part(number).labels.reshape(-1, len(log.label_names))
        clicks = labels.sum(axis=0, dtype=np.float64)
        for name, count in zip(log.label_names, clicks.tolist(), strict=True):
            if not 0 < count < len(labels):
                column = description.labels[name].column
                raise DataError(
                    f"{log.name}: the label column {column!r} is {'1' if count else '0'} in all "
                    f"{len(labels)} rows for {part}; both labels are needed"
                )


def _settings(description: LogDescription) -> dict[str, FieldSettings]:
    """What the description asks of each field's table."""
    names = [item.name for item in fields(FieldSettings)]
    settings = {}
    for name, item in description.fields.items():
        asked = FieldSettings(**{key: getattr(item, key) for key in names})
        if asked != FieldSettings():
            for feature in item.features(name, description.missing):
                settings[feature.name] = asked
    return settings


def _are_paths(source: Any) -> bool:
    if isinstance(source, str | Path):
        return True
    is_listed = isinstance(source, list | tuple) and bool(source)
    return is_listed and all(isinstance(item, str | Path) for item in source)


def name_of_log(source: Any) -> str:
    """The name of the first file or folder of a log; "table" of a table."""
    if not _are_paths(source):
        return "table"
    first = source if isinstance(source, str | Path) else source[0]
    return Path(first).name or str(first)
