"""Release memory that holds pages of mapped files; they are mapped again when they are used."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MAPS = Path("/proc/self/smaps")
# The first line of a private, read-only mapping of a file. Shared ones are somebody's memory.
_READ_ONLY = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +(/.*)")


def release_file_pages() -> None:
    """Unmap clean pages of files, which are mostly code of libraries; only on Linux.

    Importing torch and exporting a graph run some 90 MB of code once. The kernel counts its pages
    as memory of the process until it needs them for something else. They stay in its file cache:
    using them again costs page faults (20 ms in all), not a read from disk.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # no such file, or not allowed
        lines = MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
        release = ctypes.CDLL(None).madvise
        release.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, stop in clean_file_pages(lines):
            release(start, stop - start, mmap.MADV_DONTNEED)


def clean_file_pages(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where pages of regular files lie that were never changed, from the lines of smaps.

    Pages of devices, such as those by which a process talks to its GPU, do not come again: who
    reads one that was released gets a bus error.
    """
    start = stop = 0
    for line in lines:
        if match := _READ_ONLY.fullmatch(line):
            is_file = Path(match[3]).is_file()
            start, stop = (int(match[1], 16), int(match[2], 16)) if is_file else (0, 0)
        elif line.startswith("Anonymous:"):  # bytes of the mapping that were changed before
            if line.split()[1] == "0" and stop:
                yield start, stop
            start = stop = 0
