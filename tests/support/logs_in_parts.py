"""A log of every kind of field in any number of parts, and tasks that kill their workers."""

import os
import signal
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ondevice.converters import convert
from ondevice.features import FeatureSpec
from ondevice.models import ClickModel, FullEmbedding
from ondevice.models.data import LogDescription, SplitRule, encode, read_log, split
from ondevice.models.data.parts import LogFile
from ondevice.models.scale.tasks import CountTask, Result

ROWS = 700
COLUMNS_TOML = """label = "click"
ignore = ["request"]

[fields]
user = "string"
item = "integer"
price = "number"
tags = { kind = "string", list = true, length = 3 }
"""
DESCRIPTION = LogDescription.from_dict(
    {
        "label": "click",
        "ignore": ["request"],
        "fields": {
            "user": "string",
            "item": "integer",
            "price": "number",
            "tags": {"kind": "string", "list": True, "length": 3},
        },
    }
)


def columns():
    """Python values by column; None is missing."""
    draws = np.random.default_rng(3)
    prices = np.round(draws.normal(size=ROWS) * 100, 1).tolist()
    prices[5], prices[6], prices[7] = float("inf"), 0.0, -0.0
    return {
        "request": [f"r{number}" for number in range(ROWS)],
        "click": draws.integers(0, 2, ROWS).tolist(),
        "user": [None if n % 9 == 0 else f"u{n * n % 83}" for n in range(ROWS)],
        "item": [None if n % 50 == 0 else int(n * n % 61 - 5) for n in range(ROWS)],
        "price": [None if n % 11 == 0 else price for n, price in enumerate(prices)],
        "tags": [[f"t{n % 7}", f"t{n % 5}"][: n % 3] for n in range(ROWS)],
    }


def write_parts(folder: Path, parts: int, values=None) -> list[Path]:
    """The log as Parquet files of unequal sizes, in a shuffled order."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns() if values is None else values)
    edges = sorted({0, table.num_rows, *(table.num_rows * n * n // parts**2 for n in range(parts))})
    paths = []
    for number, (start, end) in enumerate(pairwise(edges)):
        path = folder / f"{number}.parquet"
        pq.write_table(table.slice(start, end - start), path, row_group_size=40)
        paths.append(path)
    return [paths[n] for n in np.random.default_rng(parts).permutation(len(paths))]


def convert_model(paths: list[Path], folder: Path, seed: int = 0) -> Path:
    """A converted model of user, item and price, with a row for every value."""
    log = read_log(paths, DESCRIPTION, split=SplitRule("random"))
    splits = encode(*split(log), vocabulary_fields=["user", "item", "tags"])
    fields = splits.train.features.fields[:3]
    torch.manual_seed(seed)
    network = ClickModel({item.name: FullEmbedding(200, 4) for item in fields}, (8,)).eval()
    example = {item.name: torch.from_numpy(splits.test.ids[item.name][:8]) for item in fields}
    convert(network, (example,), folder, targets=("odm",), features=FeatureSpec(fields))
    return folder / "model.odm"


@dataclass(frozen=True)
class DiesOnce:
    """A task that kills its worker the first time, and leaves a mark of it."""

    task: CountTask
    mark: Path

    def __call__(self, fragment: LogFile) -> Result:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.task(fragment)


@dataclass(frozen=True)
class DiesAlways:
    """A task that no worker survives."""

    def __call__(self, fragment: LogFile) -> Result:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
