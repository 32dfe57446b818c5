"""Which files a folder may show after a power loss: those of a moment before or after a switch."""

import hashlib
from pathlib import Path

from support.crash.replay import whole

from ondevice.publish import COMMITTED, HIDDEN


def content(folder):
    """Every file and folder below a folder by its path: the bytes, or None of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def visible(files):
    """Files by folder and name, without what is hidden."""
    folders = {}
    for path, data in files.items():
        parts = Path(path).parts
        if data is not None and not any(HIDDEN.fullmatch(part) for part in parts):
            folders.setdefault(str(Path(path).parent), {})[parts[-1]] = data
    return folders


def states(operations, first, last):
    """The visible files of every folder after each operation, while none is being moved."""
    tree, reached = whole(operations[:first]), {}
    for operation in (None, *operations[first:last]):
        if operation is not None:
            tree.apply(operation)
        if operation is None or operation.kind in "RUM":
            files = tree.files()
            for folder, held in visible(files).items():
                if f"{folder}/{COMMITTED}" not in files:
                    reached.setdefault(folder, {})[files_key(held)] = held
    return reached


def files_key(files):
    """What tells files, by name and bytes, from others."""
    return tuple(sorted((name, hashlib.sha256(data).digest()) for name, data in files.items()))
