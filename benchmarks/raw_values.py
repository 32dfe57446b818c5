"""Rows a second of raw values, beside those of ready IDs, in one installation or several.

Models of ten inputs of one form each, a binary-code lookup of 8 numbers an input and a layer of 32
units; values are drawn by a Zipf law from 5,000 an input, 2 % are missing, and every text is an
object of its own, as a parser of JSON makes it. A number is the median over rounds, in each of
which a fresh process on one core measures every installation after the other, in its processor
time, so that other programs on the core hardly count.

    python benchmarks/raw_values.py [--rounds 5] [--against FOLDER ...]

FOLDER holds another checkout's package `ondevice`, compiled in place, to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ondevice
from ondevice.cells import Cells
from ondevice.features import FeatureSpec, Field
from ondevice.text_table import table

INPUTS, DISTINCT, LENGTH, DIM, HIDDEN = 10, 5000, 10, 8, 32
BATCHES = (1, 100, 1000)
FORMS = ("strings", "vocabulary", "integers", "integer texts", "numbers", "number texts", "lists")
NAMES = [f"f{number}" for number in range(INPUTS)]
SECONDS = 0.1  # of one measurement
PACKAGE = Path(ondevice.__file__).parents[1]


def value(form: str, name: str, number: int) -> Any:
    """The raw value `number` of an input."""
    of_form: dict[str, Callable[[], Any]] = {
        "integers": lambda: number * 7919,
        "integer texts": lambda: str(number * 7919),
        "numbers": lambda: number / 7,
        "number texts": lambda: f"{number / 7:.4f}",
    }
    return of_form.get(form, lambda: f"{name}-value-{number * 7919}")()


def field(form: str, name: str, seed: int) -> Field:
    """How an input of this form is read."""
    if form.startswith("number"):
        edges = np.linspace(0, DISTINCT / 7, 31)
        return Field(name, "number", "bucket", boundaries=edges, cells=Cells())
    if form.startswith("integer"):
        return Field(name, "integer", seed=seed, cells=Cells())
    if form == "lists":
        return Field(name, seed=seed, cells=Cells(), length=LENGTH)
    if form == "vocabulary":
        texts = [value(form, name, number) for number in range(DISTINCT)]
        known = np.sort(Field(name, seed=seed).hashes(texts))
        return Field(name, "string", "vocabulary", seed, known, cells=Cells())
    return Field(name, seed=seed, cells=Cells())


def request(form: str, rows: int) -> dict[str, list[Any]]:
    """Raw values by input, [rows]."""
    rng = random.Random(0)  # noqa: S311 - values of a benchmark

    def one(name: str) -> Any:
        missing = rng.random() < 0.02
        number = min(int(rng.paretovariate(0.7)), DISTINCT) - 1
        return None if missing else value(form, name, number)

    if form == "lists":
        return {
            name: [[one(name) for _ in range(rng.randint(1, LENGTH))] for _ in range(rows)]
            for name in NAMES
        }
    return {name: [one(name) for _ in range(rows)] for name in NAMES}


def write_models(folder: Path) -> None:
    """A native file for each form."""
    import torch
    from torch import Tensor, nn

    from ondevice.converters import convert
    from ondevice.models import BinaryCodeEmbedding

    class Network(nn.Module):
        def __init__(self, pooled: bool) -> None:
            super().__init__()
            self.pooled = pooled
            self.tables = nn.ModuleDict(
                {name: BinaryCodeEmbedding(DIM, 20, 7, std=0.5) for name in NAMES}
            )
            self.layers = nn.Sequential(
                nn.Linear(DIM * INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
            )

        def forward(self, ids: dict[str, Tensor]) -> Tensor:
            pooling = "mean" if self.pooled else "none"
            vectors = [self.tables[name](values, pooling) for name, values in ids.items()]
            return torch.sigmoid(self.layers(torch.cat(vectors, -1))).squeeze(-1)

    for form in FORMS:
        features = FeatureSpec(tuple(field(form, name, i) for i, name in enumerate(NAMES)))
        ids = {name: torch.from_numpy(v) for name, v in features.encode(request(form, 4)).items()}
        network = Network(form == "lists").eval()
        convert(
            network, (ids,), folder, targets=("odm",), tables="q8", features=features, name=form
        )


def rows_a_second(call: Callable[[], Any], rows: int) -> float:
    """Rows a second of a call that scores so many rows."""
    call()
    calls, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < SECONDS:
        for _ in range(max(1, 200 // rows)):
            call()
            calls += 1
    return calls * rows / spent


def measure(folder: Path) -> dict[str, float]:
    """Rows a second by "form, batch, call", of the files in `folder`."""
    rates = {}
    for form in FORMS:
        model = ondevice.load(folder / f"{form}.odm")
        for batch in BATCHES:
            raw = request(form, batch)
            ids = model.features.encode(raw)
            context = {name: raw[name][:1] for name in NAMES[: INPUTS // 2]}
            candidates = {name: raw[name] for name in NAMES[INPUTS // 2 :]}
            calls: dict[str, Callable[[], Any]] = {
                "IDs": lambda m=model, ids=ids: m.predict(ids),
                "predict": lambda m=model, raw=raw: m.predict(raw, raw=True),
                "rank": lambda m=model, c=context, n=candidates: m.rank(c, n, raw=True),
            }
            for name, call in calls.items():
                rates[f"{form}, {batch}, {name}"] = rows_a_second(call, batch)
    return rates


def measured_by(package: Path, folder: Path) -> dict[str, float]:
    """As `measure`, in a fresh process on one core with the runtime in `package`."""
    command = [sys.executable, __file__, "--measure", str(folder)]
    core = min(os.sched_getaffinity(0))
    answer = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(package)},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        capture_output=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(answer.stdout)
    return measured


def main() -> None:
    """Write the models, measure every installation in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, nargs="*", default=[])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    packages = [*(folder.resolve() for folder in args.against), PACKAGE]
    rounds: dict[Path, list[dict[str, float]]] = {package: [] for package in packages}
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        for _ in range(args.rounds):
            for package in packages:
                rounds[package].append(measured_by(package, Path(folder)))
    keys = [
        (form, str(batch), call)
        for form in FORMS
        for batch in BATCHES
        for call in ("IDs", "predict", "rank")
    ]
    lines = []
    for key in keys:
        rates = [statistics.median(e[", ".join(key)] for e in rounds[p]) for p in packages]
        lines.append((*key, *(f"{rate:,.0f}" for rate in rates)))
    print(table(("form", "batch", "call", *map(str, packages)), lines))


if __name__ == "__main__":
    main()
