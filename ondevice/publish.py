"""Publish a set of files in a folder as one: after a crash, all of the old set is there or the new.

The new set is written and synced in a hidden folder; one rename to COMMITTED makes it the folder's
set, and its files are then moved to their places one by one. Whoever finds COMMITTED, a reader or
the next writer, moves what a killed process did not.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ondevice import manifest
from ondevice.atomic import copy_permissions, make_folder, sync
from ondevice.errors import FileFormatError, OutputError, SpecError, writing
from ondevice.manifest import FileRecord, ModelSet
from ondevice.temporary import NAME, temporary_folder

if sys.platform != "win32":  # no locks there
    import fcntl

COMMITTED = ".ondevice-committed"
HIDDEN = re.compile(f"{NAME.pattern}|{re.escape(COMMITTED)}")  # what killed processes leave
FILES, REMOVED = "files", "removed"  # folders in it: files to move, and names to remove


@contextlib.contextmanager
def publishing(
    folder: Path,
    *,
    removed: Collection[str] = (),
    with_manifest: bool = False,
    unless: Callable[[], None] | None = None,
) -> Iterator[Path]:
    """Yield an empty folder for the files of a new set; on success they become files of `folder`.

    Files of other names stay. A replaced file's permissions are kept. A process that is killed
    before the commit leaves the old set and a hidden folder, which the next one sweeps; one that is
    killed later leaves the new set, which the next reader or writer moves to its place.

    Args:
        folder: where the set belongs; it is created if it does not exist.
        removed: names of files of the old set that the new one does not have.
        with_manifest: write manifest.json too: of these files, and of the files that the folder's
            manifest lists already; its version grows by one.
        unless: called when no other process publishes there any more, just before the commit; what
            it raises leaves the old set.

    Raises:
        OutputError: the disk refuses, or a name is taken by something that is not a regular file.
    """
    with writing(folder), _folder(folder), temporary_folder(folder) as temporary:
        fresh = temporary / "set"
        (fresh / FILES).mkdir(parents=True)
        yield fresh / FILES
        records = _records(fresh / FILES) if with_manifest else {}
        with locked(folder):
            _move_committed(folder)
            if unless is not None:
                unless()
            if with_manifest:
                _write_manifest(fresh / FILES, folder, records, removed)
            _prepare(fresh, folder, removed)
            fresh.rename(folder / COMMITTED)
            sync(folder)
            _move_committed(folder)


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Create a folder, which goes again if the block fails and leaves nothing in it."""
    existed = folder.is_dir()
    make_folder(folder)
    try:
        yield
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def is_filled(folder: Path) -> bool:
    """Whether something of that name exists, other than an empty folder.

    What a killed process left counts as nothing: the next writer sweeps it.
    """
    if not folder.is_dir():
        return folder.exists()
    return any(not HIDDEN.fullmatch(path.name) for path in folder.iterdir())


def finish(folder: Path) -> None:
    """Finish what a killed process committed in a folder, before its files are read.

    Raises:
        FileFormatError: this process may not write there.
    """
    if not os.path.lexists(folder / COMMITTED):
        return
    try:
        with locked(folder):
            _move_committed(folder)
    except OSError as error:
        raise FileFormatError(
            f"{folder}: an interrupted update must be finished first, by a user who may write "
            f"there: {error.strerror or error}"
        ) from error


def _records(files: Path) -> dict[str, FileRecord]:
    return {path.name: manifest.record(path) for path in sorted(files.iterdir())}


def _write_manifest(
    files: Path, folder: Path, records: dict[str, FileRecord], removed: Collection[str]
) -> None:
    """Write the manifest of the new set; an older one that cannot be read is replaced."""
    old: ModelSet | None = None
    with contextlib.suppress(FileFormatError):
        old = manifest.read_manifest(folder / manifest.NAME).model_set
    others = {} if old is None else dict(old.files)
    stay = {
        name: item
        for name, item in others.items()
        if name not in removed and (folder / name).is_file()
    }
    version = 1 if old is None else old.version + 1
    try:
        made = manifest.new_manifest(ModelSet(stay | records, version))
    except SpecError as error:
        raise OutputError(f"{folder / manifest.NAME}: cannot be written: {error}") from error
    (files / manifest.NAME).write_bytes(made.to_bytes())


def _prepare(fresh: Path, folder: Path, removed: Collection[str]) -> None:
    """Bring a set to the disk, ready to be committed. Raises OutputError, OSError."""
    for path in sorted((fresh / FILES).iterdir()):
        status = _replaceable(folder / path.name)
        if status is not None:
            copy_permissions(path, status)
        sync(path)
    (fresh / REMOVED).mkdir()
    for name in removed:
        if _replaceable(folder / name) is not None:
            (fresh / REMOVED / name).touch()
    for part in (fresh / FILES, fresh / REMOVED, fresh, fresh.parent):
        sync(part)


def _replaceable(target: Path) -> os.stat_result | None:
    """What will be replaced; None where nothing is. Raises OutputError unless a regular file."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{target}: cannot be written: it is not a regular file")
    return status


def _move_committed(folder: Path) -> None:
    """Move the committed set's files to their places, if there is one; the folder is locked."""
    committed = folder / COMMITTED
    if not _is_trusted(committed, folder):
        return
    with contextlib.suppress(FileNotFoundError):  # the last one was killed while it cleared away
        for item in sorted((committed / REMOVED).iterdir()):
            (folder / item.name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        for item in sorted((committed / FILES).iterdir()):
            item.replace(folder / item.name)
        sync(committed / FILES)
    sync(folder)
    shutil.rmtree(committed)
    sync(folder)


def _is_trusted(committed: Path, folder: Path) -> bool:
    """Whether a committed set is this user's or the folder's owner's, whoever may write there."""
    try:
        status = committed.lstat()
    except FileNotFoundError:
        return False
    if sys.platform == "win32":
        return stat.S_ISDIR(status.st_mode)
    owners = (os.getuid(), folder.stat().st_uid)
    return stat.S_ISDIR(status.st_mode) and status.st_uid in owners


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; waits for others, who move files. None on Windows."""
    if sys.platform == "win32":
        yield
    else:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
