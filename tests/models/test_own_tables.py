"""What a log's description asks of single fields reaches tables, files and scores."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ondevice
from ondevice.cli import main
from ondevice.errors import SpecError
from ondevice.inspection import inspect
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data import LogDescription

ROWS = 3000
COLUMNS = {
    "label": "click",
    "fields": {
        "user": {
            "kind": "integer",
            "vocabulary": False,
            "scheme": "hash",
            "ratio": 3,
            "codec": "f16",
        },
        "item": {"kind": "integer", "vocabulary": True, "min_count": 40, "codec": "q4"},
        "tags": {"kind": "string", "list": True, "length": 4},
        "words": {"kind": "tokens", "length": 3},
        "price": {"kind": "number", "buckets": 5},
        "mobile": "boolean",
    },
}


def table():
    rng = np.random.default_rng(0)
    item = (40 * rng.random(ROWS) ** 2).astype(int)
    tags = [[f"t{t}" for t in rng.integers(0, 9, n)] for n in rng.integers(0, 7, ROWS)]
    rate = 0.2 + 0.3 * (item % 2) + 0.3 * np.array(["t1" in row for row in tags])
    return pa.table(
        {
            "click": (rng.random(ROWS) < rate).astype(int),
            "user": rng.integers(0, 300, ROWS),
            "item": item,
            "tags": tags,
            "words": [" ".join(f"w{w}" for w in rng.integers(0, 5, 2)) for _ in range(ROWS)],
            "price": rng.normal(size=ROWS).round(2),
            "mobile": rng.random(ROWS) < 0.5,
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    pq.write_table(table(), folder / "log.parquet")
    (folder / "columns.json").write_text(json.dumps(COLUMNS))
    data = ["--data", "log", "--path", str(folder / "log.parquet")]
    data += ["--columns", str(folder / "columns.json"), "--epochs", "3", "--batch", "128"]
    assert main(["train", *data, "--hidden", "16", "--out", str(folder / "ck")]) == 0
    assert main(["convert", str(folder / "ck"), "--tables", "q8", "--out", str(folder / "m")]) == 0
    return folder


def test_tables_are_as_the_description_asks(trained):
    checkpoint = load_checkpoint(trained / "ck")
    specs = {name: checkpoint.model.embedding(name).spec for name in checkpoint.model.fields}
    users = len(set(table()["user"].to_pylist()))
    assert specs["user"].scheme != "full"
    assert specs["user"].rows == pytest.approx(users / 3, abs=4)
    known = len(checkpoint.features["item"].vocabulary)
    assert specs["item"].rows == known + 2 < 40
    assert (specs["tags"].pooling, specs["words"].pooling) == ("mean", "mean")
    assert len(checkpoint.features["price"].boundaries) == 4
    assert checkpoint.features["mobile"].cells.form == "boolean"


@pytest.mark.parametrize("suffix", ["odm", "onnx", "tflite"])
def test_files_score_raw_lists_as_the_model_does(trained, suffix):
    checkpoint = load_checkpoint(trained / "ck")
    raw = table().slice(0, 64).drop_columns("click").to_pydict()
    ids = checkpoint.features.encode(raw)
    with torch.no_grad():
        expected = checkpoint.model({name: torch.from_numpy(v) for name, v in ids.items()}).numpy()
    scores = ondevice.load(trained / "m" / f"model.{suffix}").predict(raw, raw=True)
    assert np.abs(scores.reshape(-1) - expected).max() < 0.02  # tables of 4 and 8 bits
    assert np.corrcoef(scores.reshape(-1), expected)[0, 1] > 0.999


def test_codecs_of_fields(trained):
    codecs = [table.codec for table in inspect(trained / "m" / "model.odm").tables]
    assert (codecs.count("f16"), codecs.count("q4")) == (1, 1)
    assert set(codecs) == {"f16", "q4", "q8"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "q5"}, "unknown codec 'q5'"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"ratio": 0.5}, "ratio must be at least 1"),
        ({"kind": "number", "list": True}, "a list of kind number"),
        ({"kind": "string", "buckets": 3}, "buckets and scale are for numbers"),
        ({"vocabulary": False, "min_count": 2}, "min_count needs a vocabulary"),
        ({"length": 0, "list": True}, "length must be"),
        ({"kind": "timestamp", "parts": ["minute"]}, "parts must be among"),
        ({"kind": "timestamp", "format": "rfc"}, "format must be one of"),
        ({"kind": "timestamp", "utc_offset": "8"}, "utc_offset must be a text"),
        ({"dim": True}, "dim must be an integer"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(SpecError, match=message):
        LogDescription.from_dict({"label": "click", "fields": {"user": settings}})
