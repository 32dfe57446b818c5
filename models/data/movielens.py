"""Rating logs as click logs: MovieLens (original files or one joined CSV) and Epinions."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ondevice.cells import Cells, integer
from ondevice.delimited import DelimitedFormat
from ondevice.errors import DataError
from ondevice.features import FeatureSpec
from ondevice.models.data.builder import LogBuilder
from ondevice.models.data.chunks import Chunk, fault
from ondevice.models.data.columns import (
    LabelRule,
    Rule,
    at_least,
    hash_column,
    integer_column,
    label_column,
    rule,
)
from ondevice.models.data.description import LogDescription, LogField, LogLabel
from ondevice.models.data.hashed import HashedLog, IdArray, hashed_field
from ondevice.models.data.log_source import Reading, read_log
from ondevice.models.data.rows import find_file, read_rows

LIKED = 4.0  # a rating of 4 or more counts as a click
CSV_FILES = ("data.csv",)

_INTEGER, _STRING = LogField("integer"), LogField("string")
_YEAR = re.compile(r"\(([0-9]{4})\)\s*\Z")
_NO_YEAR = "none"  # how the joined CSV of ml-latest-small writes a film without a year
_DAT = DelimitedFormat("::", None, "latin-1")
_CSV = DelimitedFormat()
_MAX_TIMESTAMP = 2**32  # seconds, the year 2106; milliseconds by mistake are above it

ML1M_CSV = LogDescription(
    labels={"label": LogLabel("label")},
    fields={
        "user": _INTEGER,
        "movie": _INTEGER,
        "gender": _STRING,
        "age": _INTEGER,
        "occupation": _INTEGER,
        "zip": _STRING,
        "genres": _STRING,
        "genre1": _STRING,
        "year": _INTEGER,
    },
    ignore=("rating",),
    time="time_rank",
)
ML_LATEST_SMALL_CSV = LogDescription(
    labels={"label": LogLabel("label")},
    fields={
        "user": _INTEGER,
        "movie": _INTEGER,
        "genres": _STRING,
        "genre1": _STRING,
        "year": LogField("integer", missing=("", _NO_YEAR)),
        "hour": _INTEGER,
        "weekday": _INTEGER,
    },
    ignore=("rating",),
    time="ts",
)
EPINIONS_CSV = LogDescription(
    labels={"label": LogLabel("label")},
    fields={"user": _INTEGER, "item": _INTEGER, "category": _INTEGER},
    ignore=("rating",),
    time="ts",
)


def ml1m_log(path: Path, *, max_rows: int | None = None) -> HashedLog:
    """MovieLens-1M: user, movie, gender, age, occupation, zip, genres, genre1, year.

    Args:
        path: a joined CSV (columns: `ML1M_CSV`), or a folder that holds one as data.csv, or the
            original ratings.dat, users.dat and movies.dat; each may be .xz or .gz.
        max_rows: read only so many ratings.

    The label is rating >= 4; rating and time are no features. genre1 is the first genre; year is
    the four digits in parentheses that end the title. The data's page:
    https://grouplens.org/datasets/movielens/1m/.

    Raises:
        DataError: a file is absent or damaged, or a bad row, with line and column.
    """
    if not path.is_dir():
        return _read_csv(path, ML1M_CSV, "ml1m", max_rows)
    file = find_file(path, *CSV_FILES, "ratings.dat")
    if not file.name.startswith("ratings"):
        return _read_csv(file, ML1M_CSV, "ml1m", max_rows)
    users = _read_table(find_file(path, "users.dat"), _USERS_1M)
    movies = _read_table(find_file(path, "movies.dat"), _MOVIES_1M)
    return _joined("ml1m", file, _RATINGS_1M, [users, movies], max_rows)


def ml_latest_small_log(path: Path, *, max_rows: int | None = None) -> HashedLog:
    """MovieLens latest-small: user, movie, genres, genre1, year, hour, weekday.

    Args:
        path: a joined CSV (columns: `ML_LATEST_SMALL_CSV`), or a folder that holds one as
            data.csv, or the original ratings.csv and movies.csv; each may be .xz or .gz.
        max_rows: read only so many ratings.

    The label is rating >= 4; hour and weekday (Monday is 0) are those of the rating in UTC. The
    data's page: https://grouplens.org/datasets/movielens/latest/.

    Raises:
        DataError: a file is absent or damaged, or a bad row, with line and column.
    """
    name = "ml-latest-small"
    if not path.is_dir():
        return _read_csv(path, ML_LATEST_SMALL_CSV, name, max_rows)
    file = find_file(path, *CSV_FILES, "ratings.csv")
    if not file.name.startswith("ratings"):
        return _read_csv(file, ML_LATEST_SMALL_CSV, name, max_rows)
    movies = _read_table(find_file(path, "movies.csv"), _MOVIES_LATEST)
    return _joined(name, file, _RATINGS_LATEST, [movies], max_rows)


def epinions_log(path: Path, *, max_rows: int | None = None) -> HashedLog:
    """Epinions ratings: user, item, category.

    Args:
        path: a CSV with the columns label, rating, ts, user, item, category (`EPINIONS_CSV`), or
            a folder that holds one as data.csv; it may be .xz or .gz.
        max_rows: read only so many ratings.

    Raises:
        DataError: the file is absent or damaged, or a bad row, with line and column.
    """
    file = find_file(path, *CSV_FILES) if path.is_dir() else path
    return _read_csv(file, EPINIONS_CSV, "epinions", max_rows)


def _read_csv(
    path: Path, description: LogDescription, name: str, max_rows: int | None
) -> HashedLog:
    return read_log(path, description, name=name, reading=Reading(max_rows=max_rows))


@dataclass(frozen=True)
class _Layout:
    """One original file: its columns, the join key, and the fields it gives."""

    text_format: DelimitedFormat
    header: bool
    columns: tuple[str, ...]
    key: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class _Table:
    """A read side table: `keys` ascending int64 [m], per field hashes int64 [m]."""

    path: Path
    key: str
    keys: IdArray
    hashes: dict[str, IdArray]


def _year(title: str) -> int | None:
    match = _YEAR.search(title)
    return int(match[1]) if match else None


def _first_genre(genres: str) -> str | None:
    return genres.split("|")[0] or None


def _moment(text: str) -> datetime:
    seconds = integer(text)
    if not 0 <= seconds < _MAX_TIMESTAMP:
        raise ValueError("seconds since 1970")
    return datetime.fromtimestamp(seconds, UTC)


_MOVIE_RULES = (
    rule("genres", "string"),
    Rule(hashed_field("genre1", "string"), "genres", _first_genre),
    Rule(hashed_field("year", "integer"), "title", _year),
)
_USERS_1M = _Layout(
    _DAT,
    False,
    ("user", "gender", "age", "occupation", "zip"),
    "user",
    (
        rule("gender", "string"),
        rule("age", "integer"),
        rule("occupation", "integer"),
        rule("zip", "string"),
    ),
)
_MOVIES_1M = _Layout(_DAT, False, ("movie", "title", "genres"), "movie", _MOVIE_RULES)
_RATINGS_1M = _Layout(
    _DAT,
    False,
    ("user", "movie", "rating", "timestamp"),
    "rating",
    (rule("user", "integer"), rule("movie", "integer")),
)
_MOVIES_LATEST = _Layout(_CSV, True, ("movieId", "title", "genres"), "movieId", _MOVIE_RULES)
_RATINGS_LATEST = _Layout(
    _CSV,
    True,
    ("userId", "movieId", "rating", "timestamp"),
    "rating",
    (
        rule("user", "integer", Cells(column="userId")),
        rule("movie", "integer", Cells(column="movieId")),
        Rule(hashed_field("hour", "integer"), "timestamp", lambda text: _moment(text).hour),
        Rule(hashed_field("weekday", "integer"), "timestamp", lambda text: _moment(text).weekday()),
    ),
)


def _read_table(path: Path, layout: _Layout) -> _Table:
    keys: list[IdArray] = []
    hashes: dict[str, list[IdArray]] = {item.field.name: [] for item in layout.rules}
    chunks = read_rows(path, layout.text_format, columns=layout.columns, header=layout.header)
    for chunk in chunks:
        keys.append(integer_column(chunk, layout.key))
        for item in layout.rules:
            hashes[item.field.name].append(hash_column(chunk, item))
    ordered, first = np.unique(np.concatenate(keys), return_index=True)
    if len(ordered) < sum(map(len, keys)):
        raise DataError(f"{path}, column {layout.key!r}: expected each value once")
    joined = {name: np.concatenate(parts)[first] for name, parts in hashes.items()}
    return _Table(path, layout.key, ordered, joined)


def _joined(
    name: str, path: Path, layout: _Layout, tables: Collection[_Table], max_rows: int | None
) -> HashedLog:
    """The ratings of a file as a log, each row with the fields of the side tables it refers to.

    A rating of at least LIKED is a click. Raises DataError: a bad row, or one whose key a side
    table does not list.
    """
    label = LabelRule("rating", at_least(LIKED))
    order = ML1M_CSV.fields if name == "ml1m" else ML_LATEST_SMALL_CSV.fields
    fields = tuple(
        feature for field, item in order.items() for feature in item.features(field, ("",))
    )
    builder = LogBuilder(FeatureSpec(fields), "timestamp")
    chunks = read_rows(
        path, layout.text_format, columns=layout.columns, header=layout.header, max_rows=max_rows
    )
    for chunk in chunks:
        hashes = {item.field.name: hash_column(chunk, item) for item in layout.rules}
        for table in tables:
            positions = _positions(chunk, table)
            hashes |= {field: values[positions] for field, values in table.hashes.items()}
        builder.add(hashes, label_column(chunk, label), integer_column(chunk, "timestamp"))
    return builder.build(name)


def _positions(chunk: Chunk, table: _Table) -> IdArray:
    """For each row of the chunk its row in the side table, int64 [rows]. Raises DataError."""
    keys = integer_column(chunk, table.key)
    positions = np.minimum(np.searchsorted(table.keys, keys), len(table.keys) - 1)
    listed = table.keys[positions] == keys
    if not listed.all():
        row = int(np.argmin(listed))
        message = f"expected a value that {table.path.name} lists, got {keys[row]}"
        raise fault(chunk, table.key, row, message)
    return positions.astype(np.int64, copy=False)
