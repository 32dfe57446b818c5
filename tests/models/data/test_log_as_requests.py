"""A training log read as requests has the IDs of training, whatever its layout and odd cells."""

import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ondevice
from ondevice.errors import InputError
from ondevice.features import FeatureSpec
from ondevice.info import InputSpec
from ondevice.models.data import (
    History,
    LogDescription,
    add_history,
    avazu_log,
    criteo_log,
    encode,
    read_log,
    split,
)
from ondevice.models.data.contests import AVAZU_COLUMNS
from ondevice.models.data.hashed import encoded
from ondevice.requests import format_of, opened, read_requests

COLUMNS = ("when", "userId", "item", "stars", "price", "note")
FIELDS = {
    "user": {"kind": "string", "column": "userId"},
    "item": {"kind": "integer", "missing": ["", "-1"]},
    "price": "number",
    "copy": {"kind": "string", "column": "item"},
}
USERS = ["NA", "\\N", "", " NA", "na", "é", "O'Hara", "a|b", "007", "nan", " "]
ITEMS = ["5", "+5", "007", "-0", "-1", "", "9223372036854775807", "-9223372036854775808", "NA"]
PRICES = ["1.5", ".5", "1e0", "-0", "\\N", "", "NA", "0.99999999999999995", "1E+00", "12."]
LAYOUTS = {
    "plain.csv": {},
    "tabs.tsv": {"delimiter": "\t", "quote": ""},
    "semicolons.csv": {"delimiter": ";", "quote": "'"},
    "latin.csv": {"encoding": "latin-1"},
    "utf16.csv": {"encoding": "utf-16", "delimiter": "\t"},
    "bars.csv": {"delimiter": "::", "quote": ""},
    "headless.csv": {"columns": list(COLUMNS)},
    "packed.csv.gz": {},
    "packed.csv.xz": {"columns": list(COLUMNS), "delimiter": "\t"},
}


def described(**layout):
    return LogDescription.from_dict(
        {
            "label": {"column": "stars", "at_least": 4},
            "fields": FIELDS,
            "time": "when",
            "ignore": ["note"],
            "missing": ["", "NA", "\\N"],
            **layout,
        }
    )


def rows_of_log():
    """Rows of every odd cell; the kinds' lists have no common factor, so that all meet."""
    items = [item for item in ITEMS if item != "NA"]  # "NA" is a marker of the other fields only
    for n in range(220):
        cells = (USERS[n % 11], items[n % 8], str(n % 6), PRICES[n % 10])
        yield (str(n), *cells, ["", "x", "né"][n % 3])


def write_log(folder, name, description):
    """The log in its layout, with a blank line in it where lines may be blank."""
    text = io.StringIO()
    rows = [] if description.columns is not None else [COLUMNS]
    rows += rows_of_log()
    if len(description.delimiter) > 1 or description.quote is None:
        text.write("".join(description.delimiter.join(row) + "\r\n" for row in rows))
    else:
        csv.writer(text, delimiter=description.delimiter, quotechar=description.quote).writerows(
            rows
        )
    text.write("\r\n")
    data = text.getvalue().encode(description.encoding)
    opener = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)
    (folder / name).write_bytes(opener(data))
    return folder / name


def model_of(features):
    """What requests are read for: the inputs and the features as a model file holds them."""
    stored = FeatureSpec.from_json(json.loads(json.dumps(features.to_json())))
    inputs = tuple(
        InputSpec(field.name, ("batch",) if field.length is None else ("batch", field.length))
        for field in stored.fields
    )
    return SimpleNamespace(path=Path("m.odm"), inputs=inputs, features=stored)


def read(path, model):
    text_format = format_of(path.name)
    with opened(path, text_format, model.features) as source:
        requests = read_requests(source, text_format, model, False, 64)
        batches = [batch.ids for batch in requests]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, ids in expected.items():
        np.testing.assert_array_equal(got[name], ids, err_msg=name)


@pytest.fixture(params=LAYOUTS)
def encoded_log(request, tmp_path):
    """A log file, and its IDs and features after training's encoding (all rows)."""
    description = described(**LAYOUTS[request.param])
    path = write_log(tmp_path, request.param, description)
    log = read_log(path, description)
    train = encode(log, log, log, ["user", "item"], min_count=2).train
    return path, train


def test_the_log_itself_has_the_ids_of_training(encoded_log):
    path, train = encoded_log
    assert len(train.labels) == 220
    assert all(len(np.unique(ids)) > 3 for ids in train.ids.values())
    same(read(path, model_of(train.features)), train.ids)


@pytest.mark.parametrize("aliases", [True, False])
def test_json_lines_of_the_log_have_the_ids_of_training(encoded_log, aliases):
    path, train = encoded_log
    lines = []
    for row in rows_of_log():
        cells = dict(zip(COLUMNS, row, strict=True))
        if not aliases:
            cells = {"user": cells["userId"], "copy": cells["item"], **cells}
            del cells["userId"]
        lines.append(json.dumps(cells, ensure_ascii=False))
    requests = path.with_name("requests.jsonl")
    requests.write_text("\n".join(lines), encoding="utf-8")
    same(read(requests, model_of(train.features)), train.ids)


def test_python_values_of_the_log_have_the_ids_of_training(encoded_log):
    _, train = encoded_log
    columns = dict(zip(COLUMNS, zip(*rows_of_log(), strict=True), strict=True))
    raw = {"user": columns["userId"], "copy": columns["item"]}
    raw |= {name: columns[name] for name in ("item", "price")}
    same(model_of(train.features).features.encode(raw), train.ids)


def test_a_cell_that_training_refuses_is_refused_with_its_line(encoded_log):
    path, train = encoded_log
    if path.name != "plain.csv":
        return
    model = model_of(train.features)
    for column, cell in (("item", "1_0"), ("item", " 5"), ("item", "NA"), ("price", "inf")):
        at = COLUMNS.index(column)
        row = ["0", "u", "5", "1", "1", ""]
        row[at] = cell
        path.write_text(",".join(COLUMNS) + "\n0,u,5,1,1,\n" + ",".join(row) + "\n")
        with pytest.raises(InputError, match=f"line 3: field '{column}': expected a"):
            read(path, model)


def test_undecodable_bytes_are_refused_where_they_are_used(tmp_path):
    description = described()
    log = read_log(write_log(tmp_path, "log.csv", description), description)
    features = encode(log, log, log, []).train.features
    path = tmp_path / "bytes.csv"
    header = ",".join(COLUMNS).encode() + b"\n"
    path.write_bytes(header + b"0,u,5,1,1,\xff\n")
    assert read(path, model_of(features))["item"].shape == (1,)
    path.write_bytes(header + b"0,\xff,5,1,1,x\n")
    with pytest.raises(InputError, match=r"line 2: field 'user'.*not valid Unicode"):
        read(path, model_of(features))


def test_damaged_compression_is_refused(tmp_path):
    log = read_log(write_log(tmp_path, "log.csv", described()), described())
    features = model_of(encode(log, log, log, []).train.features)
    data = gzip.compress((tmp_path / "log.csv").read_bytes())
    for damaged in (data[:100], b"\0" * 50, data[:-8] + b"\0" * 8):
        (tmp_path / "log.csv.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"log.csv.gz: cannot be read"):
            read(tmp_path / "log.csv.gz", features)


def test_a_history_is_read_with_the_markers_of_its_items(tmp_path):
    description = described()
    log = read_log(write_log(tmp_path, "log.csv", description), description)
    parts = add_history(split(log), History("user", "item", 3))
    features = encode(*parts, ["item"]).train.features
    assert features["history"].cells == replace(features["item"].cells, column=None)
    ids = features.encode({"history": ["5|-1|007", "-1", "", [5, None, "+7"], None]})["history"]
    five, seven = features["item"].encode([5, 7]).tolist()
    assert ids.tolist() == [[five, 0, seven], [0, 0, 0], [0, 0, 0], [five, 0, seven], [0, 0, 0]]


def test_the_contests_logs_have_the_ids_of_training(tmp_path):
    rows = range(40)
    others = len(AVAZU_COLUMNS) - 3
    avazu = [
        ",".join(["id", f"{i % 2}", f"1410{21 + i % 9}{i % 24:02d}", *[f"{i % 3}"] * others])
        for i in rows
    ]
    numbers, texts = ["", "-1", "7"], ["", "68fd1e64", '"']
    criteo = ["\t".join([f"{i % 2}", *[numbers[i % 3]] * 13, *[texts[i % 3]] * 26]) for i in rows]
    for load, lines in ((avazu_log, avazu), (criteo_log, criteo)):
        path = tmp_path / "log.csv"
        path.write_text("\n".join(lines) + "\n")
        log = load(path)
        train = encode(log, log, log, []).train
        same(read(path, model_of(train.features)), train.ids)
    path.write_text(",".join(AVAZU_COLUMNS) + "\n" + "\n".join(avazu) + "\n")
    log = avazu_log(path)
    assert len(np.unique(log.hashes["weekday"])) == 7 and len(np.unique(log.hashes["hour"])) == 24
    same(read(path, model_of(log.features)), log.hashes)
    path.write_text(path.read_text().replace(",141021", ",21"))
    with pytest.raises(InputError, match="line 2: field 'hour': expected an hour as YYMMDDHH"):
        read(path, model_of(log.features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_format": {"delimiter": ","}}, "an object of delimiter, encoding, quote"),
        ({"text_format": {"delimiter": "", "quote": None, "encoding": "utf-8"}}, "delimiter"),
        ({"text_format": {"delimiter": ",", "quote": None, "encoding": "utf-99"}}, "encoding"),
        ({"text_format": {"delimiter": ",", "quote": 1, "encoding": "utf-8"}}, "quote must be"),
        ({"columns": "a"}, "columns must be strings"),
        ({"columns": [1]}, "columns must be strings"),
        ({"fields": {}}, "expected a list"),
        ({"more": 1}, "expected a list"),
    ],
)
def test_an_unsound_layout_in_a_file_is_refused(change, message):
    from ondevice.errors import SpecError

    data = {"fields": [], "columns": None}
    data["text_format"] = {"delimiter": ";", "quote": None, "encoding": "utf-8"}
    assert FeatureSpec.from_json(data).text_format.delimiter == ";"
    with pytest.raises(SpecError, match=message):
        FeatureSpec.from_json({**data, **change})


def test_train_convert_and_run_on_the_log(tmp_path):
    """The commands, on a log without a header, with semicolons and its own missing markers."""
    columns = list(COLUMNS)
    description = described(columns=columns, delimiter=";")
    path = write_log(tmp_path, "log.csv", description)
    settings = {"label": {"column": "stars", "at_least": 4}, "fields": FIELDS, "time": "when"}
    settings |= {"ignore": ["note"], "missing": ["", "NA", "\\N"]}
    settings |= {"columns": columns, "delimiter": ";"}
    (tmp_path / "columns.json").write_text(json.dumps(settings))

    def call(*words):
        done = subprocess.run(
            [sys.executable, "-m", "ondevice", *map(str, words)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("train", "dnn", "--data", "csv", "--path", path, "--columns", tmp_path / "columns.json",
         "--epochs", 1, "--batch", 64, "--out", tmp_path / "checkpoint")  # fmt: skip
    call("convert", tmp_path / "checkpoint", "--out", tmp_path / "m", "--targets", "odm")
    scores = call("run", tmp_path / "m/model.odm", path).split()
    model = ondevice.load(tmp_path / "m" / "model.odm")
    log = read_log(path, description)
    ids = encoded(log, model.features).ids
    np.testing.assert_allclose(np.float64(scores[1:]), model.predict(ids), rtol=1e-5)


def test_columns_whose_names_are_those_of_other_fields(tmp_path):
    """CSV is the log first, JSON the names first: no field reads another one's values."""
    swapped = {"a": {"column": "b"}, "b": {"column": "a"}, "c": {"column": "a"}}
    description = LogDescription.from_dict({"label": "click", "fields": swapped})
    path = tmp_path / "log.csv"
    path.write_text("click,a,b\n1,x,y\n0,z,w\n")
    log = read_log(path, description)
    model = model_of(log.features)
    same(read(path, model), log.hashes)
    named_rows = tmp_path / "named.jsonl"
    named_rows.write_text('{"a": "y", "b": "x", "c": "x"}\n{"a": "w", "b": "z", "c": "z"}\n')
    same(read(named_rows, model), log.hashes)
    as_logged = tmp_path / "logged.jsonl"
    as_logged.write_text('{"a": "x", "b": "y"}\n{"a": "z", "b": "w"}\n')
    same(read(as_logged, model), log.hashes)
    path.write_text("a,c\nx,y\n")
    with pytest.raises(InputError, match="columns b are missing"):
        read(path, model)
    as_logged.write_text('{"a": "x"}\n')
    with pytest.raises(InputError, match="line 1: 'b', 'c' is missing"):
        read(as_logged, model)
