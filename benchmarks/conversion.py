"""Speed and memory of converting big tables from a safetensors file, per target.

    python benchmarks/conversion.py --gb 1 2 4 --rounds 3

Every conversion runs in a separate process with one thread. The table, 16 columns of float32, lies
in a file that is written to a temporary folder for the run, as are the converted files: the folder
needs three times the largest size. "checkpoint" among the targets measures `ondevice convert
CHECKPOINT`, which writes all of them; making the checkpoint takes the memory of its table. Prints,
for every target and size, the median and the range of the rounds: seconds of wall clock and of
processor time for the whole conversion (libraries, export and verification included), of the latter
what the kernel took, the peak of the process's memory as the kernel counts it (VmHWM: mapped pages
of files and libraries too) and of its anonymous part (sampled). The rate counts only the table: how
processor time grows with its bytes, by least squares. 1 GB is 10^9 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from ondevice.cli import main

CHECKPOINT = "checkpoint"
DIM = 16
BLOCK_ROWS = 2**18
SAMPLE_SECONDS = 0.01


def write_table(path: Path, rows: int) -> None:
    """A safetensors file with one float32 table [rows, DIM]: random rows, repeated."""
    size = rows * DIM * 4
    entry = {"dtype": "F32", "shape": [rows, DIM], "data_offsets": [0, size]}
    text = json.dumps({"table.weight": entry}).encode()
    block = np.random.default_rng(0).normal(0, 0.05, (BLOCK_ROWS, DIM)).astype("<f4").tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
        os.fsync(file.fileno())  # or the disk would be busy with it while conversions are timed


def write_checkpoint(path: Path, rows: int) -> None:
    """A checkpoint of a model with one table [rows, DIM]."""
    from ondevice.features import FeatureSpec, Field
    from ondevice.models import EmbeddingConfig, ModelConfig, NetworkConfig, build, save_checkpoint
    from ondevice.spec import full_spec

    table = EmbeddingConfig(full_spec(rows, DIM, padding_id=0, oov_row=1))
    model = build(ModelConfig({"item": table}, NetworkConfig("dnn", (8,)))).eval()
    features = FeatureSpec((Field("item", "string", "hash"),))
    save_checkpoint(path, model, features, {"examples": {"item": [2, 3, 4, 5]}})
    with (path / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())


def measure_one(folder: Path, rows: int, targets: list[str], codec: str) -> dict[str, float]:
    """Convert in this process; seconds, bytes written and memory."""
    started = time.perf_counter()
    peak_anonymous, finished = 0, threading.Event()

    def watch() -> None:
        nonlocal peak_anonymous
        while not finished.wait(SAMPLE_SECONDS):
            peak_anonymous = max(peak_anonymous, status("RssAnon"))

    sampler = threading.Thread(target=watch, daemon=True)
    sampler.start()
    out = folder / "out"
    if targets == [CHECKPOINT]:
        words = [
            "convert",
            str(checkpoint(folder, rows)),
            "--out",
            str(out),
            "--force",
            "--tables",
            codec,
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            if main(words):
                raise SystemExit("the conversion failed")
    else:
        convert_table(folder / f"{rows}.safetensors", rows, out, targets, codec)
    finished.set()
    sampler.join()
    written = sum(file.stat().st_size for file in out.iterdir())
    for file in out.iterdir():
        file.unlink()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "system": usage.ru_stime,
        "peak": status("VmHWM"),
        "anonymous": peak_anonymous,
        "written": written,
    }


def convert_table(weights: Path, rows: int, out: Path, targets: list[str], codec: str) -> None:
    """Convert a module that looks up one table."""
    import torch

    from ondevice.converters import convert

    torch.set_num_threads(1)

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(rows, DIM)

        def forward(self, item: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.table(item).sum(-1))

    with torch.device("meta"):
        module = Scores()
    examples = (torch.arange(4),)
    convert(module, examples, out, targets=targets, tables=codec, weights=weights)


def checkpoint(folder: Path, rows: int) -> Path:
    """Where the checkpoint of a size lies."""
    return folder / f"{rows}.checkpoint"


def status(key: str) -> int:
    """Bytes that /proc says of this process."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def measured(folder: Path, rows: int, targets: list[str], codec: str) -> dict[str, float]:
    """`measure_one` in a separate process."""
    command = [sys.executable, __file__, "--one", str(folder), str(rows), codec, *targets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def spread(values: list[float], scale: float, digits: int = 1) -> str:
    """The median and, in brackets, the range of values divided by a scale."""
    low, middle, high = (
        f"{value / scale:.{digits}f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}-{high})"


def compare() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, nargs="+", default=[1, 2, 4], help="sizes of the table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", default="q8", help="codec")
    parser.add_argument(
        "--targets", nargs="+", default=["odm", "onnx", "tflite", "odm,onnx,tflite", CHECKPOINT],
        help="a target, several joined by commas, or checkpoint",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="where to make the files")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        folder, rows, codec, *targets = args.one
        print(json.dumps(measure_one(Path(folder), int(rows), targets, codec)))
        return
    columns = "wall s | CPU s | kernel s | file GB | peak MB | anonymous MB"
    print(f"| target | table GB | {columns} |")
    print("|---|---|---|---|---|---|---|---|")
    seconds: dict[str, list[tuple[float, float]]] = {target: [] for target in args.targets}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for gb in [0.001, *args.gb]:
            rows = int(gb * 1e9 / (4 * DIM))
            write_table(folder / f"{rows}.safetensors", rows)
            if CHECKPOINT in args.targets:
                write_checkpoint(checkpoint(folder, rows), rows)
            for target in args.targets:
                rounds = [
                    measured(folder, rows, target.split(","), args.tables)
                    for _ in range(args.rounds)
                ]
                seconds[target] += [(gb, item["cpu"]) for item in rounds]
                column = {key: [item[key] for item in rounds] for key in rounds[0]}
                print(
                    f"| {target} | {gb:g} | {spread(column['wall'], 1)} | "
                    f"{spread(column['cpu'], 1)} | {spread(column['system'], 1)} | "
                    f"{column['written'][0] / 1e9:.3f} | "
                    f"{spread(column['peak'], 1e6, 0)} | {spread(column['anonymous'], 1e6, 0)} |",
                    flush=True,
                )
            (folder / f"{rows}.safetensors").unlink()
            shutil.rmtree(checkpoint(folder, rows), ignore_errors=True)
    print()
    for target, points in seconds.items():
        sizes, times = np.array(points).T
        slope, fixed = np.polyfit(sizes, times, 1)
        print(f"{target}: {1e3 / slope:.0f} MB/s of float32 (CPU), {fixed:.1f} s beside the table")


if __name__ == "__main__":
    compare()
