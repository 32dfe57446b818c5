"""The files of a log: one file, a folder, a glob or several, with the values that folders name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from ondevice.compression import SUFFIXES
from ondevice.errors import DataError, InputError
from ondevice.models.data.listing import exists, files_below, is_folder, matches
from ondevice.requests import FORMATS, Format

_HIVE = re.compile(r"([^=]+)=(.*)")
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|==|=|!=|<|>)\s*(.+?)\s*")
# Folders that Hive writes for a missing value of a partition column.
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "<": str.__lt__,
    "<=": str.__le__,
    ">": str.__gt__,
    ">=": str.__ge__,
    "=": str.__eq__,
    "==": str.__eq__,
    "!=": str.__ne__,
}


@dataclass(frozen=True)
class LogFile:
    """One file of a log.

    Attributes:
        path: the file.
        format: what it holds; "csv" stands for all delimited text.
        below: the folders below the given path, and the file's name.
        values: by column, the values that folders such as `dt=2026-10-01` give all of its rows;
            "" where the folder stands for a missing value.
        groups: of a Parquet file, the row groups that are read: the first, and the one after the
            last; None: all.
    """

    path: Path
    format: Format
    below: tuple[str, ...]
    values: dict[str, str] = field(default_factory=dict)
    groups: tuple[int, int] | None = None


def find_files(paths: Sequence[str | Path], where: str | None = None) -> list[LogFile]:
    """The files of a log, ordered by name within each given path.

    Args:
        paths: files, folders (read with all folders below, without names that begin with "." or
            "_"), or globs; see `listing`.
        where: a condition on the values of folders, such as `dt >= 2026-10-01`, with several
            joined by `and`. Values are compared as texts, or as integers where both are.

    Raises:
        DataError: a path that is absent, a folder without files of a known kind or that cannot be
            listed, a file that would be read twice, a condition that no file meets.
        InputError: the condition is none.
    """
    conditions = _conditions(where)
    files: list[LogFile] = []
    for given in paths:
        for path in _expanded(str(given)):
            files += _of_folder(path) if is_folder(path) else [_log_file(path, (path.name,))]
    if not files:
        raise DataError(f"no files: {', '.join(map(str, paths))}")
    chosen = [file for file in files if all(_meets(file, *item) for item in conditions)]
    if not chosen:
        named = sorted({f"{key}={value}" for file in files for key, value in file.values.items()})
        raise DataError(
            f"no file meets the condition {where!r}; the folders name "
            f"{', '.join(named[:10]) or 'nothing'}"
        )
    _refuse_repeated(chosen)
    return chosen


def _expanded(given: str) -> list[Path]:
    """The paths of a glob, or the path itself. Raises DataError."""
    path = Path(given)
    if exists(path):
        return [path]
    if not glob.has_magic(given):
        raise DataError(f"{given}: no such file or folder")
    matched = matches(given)
    if not matched:
        raise DataError(f"{given}: no file matches")
    return matched


def _of_folder(folder: Path) -> list[LogFile]:
    """The files of a known kind in a folder and below.

    Raises:
        DataError: there are none, or a folder cannot be listed.
    """
    files, others = [], []
    for path in files_below(folder):
        below = path.relative_to(folder).parts
        if _format_of(path) is None:
            others.append("/".join(below))
        else:
            files.append(_log_file(path, below))
    if not files:
        seen = ", ".join(others[:5]) or "nothing"
        raise DataError(
            f"{folder}: no file of a log; expected names that end in {', '.join(FORMATS)}, also "
            f"with {', '.join(SUFFIXES)}; it holds {seen}"
        )
    return files


def _refuse_repeated(files: Sequence[LogFile]) -> None:
    """Raise DataError where a file would be read twice, by a link or by two of the given paths."""
    seen: dict[str, Path] = {}
    for file in files:
        before = seen.setdefault(os.path.realpath(file.path), file.path)
        if before is not file.path:
            raise DataError(
                f"{file.path}: is the same file as {before}, and its rows would be read twice; "
                "name folders or files that hold each file once"
            )


def _format_of(path: Path) -> Format | None:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        suffix = Path(path.stem).suffix.lower()
    return FORMATS.get(suffix)


def _log_file(path: Path, below: tuple[str, ...]) -> LogFile:
    """A file with the values of its folders, those above the given path included.

    Hive writes characters that a folder's name cannot have as %3A and the like.
    """
    values = {}
    for name in path.parts[:-1]:
        if match := _HIVE.fullmatch(name):
            values[match[1]] = "" if match[2] == _NO_VALUE else unquote(match[2])
    return LogFile(path, _format_of(path) or "csv", below, values)


def _conditions(where: str | None) -> list[tuple[str, str, str]]:
    """Column, operator and value of each condition. Raises InputError."""
    conditions = []
    for text in re.split(r"\s+and\s+", where, flags=re.IGNORECASE) if where else []:
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise InputError(f"--where: expected COLUMN >= VALUE [and ...], got {text!r}")
        column, operator, value = match.groups()
        conditions.append((column, operator, value.strip("'\"")))
    return conditions


def _meets(file: LogFile, column: str, operator: str, value: str) -> bool:
    """Whether a file meets a condition. Raises InputError where its folders name no such column."""
    if column not in file.values:
        known = ", ".join(file.values) or "none"
        raise InputError(
            f"--where: no folder of {file.path} names {column!r} (columns of folders: {known})"
        )
    left, right = file.values[column], value
    width = max(len(left), len(right))
    if left.isascii() and left.isdigit() and right.isascii() and right.isdigit():
        left, right = left.zfill(width), right.zfill(width)
    return _COMPARE[operator](left, right)
