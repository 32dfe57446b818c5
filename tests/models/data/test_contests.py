"""Criteo and Avazu files: parts of a folder, header or none, missing values, the hour."""

import numpy as np
import pytest
from support.data import write

from ondevice.errors import DataError
from ondevice.models.data import avazu_log, criteo_log
from ondevice.models.data.contests import AVAZU_COLUMNS, CRITEO_COLUMNS


def criteo_row(label="1", **cells):
    return "\t".join(cells.get(name, "") for name in CRITEO_COLUMNS).replace("", label, 1) + "\n"


def avazu_row(**cells):
    values = dict.fromkeys(AVAZU_COLUMNS, "1") | {"hour": "14102123"} | cells
    return ",".join(values[name] for name in AVAZU_COLUMNS) + "\n"


def test_criteo_missing_values_and_kinds(tmp_path):
    log = criteo_log(write(tmp_path / "train.txt", criteo_row("0", I2="-3", C26='"05db')))
    assert log.labels.tolist() == [0.0]
    assert len(log.hashes) == 39
    numbers = {f"I{n}": log.hashes[f"I{n}"].view(np.float64)[0] for n in range(1, 14)}
    assert numbers.pop("I2") == -3.0
    assert np.isnan(list(numbers.values())).all()
    present = {
        name: hashes[0]
        for name, hashes in log.hashes.items()
        if hashes[0] != 0 and not name.startswith("I")
    }
    assert present == {
        "C26": log.features["C26"].encode(['"05db'])[0],  # quotes mean nothing in this file
    }


def test_parts_of_a_folder_are_one_log(tmp_path):
    write(tmp_path / "train.tsv", criteo_row("1") * 2)
    write(tmp_path / "test.tsv", criteo_row("0"))
    assert criteo_log(tmp_path).labels.tolist() == [1, 1]  # a contest's test has no labels
    write(tmp_path / "dev.tsv.gz", criteo_row("0") * 2)
    assert criteo_log(tmp_path).labels.tolist() == [1, 1, 0, 0, 0]
    assert criteo_log(tmp_path, max_rows=3).labels.tolist() == [1, 1, 0]
    assert criteo_log(tmp_path, max_rows=2).labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (criteo_row(I7="1,5"), "line 2, column 'I7': expected a number, got '1,5'"),
        (criteo_row("?"), "line 2, column 'label'"),
        ("1\t2\n", "line 2: expected 40 columns, got 2: nothing for column 'I2'"),
    ],
)
def test_criteo_faults(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        criteo_log(write(tmp_path / "a.tsv", criteo_row() + row))


def test_avazu_header_is_optional_file_by_file(tmp_path):
    write(tmp_path / "train.csv", ",".join(AVAZU_COLUMNS) + "\n" + avazu_row(click="1"))
    write(tmp_path / "dev.csv", avazu_row(click="0", id="10000169349117863715"))
    write(tmp_path / "test.csv", avazu_row(click="0", hour="14102500", C20="-1"))
    log = avazu_log(tmp_path)
    assert log.labels.tolist() == [1, 0, 0]
    assert "id" not in log.hashes and "click" not in log.hashes
    assert len(log.hashes) == len(AVAZU_COLUMNS) - 1  # no id, no click, and the weekday
    hour, weekday, c20 = (log.features[name] for name in ("hour", "weekday", "C20"))
    assert log.hashes["hour"].tolist() == hour.encode([23, 23, 0]).tolist()
    # 21 October 2014 was a Tuesday, the 25th a Saturday
    assert log.hashes["weekday"].tolist() == weekday.encode([1, 1, 5]).tolist()
    assert log.hashes["C20"].tolist() == c20.encode([1, 1, -1]).tolist()


@pytest.mark.parametrize("hour", ["14102124", "14133100", "2014102", "1410212x", ""])
def test_avazu_bad_hours(tmp_path, hour):
    with pytest.raises(DataError, match="line 1, column 'hour': expected an hour as YYMMDDHH"):
        avazu_log(write(tmp_path / "a.csv", avazu_row(hour=hour)))


def test_missing_files_are_listed(tmp_path):
    with pytest.raises(DataError, match=r"looked for train.csv, train.csv.gz, .*train, train.gz"):
        avazu_log(tmp_path)
    write(tmp_path / "train.csv", avazu_row())
    write(tmp_path / "dev.csv", avazu_row())
    with pytest.raises(DataError, match=r"looked for test\.csv"):
        avazu_log(tmp_path)
