"""Gives back memory that holds code of libraries: what still runs is mapped again by itself."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
from pathlib import Path

MAPS = Path("/proc/self/smaps")
# The line that begins a mapping of a file: executable, and nobody can write to it.
_CODE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* +/")


def release_code_pages() -> None:
    """Unmap clean pages of code on Linux; elsewhere do nothing.

    Importing torch and exporting a graph run some 90 MB of code once. The kernel counts its pages
    as memory of the process until it needs them for something else. They lie in its file cache:
    what runs again costs page faults (20 ms in all), not a read from disk.
    """
    with contextlib.suppress(OSError):  # no such file, or not allowed
        lines = MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
        release = ctypes.CDLL(None).madvise
        release.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        start = stop = 0
        for line in lines:
            if found := _CODE.match(line):
                start, stop = int(found[1], 16), int(found[2], 16)
            elif line.startswith("Anonymous:"):  # of the mapping; not 0 where code was changed
                if line.split()[1] == "0" and stop:
                    release(start, stop - start, mmap.MADV_DONTNEED)
                start = stop = 0
