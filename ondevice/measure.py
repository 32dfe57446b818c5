"""Measure one model file in this process: load time, first request, warm latency, memory."""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError, InputError, OnDeviceError
from ondevice.model import Model, file_bytes, load

REQUESTS = 64  # different requests in turn, so that lookups do not find last time's rows cached
MEMORY_REQUESTS = 100  # of the largest batch, before memory is read
WARM_UP_S = 0.2
LEAST_RUNS = 50
MOST_RUNS = 100_000


@dataclass(frozen=True)
class Latency:
    """Warm latency of one batch size, in microseconds over `runs` requests."""

    batch: int
    runs: int
    mean: float
    spread: float  # standard deviation
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class Measurement:
    """One model file in one engine.

    Attributes:
        load_us: opening the file, the runtime's library being imported already.
        first_us: the first request (batch 1) after loading.
        memory: bytes that this process grew by from importing ondevice to MEMORY_REQUESTS requests:
            rss (resident), pss (resident, shared pages split), anonymous (private memory that is
            not file-backed); from /proc/self/smaps_rollup, None where there is none.
        timer_us: what timing an empty call costs; contained in every latency.
    """

    path: str
    file_bytes: int
    sha256: str
    engine: str
    runtime: str
    threads: int
    machine: str
    load_us: float
    first_us: float
    memory: dict[str, int] | None
    timer_us: float
    latencies: tuple[Latency, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return asdict(self)


def measure(
    path: Path, *, engine: str = "auto", threads: int = 1, batches: Sequence[int], seconds: float
) -> Measurement:
    """Measure a model file; call it in a process of its own, or memory means nothing.

    Args:
        path: the model file.
        engine: as in `ondevice.load`.
        threads: as in `ondevice.load`.
        batches: batch sizes.
        seconds: time budget of each batch size after warm-up.

    Raises:
        FileFormatError, InputError, MissingDependencyError: as `ondevice.load` does.
        InputError: a batch size or time budget is not positive.
    """
    if not batches or min(batches) < 1 or not 0 < seconds < math.inf:
        raise InputError(
            f"batch sizes and seconds must be positive, got {list(batches)}, {seconds}"
        )
    np.random.default_rng(0)  # numpy loads this part late; it is not the model's memory
    before = memory()
    load(path, engine=engine, threads=threads)  # imports the runtime; its time is not the file's
    gc.collect()
    started = time.perf_counter_ns()
    model = load(path, engine=engine, threads=threads)
    load_us = (time.perf_counter_ns() - started) / 1000
    first = requests(model, 1, 1)[0]
    started = time.perf_counter_ns()
    model.predict(first)
    first_us = (time.perf_counter_ns() - started) / 1000
    for request in requests(model, max(batches), MEMORY_REQUESTS):
        model.predict(request)
    after = memory()
    latencies = tuple(_latency(model, batch, seconds) for batch in batches)
    grown = None
    if before is not None and after is not None:
        grown = {name: after[name] - before[name] for name in after}
    return Measurement(
        path=str(path),
        file_bytes=file_bytes(path),
        sha256=sha256(path),
        engine=model.engine,
        runtime=model.runner.runtime,
        threads=threads,
        machine=f"{platform.machine()}, {platform.system()} {platform.release()}",
        load_us=load_us,
        first_us=first_us,
        memory=grown,
        timer_us=_timer_us(),
        latencies=latencies,
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory() -> dict[str, int] | None:
    """Bytes of this process: rss, pss, anonymous; None where Linux's smaps_rollup is missing."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    values = {}
    for line in text.splitlines()[1:]:
        name, amount = line.split(":", 1)
        values[name] = int(amount.split()[0]) * 1024
    return {"rss": values["Rss"], "pss": values["Pss"], "anonymous": values["Anonymous"]}


def requests(model: Model, batch: int, count: int) -> list[dict[str, npt.NDArray[np.int64]]]:
    """Different requests of IDs drawn from the file's test vectors, the same in every run.

    Raises:
        FileFormatError: the file has no test vectors.
    """
    if model.info.vectors is None:
        raise FileFormatError(f"{model.path}: no test vectors inside to make requests from")
    rng = np.random.default_rng(0)
    rows = len(next(iter(model.info.vectors.inputs.values())))
    picked = [rng.integers(0, rows, batch) for _ in range(count)]
    return [
        {name: np.ascontiguousarray(ids[chosen]) for name, ids in model.info.vectors.inputs.items()}
        for chosen in picked
    ]


def _latency(model: Model, batch: int, seconds: float) -> Latency:
    prepared = requests(model, batch, REQUESTS)
    _time(model.predict, prepared, WARM_UP_S)
    return _summary(batch, _time(model.predict, prepared, seconds))


def _time(
    call: Callable[[Any], Any], arguments: Sequence[Any], seconds: float
) -> npt.NDArray[np.float64]:
    """Microseconds of each call, for `seconds` and at least LEAST_RUNS calls."""
    clock = time.perf_counter_ns
    times: list[int] = []
    deadline = clock() + int(seconds * 1e9)
    while len(times) < MOST_RUNS and (len(times) < LEAST_RUNS or clock() < deadline):
        for argument in arguments:
            started = clock()
            call(argument)
            times.append(clock() - started)
    return np.array(times, dtype=np.float64) / 1000


def _summary(batch: int, times: npt.NDArray[np.float64]) -> Latency:
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, [50, 90, 95, 99]))
    return Latency(
        batch=batch,
        runs=len(times),
        mean=float(times.mean()),
        spread=float(times.std()),
        min=float(times.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(times.max()),
    )


def _timer_us() -> float:
    return float(np.median(_time(lambda argument: None, [None] * 100, 0.0)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one file and print the measurement as JSON; `ondevice bench` starts this."""
    parser = argparse.ArgumentParser(prog="python -m ondevice.measure")
    parser.add_argument("path", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args(arguments)
    try:
        result = measure(
            args.path,
            engine=args.engine,
            threads=args.threads,
            batches=args.batch,
            seconds=args.seconds,
        )
    except OnDeviceError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))  # noqa: T201
        return 1
    print(json.dumps(result.to_json()))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
