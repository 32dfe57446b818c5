"""The data sets by name, and your own log: `open_log`, which commands and recipes call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ondevice.errors import InputError
from ondevice.models.data.chunks import BadRows
from ondevice.models.data.contests import avazu_log, criteo_log
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.log_source import Reading, read_log
from ondevice.models.data.movielens import epinions_log, ml1m_log, ml_latest_small_log
from ondevice.models.data.splits import SplitRule
from ondevice.models.data.synthetic import DEFAULT_ROWS, synthetic_log

_FROM_PATH = {
    "ml1m": ml1m_log,
    "ml-latest-small": ml_latest_small_log,
    "epinions": epinions_log,
    "criteo": criteo_log,
    "avazu": avazu_log,
}
DESCRIBED = ("log", "csv")  # "csv": one file, divided at random by row number
DATASETS = ("synthetic", *_FROM_PATH, *DESCRIBED)
Columns = LogDescription | Mapping[str, Any] | Path


def open_log(
    source: Any,
    path: Any = None,
    *,
    columns: Columns | None = None,
    where: str | None = None,
    split: SplitRule | str | None = None,
    bad_rows: BadRows | str | None = None,
    cache: Path | None = None,
    seed: int = 0,
    max_rows: int | None = None,
    keys: Sequence[str] = (),
) -> HashedLog:
    """Load a data set by name, or read a log.

    Args:
        source: one of `DATASETS`; or a log itself: a path of a file, folder or glob, several of
            them, or a table (see ondevice.models.data.arrow_chunks.table_chunks).
        path: the files that a name is read from; "synthetic" takes none.
        columns: what the columns are, only of a log, "log" or "csv": a description, its dictionary
            form, or the path of a .toml or .json file.
        where: a condition on the values of Hive's folders, as `dt >= 2026-10-01`, only of a log.
        split: how the rows of a log are divided, before what the description says.
        bad_rows: how many rows of a log may be refused, as `skip:100`.
        cache: a folder in which the encoded log of files is kept, to be mapped the next time.
        seed: of "synthetic"; the others are what their files hold.
        max_rows: read only so many rows ("synthetic": draw so many); None for all (its default).
        keys: fields or other columns of a log that metrics group rows by, beside those of its
            description; of the other data sets they can only be fields.

    Raises:
        InputError: an unknown name, or an argument missing or out of place.
        SpecError: an unsound description.
        DataError: a file is absent or damaged, or a bad row, with line and column.
    """
    known = ", ".join(DATASETS)
    if max_rows is not None and max_rows < 1:
        raise InputError(f"max_rows must be at least 1, got {max_rows}")
    is_name = isinstance(source, str) and source in DATASETS
    name = source if is_name else "log"
    if not is_name:
        if path is not None or (columns is None and isinstance(source, str)):
            raise InputError(f"unknown data set {source!r}; expected one of {known}")
        path = source
    if name not in DESCRIBED:
        given: dict[str, Any] = {"columns": columns, "where": where, "split": split}
        given |= {"bad_rows": bad_rows, "cache": cache}
        if wrong := [f"--{key.replace('_', '-')}" for key, value in given.items() if value]:
            verb = "goes" if len(wrong) == 1 else "go"
            raise InputError(f"{' and '.join(wrong)} {verb} with --data log, not with {name!r}")
    if name == "synthetic":
        if path is not None:
            paths = [path] if isinstance(path, str | Path) else path
            raise InputError(
                "data set 'synthetic', which is meant where none is named, is drawn, not read; got "
                f"the path {' '.join(map(str, paths))}: a log of your own is --data log"
            )
        return synthetic_log(max_rows or DEFAULT_ROWS, seed=seed)
    if path is None:
        raise InputError(f"data set {name!r} is read from files: give their path (names: {known})")
    if name in _FROM_PATH:
        return _FROM_PATH[name](_single(name, path), max_rows=max_rows)
    if columns is None:
        raise InputError(
            f"data set {name!r} needs a description of its columns: give a .toml or .json file "
            "with --columns (docs/data.md shows one; `ondevice describe` writes one)"
        )
    description = _described(columns).with_keys(keys)
    if isinstance(bad_rows, str):
        bad_rows = BadRows.from_text(bad_rows)
    rule = split_rule(split, description, by_position=name == "csv")
    reading = Reading(where, max_rows, bad_rows, cache)
    return read_log(path, description, reading=reading, split=rule)


def split_rule(
    given: SplitRule | str | None, description: LogDescription, by_position: bool
) -> SplitRule | None:
    """How a log is divided; None, as data set "csv" always was, by row number at random."""
    if isinstance(given, str):
        return SplitRule.from_text(given)
    if given is not None or description.split is not None:
        return given or description.split
    if by_position:
        return None
    return SplitRule("random" if description.time is None else "time")


def _single(name: str, path: Any) -> Path:
    paths = [path] if isinstance(path, str | Path) else list(path)
    if len(paths) != 1:
        raise InputError(f"data set {name!r} is read from one path, got {len(paths)}")
    return Path(paths[0])


def _described(columns: Columns) -> LogDescription:
    if isinstance(columns, LogDescription):
        return columns
    if isinstance(columns, Path):
        return LogDescription.from_file(columns)
    return LogDescription.from_dict(columns)
