"""Lists the files of a log below a folder or by a glob, and leaves none out without a word."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from ondevice.errors import DataError

HIDDEN = (".", "_")  # unfinished files of jobs, checksums, markers


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and below, ordered by the names on their way.

    Names that begin with "." or "_" are left out, and nothing is read below them: what a running
    job keeps there may vanish at any moment. Links to folders are followed, but for those that
    lead back to a folder on their way.

    Raises:
        DataError: a folder that cannot be listed.
    """
    return list(_walk(folder, ()))


def matches(pattern: str) -> list[Path]:
    """The files and folders that a glob means, in order, without those in another one of them.

    A component `**` stands for a folder and all below it. As `*` means no name that begins with
    ".", it means none that begins with "_", unless the pattern's component does.

    Raises:
        DataError: a folder on the way cannot be listed.
    """
    path = Path(pattern)
    base, parts = Path(path.anchor), path.parts[bool(path.anchor) :]
    only_folders = pattern.endswith((os.sep, "/"))
    found = {item for item in _matching(base, parts) if not only_folders or is_folder(item)}
    return sorted(item for item in found if found.isdisjoint(item.parents))


def is_folder(path: Path) -> bool:
    """Whether a path is a folder. Raises DataError where the system does not say."""
    try:
        return path.is_dir()
    except OSError as error:
        raise _fault(path, "looked at", error) from error


def exists(path: Path) -> bool:
    """Whether there is something of that name. Raises DataError where the system does not say."""
    try:
        return path.exists()
    except OSError as error:
        raise _fault(path, "looked at", error) from error


def listed(folder: Path, hidden: tuple[str, ...] = ()) -> list[Path]:
    """What a folder holds, in order, but names that begin so. Raises DataError."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(hidden))
    except OSError as error:
        raise _fault(folder, "listed", error) from error


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """See `files_below`; `above` has the real paths of the folders on the way."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in listed(folder, HIDDEN):
        if is_folder(path):
            yield from _walk(path, (*above, real))
        else:
            yield path


def _matching(base: Path, parts: tuple[str, ...], above: tuple[str, ...] = ()) -> Iterator[Path]:
    """What the components of a glob mean from a folder on; a path may come several times."""
    if not parts:
        yield base
        return
    first, rest = parts[0], parts[1:]
    if not glob.has_magic(first):
        if exists(base / first):
            yield from _matching(base / first, rest)
        return
    if not is_folder(base):
        return
    if first != "**":
        hidden = tuple(mark for mark in HIDDEN if not first.startswith(mark))
        for path in listed(base, hidden):
            if fnmatch.fnmatch(path.name, first):
                yield from _matching(path, rest)
        return
    real = os.path.realpath(base)
    if real in above:
        return
    yield from _matching(base, rest)
    for path in listed(base, HIDDEN):
        if is_folder(path):
            yield from _matching(path, parts, (*above, real))


def _fault(path: Path, what: str, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be {what}: {error.strerror or error}")
