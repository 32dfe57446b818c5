"""What a call from Java costs: the plan of `ondevice bench` in this machine's JVM, and from Python.

    python benchmarks/java_calls.py demo-out/model.odm [--rank 60 200]

Needs what `make android` needs. Both sides run the same C engine, on requests from the
test vectors in the file, one process a measurement. They differ in the way into the engine and in
the compiler: clang for Android, whatever compiled this machine's Python extension.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "android_demo"))
import build_apk
import jni_library

from ondevice.bench.measure.plan import Plan
from ondevice.bench.measure.rounds import run_plan
from ondevice.bench.report import Report, read_report
from ondevice.bench.targets.local import LocalMachine
from ondevice.text_table import table

MAIN = "ondevice.ctr.bench.HostBenchmark"


def java_report(
    model: Path, rows: list[int], rank: list[int], context: str, seconds: float, folder: Path
) -> Report:
    """Measure in JVMs of this machine."""
    (abi,) = (abi for abi in jni_library.ABIS if abi.name == "x86_64")
    library = jni_library.build(abi, build_apk.OUT / "jni" / abi.name)
    sdk = build_apk.find_sdk(build_apk.OUT)
    sources = [build_apk.LIBRARY / "src/main/java", build_apk.LIBRARY / "src/host/java"]
    classes = build_apk.compile_java(sources, [], sdk, folder / "classes")
    out = folder / "java.json"
    subprocess.run(
        ["java", f"-Djava.library.path={library.parent}", "-classpath", str(classes), MAIN,
         str(model), str(out), ",".join(map(str, rows)), ",".join(map(str, rank)), context,
         str(seconds)], check=True,
    )  # fmt: skip
    return read_report(out)


def main() -> None:
    """Measure the same plan from Java and from Python, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--rank", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--context", default="user")
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    plan = Plan(models=(args.model,), rows=tuple(args.batch), rank=tuple(args.rank),
                context=(args.context,), gaps_ms=(0.0,), seconds=args.seconds)  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        java = java_report(args.model, args.batch, args.rank, args.context, args.seconds,
                           Path(name))  # fmt: skip
    python = run_plan(plan, LocalMachine())
    lines = []
    for in_java, in_python in zip(java.latencies, python.latencies, strict=True):
        assert (in_java.call, in_java.rows) == (in_python.call, in_python.rows)
        both = (in_java.latency_us, in_python.latency_us)
        figures = [f"{value:.1f}" for times in both for value in (times.p50, times.p95)]
        lines.append([f"{in_java.call} {in_java.rows}", *figures])
    header = ["us", "Java p50", "Java p95", "Python p50", "Python p95"]
    print(f"{java.latencies[0].runtime}, {java.device.cpu}, load {os.getloadavg()[0]:.1f}")
    print(table(header, lines))


if __name__ == "__main__":
    main()
