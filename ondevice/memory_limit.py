"""The memory limit of a process that opens files which somebody else may have written."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ondevice.limits import CHILD_BASE_BYTES, CHILD_BYTES_PER_BYTE


def memory_limit(models: Iterable[str | Path]) -> int:
    """How many bytes a process may take that opens these files; external data counts as well.

    Never more than the machine has, where it tells.
    """
    size = 0
    for path in map(Path, models):
        for file in (path, path.with_name(f"{path.name}.data")):
            with contextlib.suppress(OSError, ValueError):  # a NUL in the name is a ValueError
                size += file.stat().st_size
    limit = CHILD_BASE_BYTES + CHILD_BYTES_PER_BYTE * size
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError):
            limit = min(limit, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return limit


def limit_memory(limit: int) -> None:
    """Let every request of this process, and of those that it starts, beyond `limit` bytes fail.

    Counted are the bytes that the process may write and shares with nobody (RLIMIT_DATA), which
    Linux enforces for all memory since 4.7. Elsewhere nothing happens: other systems have no limit
    that a process can set for what it maps.
    """
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    with contextlib.suppress(OSError, ValueError):  # refused, as an emulator may do
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
