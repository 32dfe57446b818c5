"""What to measure: the options of a run, and the list of measurements they make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ondevice.bench.measure.constants import (
    DEFAULT_GAPS_MS,
    DEFAULT_PROCESSES,
    DEFAULT_ROWS,
    DEFAULT_SECONDS,
    MAX_REQUESTS,
    MAX_ROWS,
    MAX_SECONDS,
    PACED_BUDGET,
)
from ondevice.bench.measure.observation import Task
from ondevice.codecs import DenseArithmetic
from ondevice.engines import ENGINES_OF_SUFFIX
from ondevice.errors import InputError
from ondevice.limits import MAX_THREADS


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
        dense: as in `ondevice.load`, for .odm files.
        lock: whether native files are locked in memory where the native engine runs them.
        accuracy: figures to print beside a model, by its file's name.
    """

    models: tuple[Path, ...]
    engines: tuple[str, ...] = ("auto",)
    rows: tuple[int, ...] = DEFAULT_ROWS
    rank: tuple[int, ...] = ()
    context: tuple[str, ...] = ()
    gaps_ms: tuple[float, ...] = DEFAULT_GAPS_MS
    threads: tuple[int, ...] = (1,)
    workers: tuple[int, ...] = (1,)
    worker_kind: Literal["thread", "process"] = "process"
    seconds: float = DEFAULT_SECONDS
    requests: int = 0
    processes: int = DEFAULT_PROCESSES
    profile: bool = False
    dense: DenseArithmetic | None = None
    lock: bool = False
    accuracy: dict[str, dict[str, float]] | None = None

    def __post_init__(self) -> None:
        """Raise InputError for options that cannot be measured; the message lists every fault."""
        faults = []
        for name, most in (("rows", MAX_ROWS), ("rank", MAX_ROWS), ("threads", MAX_THREADS),
                           ("workers", MAX_THREADS)):  # fmt: skip
            values = getattr(self, name)
            if any(not 1 <= value <= most for value in values):
                faults.append(f"{name} must be 1 to {most}, got {list(values)}")
        if not self.rows and not self.rank:
            faults.append("nothing to measure: neither batch sizes nor numbers of candidates")
        if not self.gaps_ms or any(not 0 <= gap <= 1000 * MAX_SECONDS for gap in self.gaps_ms):
            faults.append(f"pauses must be 0 to {1000 * MAX_SECONDS} milliseconds, "
                          f"got {list(self.gaps_ms)}")  # fmt: skip
        if not 0 < self.seconds <= MAX_SECONDS:
            faults.append(f"seconds must be more than 0, at most {MAX_SECONDS}, got {self.seconds}")
        if self.processes < 1 or self.requests < 0:
            faults.append(f"processes must be at least 1 and requests at least 0, "
                          f"got {self.processes} and {self.requests}")  # fmt: skip
        if not faults and self._requests_of_a_process() > MAX_REQUESTS:
            faults.append(
                f"a process sends at most {MAX_REQUESTS} requests of one kind, these options ask "
                f"for {self._requests_of_a_process():.0f}: fewer requests, longer pauses or more "
                "processes are needed"
            )
        if faults:
            raise InputError("; ".join(faults))

    def _requests_of_a_process(self) -> float:
        """How many requests the options ask one process for; back to back has its own limit."""
        if self.requests:
            return math.ceil(self.requests / self.processes)
        paced = [gap for gap in self.gaps_ms if gap]
        return self.seconds / self.processes * PACED_BUDGET * 1000 / min(paced) if paced else 0


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
        item if path.suffix.lower() != ".odm" else _with_arithmetic(item, plan.dense)
        for number, path in enumerate(plan.models)
        for engine in _engines(path, plan.engines)
        for item in _of_engine(plan, number, path, engine)
    ]


def _with_arithmetic(item: Measurement, dense: DenseArithmetic | None) -> Measurement:
    return replace(item, task=replace(item.task, dense=dense))


def _engines(path: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    fitting = ENGINES_OF_SUFFIX.get(path.suffix.lower(), ())
    chosen = tuple(name for name in wanted if name == "auto" or name in fitting)
    if not chosen and fitting:
        raise InputError(f"{path}: none of the engines {', '.join(wanted)} runs it; "
                         f"{' and '.join(fitting)} can")  # fmt: skip
    return chosen or wanted[:1]


def _of_engine(plan: Plan, model: int, path: Path, engine: str) -> Iterator[Measurement]:
    """All measurements of one model in one engine: starts, memory, requests, profiles."""
    threads = (min(plan.threads),) if engine == "numpy" else plan.threads  # it takes one
    largest = max((*plan.rows, *plan.rank))
    lock = plan.lock and path.suffix.lower() == ".odm" and engine in ("auto", "native")
    begin = Task("start", engine, threads[0], lock=lock)
    yield Measurement(model, begin, drop_pages=True)
    yield Measurement(model, begin)
    yield Measurement(model, Task("memory", engine, threads[0], rows=largest, lock=lock))
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
                        share * PACED_BUDGET if gap else share,
                        count,
                        lock=lock,
                    )
                    yield Measurement(model, task)
        if plan.profile and path.suffix.lower() == ".odm" and engine in ("auto", "native"):
            task = Task("profile", engine, 1, call, rows, context, seconds=share, lock=lock)
            yield Measurement(model, task)
