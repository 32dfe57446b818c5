"""A log in parts: any number of them, in any order, gives the same counts, hashes and scores."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.logs_in_parts import (
    COLUMNS_TOML,
    DESCRIPTION,
    ROWS,
    columns,
    convert_model,
    write_parts,
)

import ondevice
from ondevice.cli import main
from ondevice.errors import DataError, InputError
from ondevice.models.data import BadRows, Reading, SplitRule, encode, read_log, split
from ondevice.models.data.cache import save_log
from ondevice.models.data.log_source import log_files
from ondevice.models.scale.batches import count_batches, encode_batches, score_batches
from ondevice.models.scale.counts import SHARES, summed
from ondevice.models.scale.engines import run_locally
from ondevice.models.scale.fragments import fragments_of
from ondevice.models.scale.jobs import encoded_log, statistics
from ondevice.models.scale.tasks import CountTask, ScoreTask

PARTS = (1, 2, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def parts(folder):
    """The paths of the log in 1, 2 and 7 files."""
    return {number: write_parts(folder / str(number), number) for number in PARTS}


@pytest.fixture(scope="module")
def model(folder, parts):
    return convert_model(parts[1], folder / "model")


def test_statistics_are_those_of_the_values(parts):
    values = columns()
    counted = statistics(log_files(parts[7]), DESCRIPTION, 0, run_locally).to_json()
    assert counted["rows"] == ROWS and counted["refused"] == 0
    assert counted["labels"] == {
        "click": {"rows": sum(values["click"]), "rate": sum(values["click"]) / ROWS}
    }
    for name in ("user", "item", "tags"):
        cells = values[name] if name != "tags" else [tag for row in values[name] for tag in row]
        occur = Counter(cell for cell in cells if cell is not None)
        missing = sum(cell is None or cell == [] for cell in values[name])
        assert counted["fields"][name] == {
            "kind": DESCRIPTION.fields[name].kind,
            "missing": missing,
            "missing_share": missing / ROWS,
            "distinct": len(occur),
            "once": sum(count == 1 for count in occur.values()),
        }
    prices = [price for price in values["price"] if price is not None and np.isfinite(price)]
    ordered = sorted(prices)
    expected = [ordered[int(np.ceil(share * (len(prices) - 1)))] for share in SHARES]
    price = counted["fields"]["price"]
    assert list(price["quantiles"].values()) == expected
    assert price["infinite"] == 1 and price["missing"] == ROWS - len(prices) - 1


def test_statistics_do_not_depend_on_the_parts(parts):
    texts = {
        json.dumps(statistics(log_files(paths), DESCRIPTION, 0, run_locally).to_json())
        for paths in parts.values()
    }
    assert len(texts) == 1


def test_tables_of_counts_add_up_in_any_order(parts):
    pieces = fragments_of(log_files(parts[7]), rows=40)
    assert len(pieces) > 10
    tables = [CountTask(DESCRIPTION)(piece).table for piece in pieces]
    forward, backward = summed(tables), summed(reversed(tables))
    halves = summed([summed(tables[:4]), summed(tables[4:])])
    assert forward.equals(backward) and forward.equals(halves)
    keys = list(
        zip(*(forward.column(n).to_pylist() for n in ("column", "what", "key")), strict=True)
    )
    assert keys == sorted(set(keys))
    assert forward.equals(CountTask(DESCRIPTION)(log_files(parts[1])[0]).table)


def test_the_encoded_log_is_the_one_that_is_read(parts, tmp_path):
    features = set()
    for number, paths in parts.items():
        rule = SplitRule("random")
        files = [tmp_path / f"{number} {name}" for name in ("read", "encoded")]
        save_log(files[0], read_log(paths, DESCRIPTION, name="log", split=rule))
        log = encoded_log("log", log_files(paths), DESCRIPTION, rule, 0, run_locally)
        save_log(files[1], log)
        assert files[0].read_bytes() == files[1].read_bytes()
        splits = encode(*split(log), vocabulary_fields=["user", "item", "tags"])
        features.add(json.dumps(splits.train.features.to_json()))
    assert len(features) == 1  # vocabularies and boundaries


def test_texts_of_keys_are_those_that_are_read(parts):
    for key in ("item", "request", "price"):
        description = DESCRIPTION.with_keys([key])
        log = read_log(parts[7], description, name="log")
        again = encoded_log("log", log_files(parts[7]), description, None, 0, run_locally)
        assert list(log.key_texts[key].items()) == list(again.key_texts[key].items())
        assert np.array_equal(log.keys[key], again.keys[key])


def test_train_maps_what_encode_left(parts, tmp_path, monkeypatch, capsys):
    columns_file = tmp_path / "columns.toml"
    columns_file.write_text(COLUMNS_TOML)
    paths = list(map(str, parts[2]))
    out = tmp_path / "encoded"
    assert main(["encode", *paths, "--columns", str(columns_file), "--out", str(out)]) == 0
    assert "700 impressions" in capsys.readouterr().out
    (written,) = out.iterdir()
    before = written.stat()
    options = ["--data", "log", "--path", *paths, "--columns", str(columns_file)]
    options += ["--cache", str(out), "--epochs", "1", "--widths", "whole"]
    assert main(["train", "dnn", *options, "--out", str(tmp_path / "checkpoint")]) == 0
    assert list(out.iterdir()) == [written] and written.stat() == before


def test_row_groups_are_read_in_pieces(parts):
    (file,) = log_files(parts[1])
    pieces = fragments_of([file], rows=100)
    assert [piece.groups for piece in pieces] == [
        (start, min(start + 3, 18)) for start in range(0, 18, 3)
    ]
    assert fragments_of([file]) == [file]
    task = CountTask(DESCRIPTION)
    assert summed(task(piece).table for piece in pieces).equals(task(file).table)


def test_a_bad_row_of_a_later_row_group_is_named(tmp_path):
    values = columns()
    values["item"] = [str(item) for item in values["item"]]
    values["item"][130] = "x"
    (path,) = write_parts(tmp_path, 1, values)
    pieces = fragments_of(log_files(path), rows=40)
    description = DESCRIPTION.from_dict(
        {
            "label": "click",
            "fields": {"item": {"kind": "integer", "missing": ["None"]}},
            "ignore": ["*"],
        }
    )
    with pytest.raises(DataError, match=r"row 131 of row group 3, column 'item': .*'x'"):
        list(run_locally(CountTask(description), pieces))


def test_bad_rows_of_all_parts_count_together(tmp_path):
    values = columns()
    for row in (3, 400, 690):
        values["click"][row] = 7
    paths = write_parts(tmp_path, 3, values)
    counted = statistics(log_files(paths), DESCRIPTION, 3, run_locally)
    assert (counted.rows, counted.refused) == (ROWS - 3, 3)
    reading = Reading(bad_rows=BadRows(3))
    log = read_log(paths, DESCRIPTION, name="log", reading=reading)
    again = encoded_log("log", log_files(paths), DESCRIPTION, None, 3, run_locally)
    assert again.refused == 3
    assert all(np.array_equal(log.hashes[name], again.hashes[name]) for name in log.hashes)
    for job in (
        lambda: statistics(log_files(paths), DESCRIPTION, 2, run_locally),
        lambda: encoded_log("log", log_files(paths), DESCRIPTION, None, 2, run_locally),
    ):
        with pytest.raises(DataError, match=r"more than 2 bad rows: .*column 'click'"):
            job()


def test_functions_of_batches_do_what_the_tasks_do(parts):
    table = pq.read_table(parts[1][0])
    cuts = [table.slice(start, 90).combine_chunks().to_batches()[0] for start in range(0, 700, 90)]
    counted = [batch for cut in cuts for batch in count_batches([cut], DESCRIPTION)]
    expected = CountTask(DESCRIPTION)(log_files(parts[1])[0]).table
    assert summed([pa.Table.from_batches(counted)]).equals(expected)
    hashed = pa.Table.from_batches(list(encode_batches(cuts, DESCRIPTION)))
    log = read_log(table, DESCRIPTION)
    assert hashed.column("labels").to_pylist() == log.labels.tolist()
    for name, values in log.hashes.items():
        column = hashed.column(f"field {name}")
        assert column.to_pylist() == values.tolist()


def test_scores_are_those_of_predict_in_any_parts(parts, model, tmp_path, capsys):
    values = columns()
    raw = {name: values[name] for name in ("user", "item", "price")}
    expected = ondevice.load(model).predict(raw, raw=True)
    by_request = dict(zip(values["request"], expected, strict=True))
    for number, paths in parts.items():
        out = tmp_path / str(number)
        arguments = ["score", str(model), *map(str, paths), "--keep", "request,item"]
        assert main([*arguments, "--out", str(out)]) == 0
        assert "700 rows scored" in capsys.readouterr().out
        files = sorted(out.iterdir())
        assert [path.name for path in files] == [f"part-{n:05}.parquet" for n in range(number)]
        scored = pa.concat_tables(map(pq.read_table, files))
        assert scored.column_names == ["request", "item", "score"]
        assert scored.schema.types == [pa.string(), pa.int64(), pa.float32()]
        order = pa.concat_tables(pq.read_table(path) for path in paths)
        assert scored.column("request").equals(order.column("request"))
        scores = scored.column("score").to_numpy()
        wanted = [by_request[name] for name in scored.column("request").to_pylist()]
        assert scores.tobytes() == np.array(wanted, np.float32).tobytes()


def test_scores_of_batches_and_of_row_groups(parts, model):
    table = pq.read_table(parts[1][0])
    loaded = ondevice.load(model)
    scored = pa.Table.from_batches(list(score_batches(table.to_batches(), loaded, ["request"])))
    pieces = fragments_of(log_files(parts[1]), rows=100)
    task = ScoreTask.of(model, ["request"])
    assert pa.concat_tables(task(piece).table for piece in pieces).equals(scored)


def test_a_worker_with_another_model_scores_nothing(parts, model, tmp_path):
    copy = tmp_path / "model.odm"
    copy.write_bytes(model.read_bytes())
    task = ScoreTask.of(copy)
    other = convert_model(parts[1], tmp_path / "other", seed=1)
    copy.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="a worker sees another one"):
        task(log_files(parts[1])[0])
    scores = [
        ScoreTask.of(path)(log_files(parts[1])[0]).table.column("score")
        for path in (model, other, model)
    ]
    assert scores[0] == scores[2] != scores[1]


def test_a_folder_names_a_column(model, tmp_path):
    values = {name: column[:20] for name, column in columns().items()}
    whole = pa.table(values)
    for user in ("u1", "u4"):
        path = tmp_path / "days" / f"user={user}" / "a.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(whole.drop_columns(["user"]), path)
    results = run_locally(ScoreTask.of(model, ["user"]), log_files(tmp_path / "days"))
    raw = {"item": values["item"], "price": values["price"]}
    for user, result in zip(("u1", "u4"), results, strict=True):
        expected = ondevice.load(model).predict(raw | {"user": [user] * 20}, raw=True)
        assert result.table.column("score").to_pylist() == expected.tolist()
        assert result.table.column("user").to_pylist() == [user] * 20


def test_faults_of_score_leave_nothing(parts, model, tmp_path, capsys):
    out = tmp_path / "scores"
    bad = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"user": ["a"], "item": ["x"], "price": [1.0]}), bad)
    for paths, message in (
        ([bad], "bad.parquet: row 1: field 'item'"),
        ([parts[2][0], tmp_path / "gone"], "gone: no such file"),
        ([tmp_path / "log.csv"], "only Parquet"),
    ):
        (tmp_path / "log.csv").write_text("user,item,price\n")
        assert main(["score", str(model), *map(str, paths), "--out", str(out)]) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"bad.parquet", "log.csv"}
    good = ["score", str(model), str(parts[2][0]), "--out", str(out)]
    assert main([*good, "--keep", "none"]) == 1
    assert "--keep none: the file has" in capsys.readouterr().err
    assert main(good) == 0
    assert main(good) == 1
    assert "add --force" in capsys.readouterr().err
    assert main([*good, "--force"]) == 0
    (out / "note.txt").touch()
    assert main([*good, "--force"]) == 1
    assert "it holds note.txt" in capsys.readouterr().err


def test_options_of_ray_need_ray(parts, tmp_path, capsys):
    columns_file = tmp_path / "columns.toml"
    columns_file.write_text(COLUMNS_TOML)
    arguments = ["stats", str(parts[1][0]), "--columns", str(columns_file)]
    assert main([*arguments, "--workers", "2"]) == 1
    assert "--workers need --engine ray" in capsys.readouterr().err
    assert main([*arguments, "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["rows"] == ROWS
    assert "700 rows" in capsys.readouterr().out
    assert main([*arguments, "--engine", "ray", "--workers", "0"]) == 1
    assert "--workers must be at least 1" in capsys.readouterr().err


def test_a_log_whose_rows_are_all_refused_is_an_error(tmp_path):
    values = columns()
    values["click"] = [2] * ROWS
    files = log_files(write_parts(tmp_path, 2, values))
    with pytest.raises(DataError, match="no row of the log can be read"):
        statistics(files, DESCRIPTION, ROWS, run_locally)
