"""open_log: data sets by name, and the faults of asking wrongly."""

import numpy as np
import pytest
from support.data import provenance, real_data, write

from ondevice.errors import DataError, InputError, SpecError
from ondevice.models.data import (
    DATASETS,
    LogDescription,
    cardinalities,
    open_log,
    split,
    synthetic_log,
)


def test_csv_by_name(tmp_path):
    path = write(tmp_path / "a.csv", "click,user\n1,7\n0,8\n")
    description = {"label": "click", "fields": {"user": "integer"}}
    toml = write(tmp_path / "a.toml", 'label = "click"\nfields = {user = "integer"}\n')
    logs = [
        open_log("csv", path, columns=form)
        for form in (description, toml, LogDescription.from_dict(description))
    ]
    expected = logs[0].features["user"].encode([7, 8]).tolist()
    assert [log.hashes["user"].tolist() for log in logs] == [expected] * 3
    assert len(open_log("csv", path, columns=description, max_rows=1)) == 1


def test_synthetic_by_name():
    log = open_log("synthetic", seed=3, max_rows=1000)
    assert np.array_equal(log.labels, synthetic_log(1000, seed=3).labels)
    assert len(log) == 1000


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("movielens", {}, "unknown data set 'movielens'.*synthetic, ml1m, .*csv"),
        ("ml1m", {}, "give their path .*synthetic, ml1m"),
        ("csv", {"path": "a.csv"}, "'csv' needs a description"),
        ("log", {"path": "a.csv"}, "'log' needs a description"),
        ("ml1m", {"columns": {"label": "a"}, "where": "a = 1"}, "--columns and --where go with"),
        ("synthetic", {"split": "time"}, "--split goes with --data log"),
        ("synthetic", {"max_rows": 0}, "max_rows"),
    ],
)
def test_asking_wrongly(name, settings, message):
    with pytest.raises(InputError, match=message):
        open_log(name, **settings)


def test_wrong_paths(tmp_path):
    with pytest.raises(InputError, match=f"drawn, not read; got the path {tmp_path}: .*--data log"):
        open_log("synthetic", tmp_path)
    for name in set(DATASETS) - {"synthetic", "csv", "log"}:
        with pytest.raises(DataError, match="looked for"):
            open_log(name, tmp_path)
        with pytest.raises(DataError, match="absent"):
            open_log(name, tmp_path / "absent")
    with pytest.raises(SpecError, match="expected an object"):
        open_log("csv", tmp_path / "a.csv", columns=[])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("ml1m", "ml1m"), ("ml-latest-small", "ml_latest_small"), ("epinions", "epinions")],
)
def test_real_rating_logs_match_their_provenance(name, folder):
    path = real_data(folder)
    facts = provenance(path)
    log = open_log(name, path)
    assert len(log) == facts["rows"]
    assert log.labels.mean() == pytest.approx(facts["positive_rate"], abs=1e-4)
    # provenance counts a missing value (the year of ml_latest_small) as one of the distinct ones
    sizes = {
        field: size + int((log.hashes[field] == 0).any())
        for field, size in cardinalities(log).items()
    }
    assert sizes == {field: item["distinct"] for field, item in facts["per_field"].items()}
    assert [len(part) for part in split(log)] == [
        *(int(len(log) * 0.8), int(len(log) * 0.9) - int(len(log) * 0.8)),
        len(log) - int(len(log) * 0.9),
    ]


@pytest.mark.parametrize(
    ("name", "folder", "fields"), [("criteo", "criteo_7k6", 39), ("avazu", "avazu_8k9", 23)]
)
def test_real_contest_logs_match_their_provenance(name, folder, fields):
    path = real_data(folder)
    facts = provenance(path)
    log = open_log(name, path)
    assert len(log) == facts["rows"]
    assert len(log.hashes) == fields
    if "positive_rate" in facts:
        assert log.labels.mean() == pytest.approx(facts["positive_rate"], abs=1e-3)
    if name == "avazu":  # one hour of one Tuesday, 14102100
        assert cardinalities(log)["hour"] == cardinalities(log)["weekday"] == 1
        weekday = log.features["weekday"].encode([1])[0]
        assert (log.hashes["weekday"] == weekday).all()
