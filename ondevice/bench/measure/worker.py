"""A process that measures one thing: `python -m ondevice.bench.measure.worker`.

It prints what it measured as JSON.

The process that starts it sets the conditions; nothing that is measured here shares memory, caches
of an allocator or a warm interpreter with another measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import os
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.bench.measure.constants import (
    BURSTS,
    EMULATED_REQUESTS,
    MAX_REQUESTS,
    MEMORY_REQUESTS,
    MIN_BURST_REQUESTS,
    MIN_PACED_BURSTS,
    OVERHEAD_BURST_CALLS,
    PACED_BURST_REQUESTS,
    PROFILE_REQUESTS,
    REQUESTS,
    WARM_UP_NS,
)
from ondevice.bench.measure.device import emulator
from ondevice.bench.measure.energy import Meter, find_meter
from ondevice.bench.measure.memory import memory, page_faults
from ondevice.bench.measure.observation import Bursts, Observation, OperatorTimes, Task, TaskKind
from ondevice.bench.measure.requests import (
    context_inputs,
    draw,
    pool,
    rank_tolerance,
    split,
)
from ondevice.child import opened_files
from ondevice.codecs import DENSE_ARITHMETICS
from ondevice.engines.native import NativeEngine
from ondevice.engines.native_sizes import SizedNativeEngine
from ondevice.errors import FileFormatError, OnDeviceError, ParityError, UnsupportedError
from ondevice.memory_limit import limit_memory, memory_limit
from ondevice.model import Model, load
from ondevice.ranking import split_difference

# What opening a kind of file imports; a missing one is reported when the file is opened.
RUNTIMES = {
    ".odm": ("ondevice.odm", "ondevice.engines.native", "ondevice._native"),
    ".onnx": ("onnxruntime", "ondevice.engines.onnx"),
    ".tflite": ("ai_edge_litert.interpreter", "ondevice.engines.tflite", "ondevice.tflite_file"),
}

Call = Callable[[Any], Any]
clock = time.perf_counter_ns


def observe(path: Path, task: Task, started_ns: int, ready: Callable[[], None]) -> Observation:
    """Do one task in this process.

    Args:
        path: the model file.
        task: what to measure.
        started_ns: time.monotonic_ns() when this process was started.
        ready: called when everything is warm; returns when measuring may begin.

    Raises:
        OnDeviceError: as `ondevice.load` and `Model.predict` do.
        ParityError: `rank` is to be measured, and differs from `predict`.
        UnsupportedError: a profile of another engine than the native one.
    """
    tasks = {"start": _start, "memory": _memory, "latency": _latency, "profile": _profile}
    return tasks[task.kind](path, task, started_ns, ready)


def _observation(model: Model, **measured: Any) -> Observation:
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return Observation(
        engine=model.engine,
        runtime=model.runner.runtime,
        emulated=emulator(),
        affinity=None if affinity is None else tuple(affinity),
        **measured,
    )


def _load(path: Path, task: Task) -> Model:
    return load(path, engine=task.engine, threads=task.threads, dense=task.dense, lock=task.lock)


def _start(path: Path, task: Task, started_ns: int, _: Callable[[], None]) -> Observation:
    for name in RUNTIMES.get(path.suffix.lower(), ()):  # only the file is timed
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    before = clock()
    model = _load(path, task)
    loaded = clock()
    rows = pool(model.info)
    first = {name: np.ascontiguousarray(ids[:1]) for name, ids in rows.items()}
    asked = clock()
    model.predict(first)
    answered = clock()
    ended_ns = time.monotonic_ns()
    return _observation(
        model,
        start_ns=ended_ns - started_ns,
        load_ns=loaded - before,
        first_ns=answered - asked,
    )


def _memory(path: Path, task: Task, _: int, __: Callable[[], None]) -> Observation:
    np.random.default_rng(0)  # numpy loads this part late; it is not the model's memory
    gc.collect()
    before, faults = memory(), page_faults()
    model = _load(path, task)
    for request in draw(pool(model.info), task.rows, MEMORY_REQUESTS):
        model.predict(request)
    gc.collect()
    after, later = memory(), page_faults()
    growth = {name: max(0, after[name] - before[name]) for name in after if name != "peak"}
    counts = {name: later[name] - faults[name] for name in faults}
    return _observation(model, memory={"process": after, "growth": growth, "faults": counts})


def _latency(path: Path, task: Task, _: int, ready: Callable[[], None]) -> Observation:
    """Time warm requests, in one session for each worker; emulated ones are only counted."""
    _check_rank(path, task)
    models = [_load(path, task) for _ in range(task.workers)]
    calls = [_call(model, task) for model in models]
    if emulator() is not None:
        task = Task(**{**vars(task), "requests": EMULATED_REQUESTS, "gap_ms": 0.0})
    for call, arguments in calls:
        _warm_up(call, arguments, min(WARM_UP_NS, int(task.seconds * 1e9)))
    nothing = Task("latency", requests=BURSTS * OVERHEAD_BURST_CALLS)
    overhead = _run(lambda _: None, [None] * REQUESTS, nothing, None)
    meter = find_meter()
    ready()
    cpu, energy = time.process_time_ns(), 0.0 if meter is None else meter.total_uj()
    if meter is not None:
        meter.sample()
    workers = _together(calls, task, meter)
    cpu = time.process_time_ns() - cpu
    if meter is not None:
        meter.sample()
        energy = meter.total_uj() - energy
    return _observation(
        models[0],
        workers=tuple(workers),
        cpu_ns=cpu,
        energy_uj=None if meter is None else energy,
        energy_meter=None if meter is None else meter.name,
        overhead_ns=tuple(int(np.median(piece)) for piece in overhead.pieces()),
    )


def _call(model: Model, task: Task) -> tuple[Call, list[Any]]:
    """The call to time, and its argument for each of many requests."""
    requests = draw(pool(model.info), task.rows, REQUESTS)
    if task.call == "predict":
        return model.predict, requests
    context = context_inputs(model.info, task.context)
    return lambda pair: model.rank(*pair), [split(request, context) for request in requests]


def _check_rank(path: Path, task: Task) -> None:
    """Raise ParityError where `rank` differs from `predict`: a wrong answer's time says nothing.

    The first request is compared, in a model of its own, which no request came before.
    """
    if task.call != "rank":
        return
    model = _load(path, task)
    (request,) = draw(pool(model.info), task.rows, 1)
    context, tolerance = context_inputs(model.info, task.context), rank_tolerance(model.info)
    difference = split_difference(model, model, request, context)
    if not difference <= tolerance:
        raise ParityError(
            f"{path}: rank differs from predict: by {difference:.3g} (tolerance {tolerance:g}) in "
            f"the {model.engine} engine, context {', '.join(context)}, so it is not measured"
        )


def _warm_up(call: Call, arguments: Sequence[Any], nanoseconds: int) -> None:
    deadline = clock() + nanoseconds
    for argument in itertools.cycle(arguments):
        call(argument)
        if clock() >= deadline:
            return


def _together(calls: list[tuple[Call, list[Any]]], task: Task, meter: Meter | None) -> list[Bursts]:
    """Run the workers at once, each in a thread of its own; a single one in this thread."""
    if len(calls) == 1:
        return [_run(*calls[0], task, meter)]
    results: list[Bursts | BaseException | None] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def work(number: int) -> None:
        try:
            barrier.wait()
            results[number] = _run(*calls[number], task, meter if number == 0 else None)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = []
    for item in results:
        if not isinstance(item, Bursts):
            raise item or OnDeviceError("a worker thread ended without a result")
        done.append(item)
    return done


def _run(call: Call, arguments: Sequence[Any], task: Task, meter: Meter | None) -> Bursts:
    """Time requests burst by burst, for task.seconds in all, or task.requests of them."""
    times: list[int] = []
    counts, walls = [], []
    turn = itertools.cycle(arguments)
    gap = int(task.gap_ms * 1e6)
    bursts, most = BURSTS, MAX_REQUESTS // BURSTS
    if task.requests:
        bursts = min(BURSTS, task.requests)
        most = -(-task.requests // bursts)
    elif gap:
        bursts = max(MIN_PACED_BURSTS, round(task.seconds * 1e9 / gap / PACED_BURST_REQUESTS))
        most = PACED_BURST_REQUESTS
    length = 0 if task.requests or gap else int(task.seconds * 1e9 / bursts)
    for _ in range(bursts):
        first = len(times)
        started = clock()
        if gap:
            _paced(call, itertools.islice(turn, most), times, gap)
        else:
            deadline = started + length if length else None
            _back_to_back(call, itertools.islice(turn, most), times, deadline)
        walls.append(clock() - started)
        counts.append(len(times) - first)
        if meter is not None:
            meter.sample()
    return Bursts(tuple(times), tuple(counts), tuple(walls))


def _back_to_back(
    call: Call, arguments: Iterable[Any], times: list[int], deadline: int | None
) -> None:
    """Append the times of requests until the deadline, or the arguments' end."""
    now, append, least = clock, times.append, len(times) + MIN_BURST_REQUESTS
    for argument in arguments:
        before = now()
        call(argument)
        after = now()
        append(after - before)
        if deadline is not None and after >= deadline and len(times) >= least:
            return


def _paced(call: Call, arguments: Iterable[Any], times: list[int], gap: int) -> None:
    """Append the times of requests that begin every `gap` nanoseconds."""
    begin = clock()
    for argument in arguments:
        begin += gap
        time.sleep(max(0.0, (begin - clock()) / 1e9))
        before = clock()
        call(argument)
        times.append(clock() - before)


def _profile(path: Path, task: Task, _: int, ready: Callable[[], None]) -> Observation:
    """Time every operator of warm requests. Raises UnsupportedError without the native engine."""
    _check_rank(path, task)
    model = _load(path, task)
    runner = model.runner
    if not isinstance(runner, NativeEngine | SizedNativeEngine):
        raise UnsupportedError(
            f"{path}: the {model.engine} engine has no profile by operator; the native one has"
        )
    emulated = emulator() is not None
    requests = draw(pool(model.info), task.rows, REQUESTS)
    context = context_inputs(model.info, task.context) if task.call == "rank" else ()
    turn = itertools.cycle([split(request, context) for request in requests])
    for context_ids, candidate_ids in itertools.islice(turn, EMULATED_REQUESTS):
        runner.profile(context_ids, candidate_ids)
    ready()
    deadline = clock() + int(task.seconds * 1e9)
    rows: list[list[int]] = []
    timer: list[int] = []
    nodes: list[tuple[int, int]] = []
    most = task.requests or (EMULATED_REQUESTS if emulated else PROFILE_REQUESTS)
    for context_ids, candidate_ids in itertools.islice(turn, most):
        timer_ns, operators = runner.profile(context_ids, candidate_ids)
        timer.append(timer_ns)
        rows.append([item[1] for item in operators])
        nodes = [(item[0], item[2]) for item in operators]
        if not task.requests and clock() >= deadline and len(rows) >= MIN_BURST_REQUESTS:
            break
    times = zip(*rows, strict=True)
    return _observation(
        model,
        overhead_ns=tuple(timer),
        operators=tuple(
            OperatorTimes(None if node < 0 else node, size, spent)
            for (node, size), spent in zip(nodes, times, strict=True)
        ),
    )


def _wait() -> None:
    """Say that everything is warm, and wait for the word to begin."""
    print("ready", flush=True)  # noqa: T201
    if not sys.stdin.readline():
        raise OnDeviceError("the process that started this one has gone")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one task and print the observation, or the error, as one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m ondevice.bench.measure.worker")
    parser.add_argument("path", type=Path)
    parser.add_argument("--started-ns", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="begin when a line comes on stdin")
    parser.add_argument("--task", choices=typing.get_args(TaskKind), required=True, dest="kind")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--dense", choices=DENSE_ARITHMETICS)
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--call", choices=("predict", "rank"), default="predict")
    parser.add_argument("--context", action="append", default=[])
    for name, kind in (("threads", int), ("rows", int), ("workers", int), ("requests", int),
                       ("gap-ms", float), ("seconds", float)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, required=True)
    args = vars(parser.parse_args(arguments))
    args["context"] = tuple(args["context"])
    task = Task(**{item.name: args[item.name] for item in fields(Task) if item.name in args})
    if opened_files([args["path"]]):
        limit_memory(memory_limit([args["path"]]))
    try:
        ready = _wait if args["wait"] else lambda: None
        result = asdict(observe(args["path"], task, args["started_ns"], ready))
    except OnDeviceError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        message = f"{args['path']}: takes more memory than this process may"
        result = {"error": FileFormatError.__name__, "message": message}
    print(json.dumps(result))  # noqa: T201
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
