"""A log much larger than memory is read and encoded in memory that does not grow with it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ondevice.models.training import trainer

# Anonymous memory after reading and encoding, less that before: of twelve columns of 8 bytes.
READ = """
import sys
from pathlib import Path
from ondevice.models.data import encode, open_log, split

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

columns = {"label": "click", "time": "ts", "fields": {f"f{n}": "string" for n in range(10)}}
open_log(sys.argv[2], columns=columns)  # imports, and the allocator's pools
before = anonymous()
log = open_log(sys.argv[1], columns=columns)
splits = encode(*split(log), vocabulary_fields=[f"f{n}" for n in range(10)])
print(len(log), anonymous() - before, len(splits.train))
"""


def write(path, rows):
    rng = np.random.default_rng(0)
    texts = pa.array([f"value {n}" for n in range(500)])
    with pq.ParquetWriter(
        path,
        pa.schema(
            [("click", pa.int8()), ("ts", pa.int64())] + [(f"f{n}", pa.string()) for n in range(10)]
        ),
    ) as writer:
        for start in range(0, rows, 100_000):
            count = min(100_000, rows - start)
            columns = {
                "click": pa.array(rng.integers(0, 2, count), pa.int8()),
                "ts": np.arange(start, start + count),
            }
            for n in range(10):
                places = pa.array(rng.integers(0, 500, count).astype(np.int32))
                columns[f"f{n}"] = pa.DictionaryArray.from_arrays(places, texts).cast(pa.string())
            writer.write_table(pa.table(columns).cast(writer.schema))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_rows(tmp_path):
    write(tmp_path / "small.parquet", 20_000)
    used = {}
    for rows in (250_000, 1_000_000):
        write(tmp_path / "log.parquet", rows)
        done = subprocess.run(
            [sys.executable, "-c", READ, tmp_path / "log.parquet", tmp_path / "small.parquet"],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        count, grown, train = map(int, done.stdout.split())
        assert (count, train) == (rows, rows * 8 // 10)
        used[rows] = grown
    a_row = (used[1_000_000] - used[250_000]) / 750_000
    assert a_row < 20, used  # the columns of a row have 100 bytes, hashed, and 100 encoded


def test_every_row_once_in_every_epoch(monkeypatch):
    monkeypatch.setattr(trainer, "WINDOW_ROWS", 64)
    monkeypatch.setattr(trainer, "BLOCK_ROWS", 8)
    order = torch.Generator().manual_seed(0)
    data = trainer._Data({"user": torch.arange(512)}, torch.arange(512).float(), None)
    orders = []
    for _ in range(2):
        batches = [rows for rows, _ in trainer._batches(data, 16, order)]
        for batch in batches:
            assert torch.equal(batch.ids["user"].float(), batch.labels)
        orders.append(torch.cat([batch.labels for batch in batches]))
        assert torch.equal(orders[-1].sort().values, data.labels)
    assert not torch.equal(*orders)
    first = orders[0][:64].long() // 8
    assert len(first.unique()) == 8  # eight blocks, shuffled together
    assert (first.diff() != 0).sum() > 40
