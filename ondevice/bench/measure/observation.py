"""What is asked of one measuring process, and what it answers: the only words the two exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ondevice.codecs import DenseArithmetic
from ondevice.errors import FileFormatError

TaskKind = Literal["start", "memory", "latency", "profile"]


@dataclass(frozen=True)
class Task:
    """One thing that a fresh process measures; the attributes are as in the report.

    Attributes:
        seconds: time to measure, after warm-up. requests: measure so many instead, if not 0.
        dense: as in `ondevice.load`.
        lock: whether the model is locked in memory.
    """

    kind: TaskKind
    engine: str = "auto"
    threads: int = 1
    call: Literal["predict", "rank"] = "predict"
    rows: int = 1
    context: tuple[str, ...] = ()
    gap_ms: float = 0.0
    workers: int = 1
    worker_kind: Literal["thread", "process"] = "process"
    seconds: float = 1.0
    requests: int = 0
    dense: DenseArithmetic | None = None
    lock: bool = False

    def words(self) -> list[str]:
        """The task as command-line options of a measuring process."""
        words = ["--task", self.kind, "--engine", self.engine, "--threads", str(self.threads)]
        words += ["--call", self.call, "--rows", str(self.rows)]
        for name in self.context:
            words += ["--context", name]
        words += ["--gap-ms", repr(self.gap_ms), "--seconds", repr(self.seconds)]
        words += ["--requests", str(self.requests)]
        words += ["--lock"] * self.lock
        words += ["--workers", str(self.workers if self.worker_kind == "thread" else 1)]
        return words + (["--dense", self.dense] if self.dense else [])


@dataclass(frozen=True)
class Bursts:
    """One worker's requests: times of all, how many in each burst, each burst's wall time."""

    times_ns: tuple[int, ...]
    counts: tuple[int, ...]
    walls_ns: tuple[int, ...]

    def check(self, where: str) -> None:
        """Raise FileFormatError unless the lengths agree."""
        if not self.counts or min(self.counts) < 1 or sum(self.counts) != len(self.times_ns):
            raise FileFormatError(f"{where}: the counts of bursts do not add up")
        if len(self.walls_ns) != len(self.counts):
            raise FileFormatError(f"{where}: a wall time for each burst is missing")

    def pieces(self) -> Sequence[tuple[int, ...]]:
        """The times, burst by burst."""
        ends = [sum(self.counts[: i + 1]) for i in range(len(self.counts))]
        return [self.times_ns[end - n : end] for end, n in zip(ends, self.counts, strict=True)]


@dataclass(frozen=True)
class OperatorTimes:
    """One operator: which node of the plan (None: all lookups), bytes and times of each request."""

    node: int | None
    bytes: int
    times_ns: tuple[int, ...]


@dataclass(frozen=True)
class Observation:
    """What one process measured; members that its task did not ask for are empty or None.

    Attributes:
        emulated: as in the report; times mean nothing then.
        memory: by "process", "growth" and "faults", as in the report.
    """

    engine: str
    runtime: str
    emulated: str | None
    affinity: tuple[int, ...] | None
    start_ns: int | None = None
    load_ns: int | None = None
    first_ns: int | None = None
    memory: dict[str, dict[str, int]] | None = None
    workers: tuple[Bursts, ...] = ()
    cpu_ns: int | None = None
    energy_uj: float | None = None
    energy_meter: str | None = None
    overhead_ns: tuple[int, ...] = ()
    operators: tuple[OperatorTimes, ...] = ()
