"""Memory of this process, and which pages of a file the system keeps in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from pathlib import Path

import numpy as np

if sys.platform != "win32":
    import resource

# Each kind of memory by its line in smaps_rollup and, where that has none, in status.
FIELDS: dict[str, tuple[str | None, str | None]] = {
    "rss": ("Rss", "VmRSS"),
    "pss": ("Pss", None),
    "anonymous": ("Anonymous", "RssAnon"),
    "file": (None, "RssFile"),
    "peak": (None, "VmHWM"),
}


def memory() -> dict[str, int]:
    """Bytes of this process.

    rss: resident; pss: resident, shared pages split among those who share them; anonymous: private
    memory without a file behind it; file: resident pages of mapped files; peak: highest rss. From
    /proc/self; members the system does not tell are missing.
    """
    rollup = _kilobytes(Path("/proc/self/smaps_rollup"))
    status = _kilobytes(Path("/proc/self/status"))
    sizes = {}
    for name, (in_rollup, in_status) in FIELDS.items():
        if in_rollup in rollup:
            sizes[name] = rollup[in_rollup]
        elif in_status in status:
            sizes[name] = status[in_status]
    return sizes


def page_faults() -> dict[str, int]:
    """Page faults of this process so far: minor ones, and major ones, which read from a disk.

    Nothing where the system does not tell (Windows).
    """
    if sys.platform != "win32":
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {"minor": usage.ru_minflt, "major": usage.ru_majflt}
    return {}


def _kilobytes(path: Path) -> dict[str | None, int]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {
        name: int(amount) * 1024
        for name, amount in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    }


def drop_pages(paths: tuple[Path, ...]) -> str | None:
    """Drop files from the page cache; None when no page stayed, else why one may have.

    The pages stay where another process maps them, on file systems that live in memory, and
    where the system does not permit to look.
    """
    if sys.platform == "win32" or sys.platform == "darwin":
        return "this system cannot drop a file's pages"
    for path in paths:
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            return f"dropping the pages of {path.name} failed: {error.strerror}"
        stayed, total = resident_pages(path)
        if stayed:
            return f"{stayed} of {total} pages of {path.name} stayed in memory"
    return None


def resident_pages(path: Path) -> tuple[int, int]:
    """Pages of a file that are in memory, and all its pages (mincore)."""
    size = path.stat().st_size
    total = -(-size // mmap.PAGESIZE)
    if not size:
        return 0, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = np.zeros(total, dtype=np.uint8)
        view = ctypes.c_char.from_buffer(mapped)  # the address; no page is touched
        try:
            library = ctypes.CDLL(None, use_errno=True)
            failed = library.mincore(
                ctypes.c_void_p(ctypes.addressof(view)),
                ctypes.c_size_t(size),
                pages.ctypes.data_as(ctypes.c_void_p),
            )
        except AttributeError:  # a C library without mincore
            failed = -1
        finally:
            del view
    return (total if failed else int((pages & 1).sum())), total
