"""Write a file completely or not at all: in a temporary folder beside the target, then rename."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from ondevice.errors import OutputError, writing
from ondevice.temporary import temporary_folder

NEW_FILE_MODE = 0o666  # less the umask, as for any new file
PRIVATE_MODE = 0o600


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path to write to; what was written becomes `target` on success, or vanishes.

    The path is a file in a temporary folder beside the target; it is renamed after its bytes are
    on the disk. A killed process leaves that folder, and the next one that writes there removes
    it. A reader that has the old file mapped keeps the old bytes. A symbolic link stays, and the
    file that it names is replaced; a replaced file's permissions are kept. A device or a FIFO
    cannot be replaced: for those the path is `target` itself.

    Raises:
        OutputError: `target` is a directory, or cannot be written. Names `target`.
        BrokenPipeError: `target` is a FIFO whose reader has gone.
    """
    with writing(target):
        status = _status(target)
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{target}: cannot be written: it is a directory")
        if status is not None and not stat.S_ISREG(status.st_mode):
            yield target
            return
        real = Path(os.path.realpath(target))
        make_folder(real.parent)
        mode = NEW_FILE_MODE if status is None else PRIVATE_MODE
        with temporary_folder(real.parent) as folder:
            temporary = folder / "file"
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
            yield temporary
            sync(temporary)
            if status is not None:
                copy_permissions(temporary, status)
            temporary.replace(real)
            sync(real.parent)


def _status(target: Path) -> os.stat_result | None:
    """What `target` is, behind any links; None where nothing is there yet."""
    try:
        return target.stat()
    except FileNotFoundError:
        return None


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and wait until the disk has them. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names. Raises OSError.

    A file system that can sync no folder, as some of a network, is taken as it is.
    """
    if sys.platform == "win32" and path.is_dir():
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def copy_permissions(path: Path, status: os.stat_result) -> None:
    """Give a file the owner, where this user may, and the permissions of another.

    What is as it should be is not set: file systems without owners or permissions refuse it.
    """
    now = path.stat()
    if sys.platform != "win32" and (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        with contextlib.suppress(PermissionError):  # only root may give a file to somebody else
            os.chown(path, status.st_uid, status.st_gid)
    if stat.S_IMODE(path.stat().st_mode) != stat.S_IMODE(status.st_mode):
        path.chmod(stat.S_IMODE(status.st_mode))
