"""How many times faster the native engine scores one large request with several threads.

    python benchmarks/threads.py [--threads 2] [--batch 256 1024 4096] [--codec q8] [--seconds 2]

The MLP of benchmarks/topologies.py: 26 fields x 16, layers of 400-400-400. Bursts with one and with
several threads take turns. Two figures: of wall clock, the least burst means, which says something
on an idle machine only; and of CPU time, which other work disturbs little: the time of the only
thread over that of the busiest of several, as the kernel counts each (/proc/self/task, Linux). The
latter leaves out what waking a thread takes. Scores must be the same to the bit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import topologies
import torch

import ondevice

BURSTS = 20


def thread_seconds() -> dict[int, float]:
    """CPU seconds of every thread of this process, by its number."""
    threads = [int(item.name) for item in Path("/proc/self/task").iterdir()]
    # the kernel's number of a thread's clock: CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED
    return {thread: time.clock_gettime((~thread << 3) | 6) for thread in threads}


def burst(model: ondevice.Model, request: dict[str, np.ndarray], calls: int) -> tuple[float, float]:
    """Seconds a call: of wall clock, and of CPU time of the busiest thread."""
    before, start = thread_seconds(), time.perf_counter()
    for _ in range(calls):
        model.predict(request)
    wall, after = time.perf_counter() - start, thread_seconds()
    busiest = max(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
    return wall / calls, busiest / calls


def speedup(path: Path, threads: int, batch: int, seconds: float) -> str:
    """A row of the table: microseconds with one and with several threads, and their ratios."""
    request = topologies.Mlp.request(np.random.default_rng(0), batch)
    models = [ondevice.load(path, engine="native", threads=count) for count in (1, threads)]
    expected = models[0].predict(request)
    assert np.array_equal(models[1].predict(request), expected)
    calls = max(1, int(seconds / 2 / BURSTS / burst(models[0], request, 3)[1]))
    times = [[burst(model, request, calls) for model in models] for _ in range(BURSTS)]
    least = np.array(times).min(axis=0) * 1e6  # [models, (wall, busiest)]
    wall, busiest = least[0] / least[1]
    return (
        f"| {batch} | {least[0, 0]:.0f} | {least[1, 0]:.0f} | {wall:.2f} "
        f"| {least[0, 1]:.0f} | {least[1, 1]:.0f} | {busiest:.2f} |"
    )


def main() -> None:
    """Convert, measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--codec", choices=topologies.PRECISIONS, default="q8")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch size")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = topologies.converted("MLP", args.codec, Path(folder)) / "model.odm"
        print(f"load of the machine: {os.getloadavg()[0]:.1f}; 1 and {args.threads} threads, us")
        print("| batch | wall 1 | wall n | faster | CPU 1 | CPU of the busiest | faster |")
        print("|---|---|---|---|---|---|---|")
        for batch in args.batch:
            print(speedup(path, args.threads, batch, args.seconds), flush=True)


if __name__ == "__main__":
    main()
