"""Pauses Python's garbage collector while many objects are made that are all kept, or all freed.

A header may describe 100,000 arrays. Each few hundred objects start a search for cycles, now and
then through all objects of the process, which takes longer than reading the header does.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses: list[bool] = []  # of all threads; each: whether the collector was on when the first began


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep the collector off in the body; afterwards it is as before, once no thread needs it off.

    For bodies of bounded memory only, as what they leave in cycles is freed later.
    """
    with _lock:
        _pauses.append(_pauses[0] if _pauses else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _pauses.pop() and not _pauses:
                gc.enable()
