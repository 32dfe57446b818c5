"""Requests that come one at a time: what a call costs after a pause, against the same back to back.

A process that sleeps loses caches, address translations and clock rate. Each call below is timed
(wall clock, batch 1) after a sleep, calls taking turns, so that all see the same machine:

- wake up: a Python function that does nothing
- touch: memcmp over as many bytes as the model file has, no engine
- native: `model.predict` of the .odm, and its second call right after the first; locked: of a model
  that `load(lock=True)` keeps in memory
- ONNX Runtime, LiteRT: the files of the same conversion, through their own Python interfaces

    python benchmarks/gaps.py MODEL_FOLDER [--gaps 0 1 10 100] [--calls 60] [--json FILE]
        [--page FILE] [--core N]

MODEL_FOLDER has model.odm, model.onnx and model.tflite, as `ondevice demo` and `convert` write.
Other work on the machine disturbs this more than anything: the load is printed and stored.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import topologies
from topology_peers import litert_call, onnx_call

import ondevice

Call = Callable[[], object]
WARM_CALLS = 2000


def calls_of(folder: Path) -> dict[str, Call]:
    """What is timed, by name."""
    model = ondevice.load(folder / "model.odm", engine="native")
    locked = ondevice.load(folder / "model.odm", lock=True)
    rng = np.random.default_rng(0)
    request: dict[str, Any] = {
        item.name: rng.integers(0, 9, (1, *item.shape[1:])) for item in model.inputs
    }
    data = (folder / "model.odm").read_bytes()
    half = data[: len(data) // 2]
    copy = bytes(bytearray(half))
    return {
        "wake up": lambda: None,
        "touch": lambda: half == copy,
        "native": lambda: model.predict(request),
        "native, locked": lambda: locked.predict(request),
        "onnxruntime": onnx_call(folder / "model.onnx", request),
        "litert": litert_call(folder / "model.tflite", request),
    }


def measure(calls: dict[str, Call], gap: float, count: int) -> dict[str, dict[str, float]]:
    """Least, median and 90th percentile in microseconds, of first calls and of "(again)" ones.

    Args:
        calls: what is timed; they take turns.
        gap: seconds of sleep before each; 0: none.
        count: how often each is timed.
    """
    times: dict[str, list[float]] = {}
    clock = time.perf_counter_ns
    for call in calls.values():
        for _ in range(WARM_CALLS):
            call()
    for name, call in calls.items() if not gap else ():  # back to back
        for _ in range(max(count, WARM_CALLS)):
            start = clock()
            call()
            times.setdefault(name, []).append((clock() - start) / 1000)
    for _ in range(count if gap else 0):
        for name, call in calls.items():
            time.sleep(gap)
            start = clock()
            call()
            first = clock()
            call()
            second = clock()
            times.setdefault(name, []).append((first - start) / 1000)
            times.setdefault(f"{name} (again)", []).append((second - first) / 1000)
    return {
        name: {
            "least": min(values), "median": statistics.median(values),
            "p90": float(np.percentile(values, 90)),
        }
        for name, values in times.items()
    }  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """Medians (and least times) by call and gap."""
    gaps = list(report["us"])
    names = list(dict.fromkeys(name for by_name in report["us"].values() for name in by_name))
    lines = ["| | " + " | ".join("back to back" if g == "0" else f"{g} ms" for g in gaps) + " |"]
    lines.append("|---|" + "---|" * len(gaps))
    for name in names:
        found = [report["us"][gap].get(name) for gap in gaps]
        cells = [f"{f['median']:.1f} ({f['least']:.1f})" if f else "-" for f in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(report: dict[str, Any]) -> str:
    """The table with what it says, as a page of the docs."""
    text = (
        "What a call at batch 1 costs after a pause of the process, in microseconds of wall clock: "
        "median (least). `touch` reads as many bytes as the model file has and does nothing else; "
        "`(again)` is a second call right after the first. "
        f"Load of the machine while it ran: {report['load'][0]:.0f} to {report['load'][1]:.0f}, on "
        f"{report['cores']} cores."
    )
    command = "Made by `python benchmarks/gaps.py demo-out --page docs/evidence/gaps.md`."
    kept = Path(__file__).parent.parent / "docs" / "evidence" / "gaps.md"
    mark = "## What the time is"
    written = kept.read_text("utf-8") if kept.exists() else ""
    notes = written[written.index(mark) :] if mark in written else ""
    head = "\n\n".join(
        ["# Requests after a pause", textwrap.fill(text, 120), markdown(report), command]
    )
    return head + "\n" + (f"\n{notes}" if notes else "")


def main() -> None:
    """Measure every gap, print, and write the files asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gaps", type=float, nargs="+", default=[0, 1, 10, 100])
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--core", type=int)
    args = parser.parse_args()
    core = topologies.pin(args.core)
    calls = calls_of(args.folder)
    loads = [os.getloadavg()[0]]
    gc.disable()
    report: dict[str, Any] = {"us": {}, "core": core, "cores": os.cpu_count()}
    for gap in args.gaps:
        report["us"][f"{gap:g}"] = measure(calls, gap / 1000, args.calls)
        loads.append(os.getloadavg()[0])
    report["load"] = [min(loads), max(loads)]
    print(markdown(report), report["load"])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.page:
        args.page.write_text(page(report))


if __name__ == "__main__":
    main()
