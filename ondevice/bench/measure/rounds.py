"""Run a plan: every measurement in fresh processes, round by round, and the report they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ondevice.bench.measure.observation import Observation, OperatorTimes, Task
from ondevice.bench.measure.plan import Measurement, Plan, measurements
from ondevice.bench.measure.statistics import percentiles, spread
from ondevice.bench.report import (
    Conditions,
    Device,
    Latency,
    Memory,
    ModelEntry,
    ModelFile,
    Operator,
    Profile,
    Report,
    Spread,
    Start,
    State,
)
from ondevice.bench.strict import one_line
from ondevice.errors import FileFormatError
from ondevice.inspection import file_parts
from ondevice.model import model_files, sha256
from ondevice.odm import open_odm

Progress = Callable[[int, int, str], None]


class Machine(Protocol):
    """Where measuring processes run: this machine, or on a device that is connected."""

    tool: str

    def device(self) -> Device:
        """What the machine is."""

    def state(self) -> State:
        """The machine, now."""

    def drop_pages(self, model: Path) -> str | None:
        """Drop a model's pages from memory; None, or why they may have stayed."""

    def observe(self, model: Path, task: Task) -> list[Observation]:
        """Do a task in one fresh process, or in several that begin together."""


@dataclass
class _Collected:
    """What has been observed for one measurement: a list for each round."""

    measurement: Measurement
    before: State | None = None
    after: State | None = None
    rounds: list[list[Observation]] = field(default_factory=list)
    notes: list[str | None] = field(default_factory=list)


def run_plan(
    plan: Plan, machine: Machine, progress: Progress = lambda done, total, text: None
) -> Report:
    """Measure everything in the plan; Ctrl-C ends it early with what there is.

    Rounds go through all measurements in turn, so that a slow drift of the device (heat, other
    work) meets all of them alike.

    Raises:
        FileFormatError, InputError, MissingDependencyError, ...: as `ondevice.load` does.
    """
    for path in plan.models:
        if not path.is_file():
            raise FileFormatError(f"{path}: no such file")
    collected = [_Collected(item) for item in measurements(plan)]
    models = tuple(_entry(path, plan.accuracy or {}) for path in plan.models)
    device = machine.device()
    total, done, interrupted = len(collected) * plan.processes, 0, False
    try:
        for _ in range(plan.processes):
            for item in collected:
                model = plan.models[item.measurement.model]
                progress(done, total, f"{model.name}, {item.measurement.text}")
                _observe(machine, model, item)
                done += 1
    except KeyboardInterrupt:
        interrupted = True
    progress(done, total, "")
    return _report(machine.tool, device, models, collected, plan, interrupted)


def _observe(machine: Machine, model: Path, item: _Collected) -> None:
    if item.before is None:
        item.before = machine.state()
    if item.measurement.drop_pages:
        item.notes.append(machine.drop_pages(model))
    observations = machine.observe(model, item.measurement.task)
    if not observations:
        raise FileFormatError(f"{model}: the device measured in no process")
    item.after = machine.state()
    item.rounds.append(observations)


def _entry(path: Path, accuracy: dict[str, dict[str, float]]) -> ModelEntry:
    files = tuple(
        ModelFile(one_line(file.name), file.stat().st_size, sha256(file))
        for file in model_files(path)
    )
    return ModelEntry(
        one_line(path.name), files, accuracy.get(path.name, {}), file_parts(path).to_json()
    )


def _report(
    tool: str,
    device: Device,
    models: tuple[ModelEntry, ...],
    collected: Sequence[_Collected],
    plan: Plan,
    interrupted: bool,
) -> Report:
    """The report of what was collected, with the versions of the runtimes that took part."""
    measured: dict[str, list[Any]] = {"start": [], "memory": [], "latency": [], "profile": []}
    makers = {"start": _start, "memory": _memory, "latency": _latency, "profile": _profile}
    for item in collected:
        if item.rounds:
            kind = item.measurement.task.kind
            path = plan.models[item.measurement.model]
            measured[kind].append(makers[kind](item, path))
    runtimes = {item.runtime for group in measured.values() for item in group}
    versions = dict(device.versions)
    for runtime in runtimes:
        name, _, version = runtime.partition(" ")
        versions.setdefault(name, version)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Report(
        created=created,
        tool=tool,
        interrupted=interrupted,
        device=Device(**{**vars(device), "versions": versions}),
        models=models,
        starts=tuple(measured["start"]),
        memories=tuple(measured["memory"]),
        latencies=tuple(measured["latency"]),
        profiles=tuple(measured["profile"]),
    )


def _subject(item: _Collected) -> dict[str, Any]:
    first = item.rounds[0][0]
    if item.before is None or item.after is None:
        raise FileFormatError("a measurement without the device's state")
    return {
        "model": item.measurement.model,
        "engine": first.engine,
        "runtime": first.runtime + ", locked" * item.measurement.task.lock,
        "threads": item.measurement.task.threads,
        "conditions": Conditions(item.before, item.after, first.affinity),
    }


def _spread(values: Iterable[float | None], scale: float = 1.0) -> Spread | None:
    """The spread of what was observed; None when some of it was not."""
    known = list(values)
    if not known or any(value is None for value in known):
        return None
    return spread([value / scale for value in known if value is not None])


def _timed(item: _Collected) -> bool:
    """Whether times mean anything."""
    return all(observation.emulated is None for group in item.rounds for observation in group)


def _start(item: _Collected, _: Path) -> Start:
    first = [group[0] for group in item.rounds] if _timed(item) else []
    cache: Literal["dropped", "warm", "unknown"] = "warm"
    note = None
    if item.measurement.drop_pages:
        note = next((text for text in item.notes if text is not None), None)
        cache = "dropped" if note is None else "unknown"
    return Start(
        **_subject(item),
        page_cache=cache,
        page_cache_note=note,
        start_us=_spread((observation.start_ns for observation in first), 1000),
        load_us=_spread((observation.load_ns for observation in first), 1000),
        first_us=_spread((observation.first_ns for observation in first), 1000),
    )


def _memory(item: _Collected, _: Path) -> Memory:
    seen = [group[0].memory or {} for group in item.rounds]

    def spreads(part: str) -> dict[str, Spread]:
        names = list(seen[0].get(part, {}))
        by_name = {name: _spread(parts.get(part, {}).get(name) for parts in seen) for name in names}
        return {name: value for name, value in by_name.items() if value is not None}

    return Memory(
        **_subject(item),
        rows=item.measurement.task.rows,
        process=spreads("process"),
        growth=spreads("growth"),
        faults=spreads("faults"),
    )


def _latency(item: _Collected, path: Path) -> Latency:
    """Summarise requests. Raises FileFormatError: a process timed none."""
    task = item.measurement.task
    timed = _timed(item)
    rounds = item.rounds
    workers = [
        worker for group in rounds for observation in group for worker in observation.workers
    ]
    if not all(observation.workers for group in rounds for observation in group):
        raise FileFormatError(f"{path}: the measuring process timed no request")
    times = np.concatenate([np.asarray(worker.times_ns) for worker in workers]) / 1000
    counts = [
        sum(len(w.times_ns) for observation in group for w in observation.workers)
        for group in rounds
    ]
    cpu = [_sum(observation.cpu_ns for observation in group) for group in rounds]
    # processes that run at once share the meter: the first one's reading covers all of them
    energy = [group[0].energy_uj for group in rounds]
    overhead = [
        ns / 1000 for group in rounds for observation in group for ns in observation.overhead_ns
    ]
    return Latency(
        **_subject(item),
        call=task.call,
        rows=task.rows,
        context=task.context,
        gap_ms=task.gap_ms,
        workers=task.workers,
        worker_kind=task.worker_kind,
        requests=len(times),
        latency_us=spread(times) if timed else None,
        percentiles_us=percentiles(times) if timed else None,
        bursts_us=tuple(
            tuple(max(float(np.median(piece)), 1.0) / 1000 for piece in worker.pieces())
            for worker in workers
        )
        if timed
        else None,
        rows_per_s=spread(_rates(rounds, task.rows)) if timed and not task.gap_ms else None,
        cpu_us=_spread(_per(cpu, counts), 1000) if timed else None,
        energy_uj=_spread(_per(energy, counts)) if timed else None,
        energy_meter=rounds[0][0].energy_meter if timed else None,
        overhead_us=spread(overhead) if timed and overhead else None,
    )


def _sum(values: Iterable[int | None]) -> float | None:
    known = list(values)
    return None if None in known else float(sum(value for value in known if value is not None))


def _per(totals: Sequence[float | None], counts: Sequence[int]) -> list[float | None]:
    return [
        None if total is None else total / count
        for total, count in zip(totals, counts, strict=True)
    ]


def _rates(rounds: Sequence[Sequence[Observation]], rows: int) -> list[float]:
    """Rows a second, burst by burst: workers that run at once are added up."""
    rates = []
    for group in rounds:
        workers = [worker for observation in group for worker in observation.workers]
        for number in range(min(len(worker.counts) for worker in workers)):
            rates.append(
                sum(w.counts[number] * rows / max(w.walls_ns[number], 1) * 1e9 for w in workers)
            )
    return rates


def _profile(item: _Collected, path: Path) -> Profile:
    """Summarise operators by the names of the file's plan. Raises FileFormatError."""
    task, timed = item.measurement.task, _timed(item)
    observed = [group[0] for group in item.rounds]
    nodes = open_odm(path).plan.nodes
    if len({len(observation.operators) for observation in observed}) != 1:
        raise FileFormatError(f"{path}: the processes timed different numbers of operators")
    operators = []
    for number, first in enumerate(observed[0].operators):
        name, op = _operator_name(first, nodes)
        times = [
            ns / 1000 for observation in observed for ns in observation.operators[number].times_ns
        ]
        if not times:
            raise FileFormatError(f"{path}: the measuring process timed no request")
        operators.append(Operator(name, op, spread(times) if timed else None, first.bytes))
    overhead = [ns / 1000 for observation in observed for ns in observation.overhead_ns]
    return Profile(
        **_subject(item),
        call=task.call,
        rows=task.rows,
        requests=sum(
            len(observation.operators[0].times_ns)
            for observation in observed
            if observation.operators
        ),
        overhead_us=spread(overhead) if timed and overhead else None,
        operators=tuple(operators),
    )


def _operator_name(times: OperatorTimes, nodes: Sequence[Any]) -> tuple[str, str]:
    if times.node is None:
        lookups = sum(node.lookup is not None for node in nodes)
        return f"all {lookups} lookups", "Lookup"
    if times.node >= len(nodes):
        raise FileFormatError(f"a profile of node {times.node}, but the plan has {len(nodes)}")
    node = nodes[times.node]
    return one_line(node.outputs[0]), one_line(node.op)
