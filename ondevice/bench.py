"""Measure model files side by side, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ondevice import errors
from ondevice.errors import OnDeviceError
from ondevice.measure import Latency, Measurement
from ondevice.text_table import size, table


def bench(
    path: Path,
    *,
    engine: str = "auto",
    threads: int = 1,
    batches: Sequence[int] = (1, 128),
    seconds: float = 1.0,
) -> Measurement:
    """Measure one file in a fresh process (see ondevice.measure).

    Raises:
        OnDeviceError: what went wrong there, with its own type.
    """
    command = [
        *(sys.executable, "-m", "ondevice.measure", str(path)),
        *("--engine", engine, "--threads", str(threads), "--seconds", str(seconds)),
        *("--batch", *map(str, batches)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        result = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OnDeviceError(
            f"{path}: the measuring process ended with code {done.returncode}: {last}"
        ) from error
    if "error" in result:
        raise getattr(errors, result["error"], OnDeviceError)(result["message"])
    result["latencies"] = tuple(Latency(**item) for item in result["latencies"])
    return Measurement(**result)


def bench_table(measurements: Sequence[Measurement]) -> str:
    """The measurements as a table, a row for each file and batch size; times in microseconds."""
    header = (
        *("file", "engine", "size", "load", "memory", "batch"),
        *("p50 us", "p95 us", "p99 us", "mean", "+-", "runs"),
    )
    rows = []
    for item in measurements:
        memory = "-" if item.memory is None else size(item.memory["rss"])
        for latency in item.latencies:
            numbers = (latency.p50, latency.p95, latency.p99, latency.mean, latency.spread)
            rows.append(
                (
                    Path(item.path).name,
                    item.runtime,
                    size(item.file_bytes),
                    f"{item.load_us / 1000:.2f} ms",
                    memory,
                    str(latency.batch),
                    *(f"{number:.1f}" for number in numbers),
                    str(latency.runs),
                )
            )
    return table(header, rows)
