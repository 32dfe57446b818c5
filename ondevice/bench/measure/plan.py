"""What to measure: the options of a run, and the list of measurements they make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ondevice.bench.measure.observation import Task
from ondevice.engines import ENGINES_OF_SUFFIX
from ondevice.errors import InputError

# Requests with pauses take most of their time waiting: they get this many times the time budget.
GAP_BUDGET = 3


@dataclass(frozen=True)
class Plan:
    """The options of a run.

    Attributes:
        models: the files. engines: each file is run by those that can run it; "auto": the best.
        rows: batch sizes of `predict`. rank: numbers of candidates of `rank`.
        context: inputs that are the context of `rank`; empty: the first one.
        gaps_ms: pauses between requests; 0: back to back.
        threads: for one request, in engines that can use several. workers: how many requests at
            once, each in a session of its own, in threads or in processes (`worker_kind`).
        seconds: time for each latency, over all its processes. requests: so many instead, if not 0.
        processes: fresh processes for every measurement, taken in turn with the others.
        profile: whether to time every operator of native files.
        accuracy: figures to print beside a model, by its file's name.
    """

    models: tuple[Path, ...]
    engines: tuple[str, ...] = ("auto",)
    rows: tuple[int, ...] = (1, 128)
    rank: tuple[int, ...] = ()
    context: tuple[str, ...] = ()
    gaps_ms: tuple[float, ...] = (0.0, 100.0)
    threads: tuple[int, ...] = (1,)
    workers: tuple[int, ...] = (1,)
    worker_kind: Literal["thread", "process"] = "process"
    seconds: float = 1.0
    requests: int = 0
    processes: int = 5
    profile: bool = False
    accuracy: dict[str, dict[str, float]] | None = None

    def __post_init__(self) -> None:
        """Raise InputError for options that cannot be measured; the message lists every fault."""
        faults = []
        for name, least in (("rows", 1), ("rank", 1), ("threads", 1), ("workers", 1)):
            values = getattr(self, name)
            if any(value < least for value in values):
                faults.append(f"{name} must be positive, got {list(values)}")
        if not self.rows and not self.rank:
            faults.append("nothing to measure: neither batch sizes nor numbers of candidates")
        if any(not 0 <= gap < math.inf for gap in self.gaps_ms) or not self.gaps_ms:
            faults.append(f"pauses must be 0 or more milliseconds, got {list(self.gaps_ms)}")
        if not 0 < self.seconds < math.inf:
            faults.append(f"seconds must be positive, got {self.seconds}")
        if self.processes < 1 or self.requests < 0:
            faults.append("processes must be at least 1 and requests at least 0")
        if faults:
            raise InputError("; ".join(faults))


@dataclass(frozen=True)
class Measurement:
    """One measurement of a run: a task on a model, and whether its pages are dropped first."""

    model: int
    task: Task
    drop_pages: bool = False

    @property
    def text(self) -> str:
        """What is measured, in words."""
        task = self.task
        if task.kind == "start":
            return f"{task.engine}: start, {'cold' if self.drop_pages else 'warm'}"
        if task.kind == "memory":
            return f"{task.engine}: memory"
        pause = f" every {task.gap_ms:g} ms" if task.gap_ms else ""
        several = f", {task.workers} {task.worker_kind}es" if task.workers > 1 else ""
        profile = ", by operator" if task.kind == "profile" else ""
        return f"{task.engine}: {task.call} {task.rows}{pause}{several}{profile}"


def measurements(plan: Plan) -> list[Measurement]:
    """All measurements of a run.

    Raises:
        InputError: no engine of the plan can run one of the files.
    """
    return [
        item
        for number, path in enumerate(plan.models)
        for engine in _engines(path, plan.engines)
        for item in _of_engine(plan, number, path, engine)
    ]


def _engines(path: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    fitting = ENGINES_OF_SUFFIX.get(path.suffix.lower(), ())
    chosen = tuple(name for name in wanted if name == "auto" or name in fitting)
    if not chosen and fitting:
        raise InputError(f"{path}: none of the engines {', '.join(wanted)} runs it; "
                         f"{' and '.join(fitting)} can")  # fmt: skip
    return chosen or wanted[:1]


def _of_engine(plan: Plan, model: int, path: Path, engine: str) -> Iterator[Measurement]:
    own_threads = path.suffix.lower() != ".odm"  # native and numpy use one thread a request
    threads = plan.threads if own_threads else (min(plan.threads),)
    largest = max((*plan.rows, *plan.rank))
    begin = Task("start", engine, threads[0])
    yield Measurement(model, begin, drop_pages=True)
    yield Measurement(model, begin)
    yield Measurement(model, Task("memory", engine, threads[0], rows=largest))
    share = plan.seconds / plan.processes
    count = -(-plan.requests // plan.processes)
    calls: list[tuple[Literal["predict", "rank"], int, tuple[str, ...]]] = [
        *(("predict", rows, ()) for rows in plan.rows),
        *(("rank", rows, plan.context) for rows in plan.rank),
    ]
    for call, rows, context in calls:
        for used in threads:
            for workers in plan.workers:
                for gap in plan.gaps_ms:
                    if gap and workers > 1:
                        continue  # an app that pauses sends one request at a time
                    task = Task(
                        *("latency", engine, used, call, rows, context, gap, workers),
                        plan.worker_kind,
                        share * GAP_BUDGET if gap else share,
                        count,
                    )
                    yield Measurement(model, task)
        if plan.profile and path.suffix.lower() == ".odm" and engine in ("auto", "native"):
            yield Measurement(model, Task("profile", engine, 1, call, rows, context, seconds=share))
