"""Hidden folders for unfinished files, locked while their process lives, swept when it is gone."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":  # no locks there, so nothing is swept
    import fcntl

NAME = re.compile(r"\.ondevice-[0-9a-f]{16}\.tmp")
LOCK = "lock"  # the file in it on which the living process has a lock


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, which is removed at the end.

    Folders that killed processes left in `parent` are swept first. The system releases a killed
    process's locks, so a folder that can be locked has no owner, whichever container or host (on
    a file system that shares locks) it ran in.

    Args:
        parent: an existing folder; by default the system's folder for temporary files.

    Raises:
        OSError: the folder cannot be created.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(place)
    folder, lock = _locked(place)
    try:
        yield folder
    finally:
        if sys.platform == "win32":  # an open file cannot be removed there
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        if sys.platform != "win32":
            os.close(lock)


def sweep(parent: Path) -> None:
    """Remove what killed processes left in a folder.

    Only folders with names of this module that belong to this user and that no process has locked.
    Files that cannot be read or removed stay.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        left = [Path(entry.path) for entry in entries if _is_ours(entry)]
        for folder in left:
            _sweep_folder(folder)


def sweep_tree(root: Path) -> None:
    """Sweep a folder and all below it, as results that nobody writes again."""
    for folder, names, _ in os.walk(root):
        sweep(Path(folder))
        names[:] = [name for name in names if not NAME.fullmatch(name)]


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if sys.platform == "win32":
        return False
    if not NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
        return False
    try:
        return entry.stat(follow_symlinks=False).st_uid == os.getuid()
    except FileNotFoundError:  # its process has just removed it; the others are swept
        return False


def _locked(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock; tries again if a sweep removed the folder."""
    while True:
        folder = parent / f".ondevice-{secrets.token_hex(8)}.tmp"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:
            continue
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        if _lock(folder, lock) is not False:
            return folder, lock
        os.close(lock)


def _lock(folder: Path, lock: int) -> bool | None:
    """Whether this process now has the lock of a folder; None where there are no locks.

    False if another process has it, or has removed the folder since the lock's file was opened.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(lock), (folder / LOCK).stat())
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError:  # a file system without locks
            return None
    return None


def _sweep_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        # this creates the lock's file if the owner was killed before it did
        lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if _lock(folder, lock):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
