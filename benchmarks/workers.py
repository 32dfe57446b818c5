"""Rows a second of `stats`, `encode`, `score` and training by one worker and by two, in turn.

A log of nine fields of texts by Zipf laws, of up to 300,000 values, and one of numbers, in Parquet
files of 250,000 rows. The engines' measurements leave out the start of Ray and of its workers;
training is one epoch after one that is not measured, by ranks of torchrun with one thread each.

    python benchmarks/workers.py [--rows 1000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics as figures
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ondevice.cli import main as command
from ondevice.models.data import LogDescription, SplitRule
from ondevice.models.data.log_source import log_files
from ondevice.models.scale.engines import RayEngine, run_locally
from ondevice.models.scale.jobs import encoded_log, statistics, write_scores
from ondevice.models.scale.tasks import ScoreTask
from ondevice.text_table import table

FILE_ROWS = 250_000
VALUES = (300_000, 80_000, 20_000, 5_000, 1_000, 300, 100, 24, 7)
COLUMNS: dict[str, Any] = {
    "label": "click",
    "fields": {f"f{n}": "string" for n in range(len(VALUES))} | {"price": "number"},
}


def write_log(folder: Path, rows: int) -> None:
    """The log, and the description of its columns."""
    draws = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - start)
        columns: dict[str, Any] = {"click": draws.integers(0, 2, count)}
        for place, values in enumerate(VALUES):
            drawn = (draws.zipf(1.2, count) % values).astype(str)
            columns[f"f{place}"] = np.char.add(f"value {place} ", drawn)
        columns["price"] = np.round(np.exp(draws.normal(size=count)), 3)
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=1 << 16)


def engines(folder: Path, rows: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Rows a second by job and engine."""
    columns = folder / "columns.json"
    columns.write_text(json.dumps(COLUMNS))
    log, model = folder / "log", folder / "model"
    options = ["--data", "log", "--path", str(log), "--columns", str(columns), "--epochs", "1"]
    options += ["--max-rows", "100000", "--widths", "whole", "--out", str(folder / "checkpoint")]
    command(["train", "dnn", *options])
    command(["convert", str(folder / "checkpoint"), "--targets", "odm", "--out", str(model)])
    files, description = log_files(str(log)), LogDescription.from_dict(COLUMNS)
    task = ScoreTask.of(model / "model.odm")

    def score(engine: Any) -> None:
        with tempfile.TemporaryDirectory() as scores:
            write_scores(files, task, Path(scores), engine)

    rule = SplitRule("random")
    jobs: dict[str, Callable[[Any], object]] = {
        "stats": lambda engine: statistics(files, description, 0, engine),
        "encode": lambda engine: encoded_log("log", files, description, rule, 0, engine),
        "score": score,
    }
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    kinds = {"local": run_locally, "1 worker": RayEngine(1), "2 workers": RayEngine(2)}
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    for job in jobs.values():
        job(kinds["2 workers"])  # the workers start
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            for kind, engine in kinds.items():
                started = time.perf_counter()
                job(engine)
                speeds.setdefault((name, kind), []).append(rows / (time.perf_counter() - started))
    ray.shutdown()
    return speeds


def training(folder: Path, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Rows a second of training by ranks."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for ranks in (1, 2):
            launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            child = [__file__, "--epochs-in", str(folder)]
            subprocess.run([sys.executable, "-m", *launch, *child], check=True)
            speed = float((folder / "speed").read_text())
            kind = "1 worker" if ranks == 1 else "2 workers"
            speeds.setdefault(("training", kind), []).append(speed)
    return speeds


def train_epochs(folder: Path) -> None:
    """Train as a rank, and write rows a second of the second epoch."""
    import torch

    from ondevice.models import TrainConfig
    from ondevice.models.data import read_log
    from ondevice.models.training.distributed import joined_ranks
    from ondevice.models.training.experiment import Experiment, train_compressed
    from ondevice.models.training.widths import Widths

    torch.set_num_threads(1)
    config = TrainConfig(epochs=2, batch=4096, learning_rate=2e-3)
    with joined_ranks() as ranks:
        files = sorted((folder / "log").glob("*.parquet"))[:2]
        log = read_log(files, LogDescription.from_dict(COLUMNS), split=SplitRule("random"))
        experiment = Experiment(training=config, widths=Widths("whole"))
        trained = train_compressed(log, experiment, progress=False)
        epochs = trained.fitted.phases["train"].epochs
        if ranks.is_first:
            rows = len(trained.splits.train)
            (folder / "speed").write_text(str(rows / epochs[-1].seconds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs-in", type=Path, help="train as a rank (internal)")
    args = parser.parse_args()
    if args.epochs_in is not None:
        train_epochs(args.epochs_in)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log").mkdir()
        write_log(folder / "log", args.rows)
        speeds = training(folder, args.rounds) | engines(folder, args.rows, args.rounds)
    lines = [
        (*key, f"{figures.median(v):,.0f}", f"{min(v):,.0f} to {max(v):,.0f}")
        for key, v in speeds.items()
    ]
    print(table(("job", "by", "rows/s", "spread"), lines))


if __name__ == "__main__":
    main()
