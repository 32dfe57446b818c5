"""The same rows from every kind of source have the same hashes, in training and when served."""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import xxhash

from ondevice.errors import DataError, InputError, SpecError
from ondevice.info import InputSpec
from ondevice.models.data import BadRows, open_log, split
from ondevice.models.data.hashed import encoded
from ondevice.requests import format_of, opened, read_requests, read_table

PARTS = ["hour", "weekday", "day", "month"]
DESCRIPTION = {
    "label": "click",
    "time": "ts",
    "time_format": "iso",
    "weight": "weight",
    "missing": ["", "NA"],
    "fields": {
        "user": "string",
        "item": "integer",
        "price": "number",
        "mobile": "boolean",
        "shown": {
            "kind": "timestamp",
            "column": "ts",
            "parts": ["hour", "weekday", "day", "month"],
        },
        "delhi": {"kind": "timestamp", "column": "ts", "parts": ["hour"], "utc_offset": "+05:30"},
        "genres": {"kind": "string", "list": True, "length": 3},
        "query": {"kind": "tokens", "length": 4},
    },
}
USERS = ["u1", "é", "u2", None, "a b", "O'Hara", "🎬"]
GENRES = [["Drama"], ["Comedy", "Drama"], [], ["a", "b", "c", "d"], ["x"]]
ROWS = 240


def rows():
    """Typed rows; a text form of each follows from it."""
    for n in range(ROWS):
        yield {
            "click": n * n % 5 == 1,
            "ts": datetime(2026, 10 + n % 3, 1 + n % 28, n % 24, n % 60, n % 59, tzinfo=UTC),
            "weight": 1.0 + n % 4,
            "user": USERS[n % 7] if n % 2 else f"v{n % 60}",
            "item": None if n % 11 == 5 else (n % 13) * 10**15,
            "price": None if n % 7 == 3 else (n % 9) / 8 - 0.25,
            "mobile": None if n % 5 == 4 else n % 2 == 0,
            "genres": GENRES[n % 5],
            "query": " ".join(["red", "shoe", "size", str(n % 5), "new"][: 1 + n % 5]),
        }


def cells():
    """The rows as texts, as a CSV file has them."""
    for row in rows():
        yield {
            **row,
            "click": int(row["click"]),
            "ts": row["ts"].strftime("%Y-%m-%dT%H:%M:%SZ"),
            "user": "NA" if row["user"] is None else row["user"],
            "item": "" if row["item"] is None else row["item"],
            "price": "" if row["price"] is None else row["price"],
            "mobile": {None: "NA", True: "true", False: "False"}[row["mobile"]],
            "genres": "|".join(row["genres"]),
        }


def csv_bytes():
    text = io.StringIO()
    writer = csv.DictWriter(text, list(next(rows())))
    writer.writeheader()
    writer.writerows(cells())
    return text.getvalue().encode()


def json_bytes():
    lines = [json.dumps({**row, "ts": row["ts"].isoformat()}) for row in rows()]
    return ("\n".join(lines) + "\n").encode()


def arrow_table():
    return pa.Table.from_pylist(list(rows()))


def write(folder, kind):
    path = folder / f"log.{kind}"
    data = json_bytes() if "json" in kind else csv_bytes()
    packers = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as sink:
            sink.write(data)
    elif kind == "parquet":
        pq.write_table(arrow_table(), path, row_group_size=50)
    elif kind == "feather":
        pa.feather.write_feather(arrow_table(), path)
    elif kind == "arrow":  # a stream
        with pa.ipc.new_stream(str(path), arrow_table().schema) as writer:
            writer.write_table(arrow_table(), max_chunksize=7)
    else:
        path.write_bytes(packers.get(path.suffix, bytes)(data))
    return path


def opened_log(source, **settings):
    return open_log(source, columns=DESCRIPTION, split="random", **settings)


def hash_of(name, value):
    data = value.encode() if isinstance(value, str) else value.to_bytes(8, "little", signed=True)
    return np.uint64(xxhash.xxh64_intdigest(data, xxhash.xxh64_intdigest(name.encode()))).astype(
        np.int64
    )


def same(got, expected):
    assert got.features == expected.features
    assert got.bounds == expected.bounds
    for name, values in expected.hashes.items():
        np.testing.assert_array_equal(got.hashes[name], values, err_msg=name)
    for name in ("labels", "times", "weights"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


FILES = (
    *("csv", "csv.gz", "csv.xz", "csv.bz2", "csv.zst", "jsonl", "jsonl.zst"),
    *("parquet", "feather", "arrow"),
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return opened_log(write(tmp_path_factory.mktemp("reference"), "csv"))


def test_hashes_are_those_of_the_values(reference):
    """Worked out from the typed rows with the package xxhash, not with the project's reader."""
    log = open_log(arrow_table(), columns=DESCRIPTION | {"split": "time"})
    ordered = sorted(rows(), key=lambda row: row["ts"])
    assert sorted(log.times.tolist()) == [int(row["ts"].timestamp()) for row in ordered]
    table = list(rows())
    by_time = {int(row["ts"].timestamp()): row for row in table}
    for n in range(0, ROWS, 7):
        row = by_time[int(log.times[n])]
        user = 0 if row["user"] is None else hash_of("user", row["user"])
        assert log.hashes["user"][n] == user
        assert log.hashes["item"][n] == (0 if row["item"] is None else hash_of("item", row["item"]))
        assert log.hashes["shown_hour"][n] == hash_of("shown_hour", row["ts"].hour)
        assert log.hashes["shown_weekday"][n] == hash_of("shown_weekday", row["ts"].weekday())
        assert log.hashes["shown_day"][n] == hash_of("shown_day", row["ts"].day)
        assert log.hashes["shown_month"][n] == hash_of("shown_month", row["ts"].month)
        delhi = (row["ts"].hour * 60 + row["ts"].minute + 330) // 60 % 24
        assert log.hashes["delhi_hour"][n] == hash_of("delhi_hour", delhi)
        genres = [hash_of("genres", value) for value in row["genres"][-3:]]
        assert log.hashes["genres"][n].tolist() == genres + [0] * (3 - len(genres))
        words = [hash_of("query", word) for word in row["query"].split(" ")[-4:]]
        assert log.hashes["query"][n].tolist() == words + [0] * (4 - len(words))
        price = log.hashes["price"][n : n + 1].view(np.float64)[0]
        assert math.isnan(price) if row["price"] is None else price == row["price"]
        mobile = 0 if row["mobile"] is None else hash_of("mobile", int(row["mobile"]))
        assert log.hashes["mobile"][n] == mobile
        assert (log.labels[n], log.weights[n]) == (row["click"], row["weight"])


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file(kind, tmp_path, reference):
    same(opened_log(write(tmp_path, kind)), reference)


@pytest.mark.parametrize(
    "table",
    [
        lambda: arrow_table(),
        lambda: arrow_table().to_batches(max_chunksize=11),
        lambda: iter(arrow_table().to_batches(max_chunksize=11)),
        lambda: pa.dataset.dataset(arrow_table()),
        lambda: arrow_table().to_reader(9),
        lambda: pl.from_arrow(arrow_table()),
        lambda: pd.DataFrame(list(rows())).astype({"item": "Int64", "mobile": "boolean"}),
    ],
    ids=["table", "batches", "iterator", "dataset", "reader", "polars", "pandas"],
)
def test_every_kind_of_table(table, reference):
    same(opened_log(table()), reference)


@pytest.mark.parametrize("kind", FILES)
def test_run_reads_the_log_as_training_did(kind, tmp_path, reference):
    path = write(tmp_path, kind)
    log = opened_log(path)
    features = log.features
    inputs = tuple(
        InputSpec(item.name, ("batch",) if item.length is None else ("batch", item.length))
        for item in features.fields
        if item.kind != "number"
    )
    model = SimpleNamespace(path=path, inputs=inputs, features=features)
    given = format_of(path.name)
    if given in ("parquet", "arrow"):
        batches = list(read_table(path, given, model, False, 32, ()))
    else:
        with opened(path, given, features) as source:
            batches = list(read_requests(source, given, model, False, 32))
    served = {
        item.name: np.concatenate([batch.ids[item.name] for batch in batches]) for item in inputs
    }
    trained = encoded(log, features).ids  # its rows are ordered by part
    order = np.lexsort([trained["item"], trained["user"], trained["shown_day"], log.times])
    assert len(order) == ROWS
    for name, ids in served.items():
        assert sorted(map(str, ids.tolist())) == sorted(map(str, trained[name].tolist())), name


def test_folders_globs_and_hive(tmp_path, reference):
    table = arrow_table()
    days = [("2026-10-01", table.slice(0, 100)), ("2026-10-02", table.slice(100))]
    for day, part in days:
        folder = tmp_path / "logs" / f"dt={day}"
        folder.mkdir(parents=True)
        pq.write_table(part, folder / "part-0.parquet")
    (tmp_path / "logs" / "_SUCCESS").write_text("")
    (tmp_path / "logs" / ".hidden.parquet").write_text("no file")
    same(opened_log(tmp_path / "logs"), reference)
    same(opened_log(str(tmp_path / "logs" / "*" / "*.parquet")), reference)
    same(opened_log([tmp_path / "logs" / f"dt={day}" for day, _ in days]), reference)
    first = opened_log(tmp_path / "logs", where="dt < 2026-10-02")
    assert len(first) == 100
    assert (
        len(opened_log(tmp_path / "logs", where="dt >= '2026-10-01' and dt != 2026-10-01")) == 140
    )
    described = DESCRIPTION | {"fields": DESCRIPTION["fields"] | {"dt": "string"}}
    log = open_log(tmp_path / "logs", columns=described, split="random")
    assert set(log.hashes["dt"].tolist()) == {hash_of("dt", day) for day, _ in days}
    for where, message in (
        ("dt > 2027", "no file meets"),
        ("day = 1", "names 'day'"),
        ("dt", "COLUMN >= VALUE"),
    ):
        with pytest.raises((DataError, InputError), match=message):
            opened_log(tmp_path / "logs", where=where)


def test_names_of_folders_are_decoded(tmp_path):
    for day in ("2026-10-01 12%3A00", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"dt={day}").mkdir()
        pq.write_table(arrow_table(), tmp_path / f"dt={day}" / "a.parquet")
    described = DESCRIPTION | {"fields": DESCRIPTION["fields"] | {"dt": "string"}}
    log = open_log(tmp_path, columns=described, split="random")
    assert set(log.hashes["dt"].tolist()) == {0, hash_of("dt", "2026-10-01 12:00")}


def test_unsigned_integers_keep_their_bits_beside_missing_ones():
    values = [2**63 + n % 7 for n in range(ROWS)]
    place = arrow_table().schema.get_field_index("item")
    logs = []
    for first in (values[0], None):
        column = pa.array([first, *values[1:]], pa.uint64())
        table = arrow_table().set_column(place, "item", column)
        logs.append(open_log(table, columns=DESCRIPTION, split="time"))
    differ = logs[0].hashes["item"] != logs[1].hashes["item"]
    assert differ.sum() == 1
    assert logs[1].hashes["item"][differ].tolist() == [0]


def test_names_in_lists_are_those_of_single_values():
    """Unsigned integers keep their bits within lists too, and bytes are texts."""
    numbers, words = [2**64 - 1, 7, 2**63, None], [b"ab", "\u00e9".encode(), b"", None]
    lists = pa.array([numbers] * 40, pa.list_(pa.uint64()))
    for bytes_type in (pa.binary(), pa.large_binary(), pa.binary_view()):
        table = pa.table(
            {
                "click": [n % 2 == 0 for n in range(40)],
                "moment": range(40),
                "numbers": lists,
                "fixed": pa.array([numbers] * 40, pa.list_(pa.uint64(), 4)),
                "words": pa.array([words] * 40, pa.list_(bytes_type)),
            }
        )
        kinds = {"numbers": "integer", "fixed": "integer", "words": "string"}
        fields = {name: {"kind": kind, "list": True} for name, kind in kinds.items()}
        columns = {"label": "click", "time": "moment", "fields": fields}
        log = open_log(table, columns=columns)
        for name, right in (
            ("numbers", [-1, 7, -(2**63)]),
            ("fixed", [-1, 7, -(2**63)]),
            ("words", ["ab", "\u00e9"]),
        ):
            hashes = [int(hash_of(name, value)) for value in right]
            found = log.hashes[name][0].tolist()
            assert [value for value in found if value] == hashes


def test_few_different_rows_are_not_split_at_random():
    table = pa.table({"click": [n % 2 for n in range(100)], "item": [n % 3 for n in range(100)]})
    with pytest.raises(DataError, match=r"keeps equal rows together.*hash:COLUMN"):
        open_log(table, columns={"label": "click", "fields": {"item": "integer"}})


def test_numbers_of_folders_are_compared_as_numbers(tmp_path):
    for hour in (9, 10):
        (tmp_path / f"hour={hour}").mkdir()
        pq.write_table(arrow_table(), tmp_path / f"hour={hour}" / "a.parquet")
    assert len(opened_log(tmp_path, where="hour >= 10")) == ROWS


BAD_TABLES = [
    (
        "click",
        pa.array([2] * ROWS),
        "row 1.*column 'click': expected the label 0 or 1, got int64 2",
    ),
    ("click", pa.array([None] * ROWS, pa.int64()), "column 'click'.*expected the label"),
    ("user", pa.array([5] * ROWS), "column 'user': expected strings, got int64 5"),
    ("item", pa.array([1.5] * ROWS), "column 'item': expected integers, got float64"),
    ("item", pa.array([True] * ROWS), "column 'item': expected integers, got bool True"),
    ("price", pa.array([["a"]] * ROWS), "column 'price': expected numbers, got list"),
    ("price", pa.array([{"a": 1}] * ROWS), "column 'price': columns of type struct<a: int64> are"),
    ("ts", pa.array(["yesterday"] * ROWS), "column 'ts': expected a time as YYYY"),
    ("ts", pa.array([5] * ROWS), "column 'ts': expected a time as YYYY-MM-DD"),
    ("weight", pa.array([0.0] * ROWS), "column 'weight': expected a weight above 0"),
    ("weight", pa.array([None] * ROWS, pa.float64()), "column 'weight': expected a weight above 0"),
    ("genres", pa.array([[1]] * ROWS), "column 'genres': expected strings, got int 1"),
    ("mobile", pa.array(["maybe"] * ROWS), "column 'mobile': expected true, false, 1 or 0"),
]


@pytest.mark.parametrize(("column", "values", "message"), BAD_TABLES)
def test_bad_values_name_file_row_and_column(column, values, message, tmp_path):
    table = arrow_table()
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, values), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message) as caught:
        opened_log(tmp_path)
    assert "a.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_and_changed_files(tmp_path):
    whole = write(tmp_path, "parquet").read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("head", b"PAR1"), ("text", b"a,b\n")):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.parquet: cannot be read as Parquet"):
            opened_log(path)
    (tmp_path / "cut.csv.zst").write_bytes(write(tmp_path, "csv.zst").read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged or truncated after line"):
        opened_log(tmp_path / "cut.csv.zst")
    other = tmp_path / "days"
    other.mkdir()
    pq.write_table(arrow_table(), other / "1.parquet")
    pq.write_table(arrow_table().drop_columns(["item"]), other / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet: no column 'item'"):
        opened_log(other)
    pq.write_table(arrow_table().slice(0, 0), other / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet: no rows"):
        opened_log(other)
    pq.write_table(arrow_table().append_column("extra", pa.array([1] * ROWS)), other / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet: neither field, label nor ignored: 'extra'"):
        opened_log(other)


def test_bad_rows_are_left_out_up_to_a_limit(tmp_path, reference):
    lines = csv_bytes().decode().splitlines()
    bad = [lines[1].replace("e15", "x"), "1,2", lines[1].replace("2026-10-01", "2026-13-01"), '"a']
    path = tmp_path / "log.csv"
    path.write_text("\n".join([*lines, bad[1], bad[2]]) + "\n", "utf-8")
    with pytest.raises(DataError, match=f"line {ROWS + 2}"):
        opened_log(path)
    counted = BadRows(2)
    log = opened_log(path, bad_rows=counted)
    same(log, reference)
    assert (counted.count, log.refused) == (2, 2)
    assert any("columns" in text for text in counted.faults)
    assert any("column 'ts'" in text for text in counted.faults)
    with pytest.raises(DataError, match=r"more than 1 bad rows: .*line"):
        opened_log(path, bad_rows="skip:1")
    objects = write(tmp_path, "jsonl")
    objects.write_bytes(objects.read_bytes() + b'{"click": 1}\nnonsense\n')
    same(opened_log(objects, bad_rows="skip:2"), reference)
    with pytest.raises(InputError, match="skip:N"):
        opened_log(path, bad_rows="2")


def test_the_cache_is_mapped_and_follows_its_source(tmp_path, reference):
    path, cache = write(tmp_path, "csv"), tmp_path / "cache"
    same(opened_log(path, cache=cache), reference)
    (file,) = cache.iterdir()
    before = file.stat().st_mtime_ns
    same(opened_log(path, cache=cache), reference)
    assert file.stat().st_mtime_ns == before
    assert pa.ipc.open_file(pa.memory_map(str(file))).num_record_batches == 1
    file.write_bytes(file.read_bytes()[:500])  # damaged: written anew
    same(opened_log(path, cache=cache), reference)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert len(opened_log(path, cache=cache)) == ROWS - 1
    open_log(path, columns=DESCRIPTION, split="hash:user", cache=cache)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
@pytest.mark.parametrize("rule", ["random", "hash:user", "hash:item,user", "time"])
def test_splits_do_not_depend_on_partitions_or_order(rule, order, tmp_path):
    table = arrow_table()
    shuffled = table.take(np.arange(ROWS)[order])
    for number, start in enumerate(range(0, ROWS, 37)):
        pq.write_table(shuffled.slice(start, 37), tmp_path / f"{number}.parquet")
    one = open_log(table, columns=DESCRIPTION, split=rule)
    many = open_log(tmp_path, columns=DESCRIPTION, split=rule)
    for whole, parts in zip(split(one), split(many), strict=True):
        assert sorted(whole.times.tolist()) == sorted(parts.times.tolist())
    if rule == "time":
        train, validation, test = split(one)
        assert train.times.max() < validation.times.min() <= validation.times.max()
        assert validation.times.max() < test.times.min()
    if rule == "hash:user":
        users = [set(part.hashes["user"].tolist()) for part in split(one)]
        assert not users[0] & users[1]
        assert not users[0] & users[2]


def test_split_by_dates_and_by_names(tmp_path):
    dates = {"by": "time", "validation_from": "2026-11-01", "test_from": "2026-12-01"}
    train, validation, test = split(open_log(arrow_table(), columns=DESCRIPTION | {"split": dates}))
    assert [len(part) for part in (train, validation, test)] == [80, 80, 80]
    for name, rows_of in (("train", 100), ("valid", 60), ("test", 80)):
        pq.write_table(arrow_table().slice(0, rows_of), tmp_path / f"{name}-0.parquet")
    parts = split(open_log(tmp_path, columns=DESCRIPTION, split="folders"))
    assert [len(part) for part in parts] == [100, 60, 80]
    pq.write_table(arrow_table(), tmp_path / "more.parquet")
    with pytest.raises(DataError, match=r"more\.parquet: a split by folders needs"):
        open_log(tmp_path, columns=DESCRIPTION, split="folders")


def test_logs_that_cannot_be_split():
    table = arrow_table()
    one_day = table.set_column(
        table.schema.get_field_index("ts"), "ts", pa.array([datetime(2026, 1, 1)] * ROWS)
    )
    with pytest.raises(DataError, match="needs different moments"):
        open_log(one_day, columns=DESCRIPTION)
    no_click = table.set_column(
        table.schema.get_field_index("click"), "click", pa.array([0] * ROWS)
    )
    with pytest.raises(DataError, match=r"label column 'click' is 0 in all .* rows; both"):
        opened_log(no_click)
    without_time = {key: value for key, value in DESCRIPTION.items() if "time" not in key}
    with pytest.raises(SpecError, match="time = NAME"):
        open_log(table, columns=without_time | {"split": "time", "ignore": ["ts"]})
    for wrong in ("halves", "time:ts", "hash", "hash:"):
        with pytest.raises(SpecError, match="split"):
            open_log(table, columns=DESCRIPTION, split=wrong)


def test_several_labels(tmp_path):
    table = arrow_table().append_column("stars", pa.array([n % 5 for n in range(ROWS)]))
    columns = {key: value for key, value in DESCRIPTION.items() if key != "label"}
    columns["labels"] = ["click", {"column": "stars", "at_least": 4}]
    log = open_log(table, columns=columns, split="random")
    assert log.label_names == ("click", "stars")
    assert log.labels.shape == (ROWS, 2)
    assert log.labels.sum(axis=0).tolist() == [96.0, 48.0]


def test_what_a_log_is_not():
    for wrong in (5, {"a": [1]}, [1, 2], [], np.zeros(3)):
        with pytest.raises((InputError, DataError), match=r"a log is a path|no files"):
            opened_log(wrong)
