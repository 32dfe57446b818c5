"""Reads, hashes and trains on generated Parquet logs of ten string columns; time and memory.

python benchmarks/large_log.py --rows 1e6 4e6 20e6

Each size is measured in a fresh process. Memory is anonymous memory (what the system cannot take
back) after each step, the imports included, and mapped pages of files beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ondevice.text_table import table

VALUES = (1_000_000, 200_000, 50_000, 10_000, 3000, 1000, 300, 100, 20, 5)
CHUNK = 1_000_000
COLUMNS = {
    "label": "click",
    "time": "ts",
    "fields": {f"f{number}": "string" for number in range(len(VALUES))},
}


def write_log(path: Path, rows: int) -> None:
    """A log whose frequent values are much more frequent than the rest, labels at random."""
    rng = np.random.default_rng(0)
    texts = [pa.array([f"v{place}_{n}" for n in range(most)]) for place, most in enumerate(VALUES)]
    writer = None
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        columns = {"click": rng.integers(0, 2, count), "ts": np.arange(start, start + count)}
        for place, most in enumerate(VALUES):
            values = pa.array((most * rng.random(count) ** 3).astype(np.int32))
            column = pa.DictionaryArray.from_arrays(values, texts[place])
            columns[f"f{place}"] = column.cast(pa.string())
        piece = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, piece.schema)
        writer.write_table(piece)
    writer.close()


def memory() -> tuple[int, int]:
    """Anonymous and file-backed resident memory, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if "kB" in line}
    return sizes["RssAnon"], sizes["RssFile"]


def measure(path: Path) -> None:
    """Print the figures of one log as JSON."""
    import torch

    from ondevice.models.data import open_log
    from ondevice.models.training.experiment import Experiment, train_compressed
    from ondevice.models.training.trainer import TrainConfig
    from ondevice.models.training.widths import Widths

    torch.set_num_threads(1)
    steps = {"start": (0.0, 0.0, *memory())}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = step()
        steps[name] = (time.process_time() - cpu, time.perf_counter() - wall, *memory())
        return result

    log = timed("read, hash, split", lambda: open_log(path, columns=COLUMNS))
    settings = TrainConfig(epochs=1, batch=4096, learning_rate=2e-3)
    experiment = replace(Experiment(), training=settings, widths=Widths("whole"))
    timed("encode, train 1 epoch", lambda: train_compressed(log, experiment, progress=False))
    print(json.dumps(steps))


def main() -> None:
    """Measure each size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 4e6])
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.log is not None:
        measure(args.log)
        return
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        for rows in map(int, args.rows):
            write_log(path, rows)
            command = [sys.executable, __file__, "--log", path]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for step, figures in json.loads(done.stdout).items():
                cpu, wall, anonymous, mapped = figures
                lines.append(
                    (f"{rows:,}", step, f"{cpu:.1f}", f"{wall:.1f}", f"{anonymous}", f"{mapped}")
                )
    heads = ("rows", "step", "CPU s", "wall s", "anonymous MB", "mapped MB")
    print(table(heads, lines))


if __name__ == "__main__":
    main()
