"""CPU seconds of a conversion by phase: imports, torch's export, verification, and all else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, get_args

# "imports" is what a process took before the conversion: imports, and reading the model.
Phase = Literal["imports", "torch's export", "verification", "all else"]
REST: Phase = "all else"


class Phases:
    """CPU seconds of this process by phase; a phase inside another counts once, as its own."""

    def __init__(self) -> None:
        """Start the clock in `REST`."""
        self.seconds: dict[Phase, float] = {}
        self._current: Phase = REST
        self._since = time.process_time()

    def enter(self, phase: Phase) -> Phase:
        """Go over to a phase; returns the one that ends, or pauses."""
        now, before = time.process_time(), self._current
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._current, self._since = phase, now
        return before


_phases: ContextVar[Phases | None] = ContextVar("phases", default=None)


@contextlib.contextmanager
def counting() -> Iterator[dict[Phase, float]]:
    """Count the phases inside; the seconds are complete when the block ends."""
    phases = Phases()
    token = _phases.set(phases)
    try:
        yield phases.seconds
    finally:
        phases.enter(REST)
        _phases.reset(token)


@contextlib.contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Count what runs inside under a phase, if anybody counts."""
    phases = _phases.get()
    if phases is None:
        yield
        return
    before = phases.enter(name)
    try:
        yield
    finally:
        phases.enter(before)


def seconds_line(seconds: dict[Phase, float]) -> str:
    """The seconds of every phase as one line."""
    return "CPU seconds: " + ", ".join(
        f"{seconds[name]:.1f} {name}" for name in get_args(Phase) if name in seconds
    )
