"""The golden cells have the same IDs in training, in CSV, in JSON lines and in Python."""

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ondevice.cells import Cells
from ondevice.delimited import COMMAS
from ondevice.errors import DataError, InputError, SpecError
from ondevice.features import FeatureSpec
from ondevice.info import InputSpec
from ondevice.models.data.builder import LogBuilder
from ondevice.models.data.columns import LabelRule, rule, zero_one
from ondevice.models.data.hashed import encoded
from ondevice.models.data.rows import read_rows
from ondevice.requests import read_requests

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "cells.json").read_text("utf-8"))
FEATURES = FeatureSpec.from_json(GOLDEN["features"])
TEXTS = [case for case in GOLDEN["cases"] if case["type"] == "text"]
# What a log's column may be: no sequence (a history is made of single values), no ready IDs.
SINGLE = [
    case
    for case in TEXTS
    if FEATURES[case["field"]].length is None and FEATURES[case["field"]].encoding != "id"
]
named = pytest.mark.parametrize


def label_of(case):
    return f"{case['field']}-{case['type']}-{str(case['value'])[:12]!a}"


def value_of(kind, value):
    """The Python value of a golden case."""
    if kind == "list":
        return [value_of(*item) for item in value]
    return {"nan": math.nan, "infinity": math.inf}.get(kind, value)


def shaped(case):
    field = FEATURES[case["field"]]
    return case["ids"] if field.length is None else [case["ids"]]


def served(case, text, text_format):
    """The IDs that `ondevice run` reads from the text."""
    field = FEATURES[case["field"]]
    shape = ("batch",) if field.length is None else ("batch", field.length)
    model = SimpleNamespace(
        path=Path("m.odm"), inputs=(InputSpec(field.name, shape),), features=FeatureSpec((field,))
    )
    (batch,) = read_requests(io.StringIO(text, newline=""), text_format, model, False, 10)
    return batch.ids[field.name].tolist()


def csv_text(name, cell):
    text = io.StringIO()
    csv.writer(text).writerows([["click", name], [1, cell]])
    return text.getvalue()


def same_or_refused(case, ids):
    """Check the IDs that `ids` returns, or its refusal."""
    if case["ids"] is not None:
        assert ids() == shaped(case)
        return
    with pytest.raises((InputError, DataError), match=case["field"]):
        ids()


def trained(case, folder):
    """The IDs that the training side gives one row of a log."""
    field = FEATURES[case["field"]]
    path = folder / "log.csv"
    path.write_text(csv_text(field.name, case["value"]), encoding="utf-8", newline="")
    of_field = rule(field.name, field.kind, field.cells)
    builder = LogBuilder(FeatureSpec((of_field.field,)))
    for chunk in read_rows(path, COMMAS):
        builder.add_chunk(chunk, [of_field], LabelRule("click", zero_one))
    return encoded(builder.build("log"), FeatureSpec((field,))).ids[field.name].tolist()


@named("case", SINGLE, ids=label_of)
def test_training(case, tmp_path):
    same_or_refused(case, lambda: trained(case, tmp_path))


@named("case", TEXTS, ids=label_of)
def test_csv_requests(case):
    same_or_refused(case, lambda: served(case, csv_text(case["field"], case["value"]), "csv"))


@named("case", GOLDEN["cases"], ids=label_of)
def test_json_lines(case):
    value = value_of(case["type"], case["value"])
    line = json.dumps({case["field"]: value}) + "\n"
    same_or_refused(case, lambda: served(case, line, "jsonl"))


@named("case", GOLDEN["cases"], ids=label_of)
def test_python_values(case):
    value = value_of(case["type"], case["value"])
    same_or_refused(case, lambda: FEATURES.encode({case["field"]: [value]})[case["field"]].tolist())


def test_numpy_scalars_and_arrays_are_read_as_python_values():
    count, price, word = FEATURES["count"], FEATURES["price"], FEATURES["word"]
    expected = count.encode([7, None, 5]).tolist()
    assert count.encode([np.int32(7), np.float32("nan"), np.uint8(5)]).tolist() == expected
    assert count.encode(np.array([7, np.nan, 5], dtype=object)).tolist() == expected
    assert count.encode(np.array(["007", "NA", "+5"])).tolist() == expected
    assert price.encode([np.float32(0.5), np.float64("nan"), np.int8(1)]).tolist() == [4, 1, 5]
    assert word.encode(np.array(["NA", "a"])).tolist() == word.encode([None, "a"]).tolist()
    for wrong in (np.bool_(True), np.float64(3.0), np.timedelta64(3, "s"), np.datetime64("NaT")):
        with pytest.raises(InputError, match="expected integers"):
            count.encode([wrong])


@named(
    ("name", "cell", "expected"),
    [
        ("count", "", 0),
        ("count", " 10\n", 10),
        ("count", "007", 7),
        ("count", "NA", None),
        ("count", "1_0", None),
        ("price", " 0.5", 4),
        ("price", "nan", 1),
        ("price", "-Infinity", 2),
        ("price", "1e400", 6),
        ("price", "\u0663", None),
        ("word", "NA", "NA"),
        ("word", "", 0),
    ],
)
def test_a_file_without_cells_is_read_as_before(name, cell, expected):
    item = next(item for item in GOLDEN["features"] if item["name"] == name)
    old = FeatureSpec.from_json([{key: item[key] for key in item if key != "cells"}])[name]
    assert old.cells is None
    model = SimpleNamespace(
        path=Path("m.odm"), inputs=(InputSpec(name, ("batch",)),), features=FeatureSpec((old,))
    )

    def ids():
        source = io.StringIO(csv_text(name, cell), newline="")
        return next(read_requests(source, "csv", model, False, 10)).ids[name].tolist()

    if expected is None:
        with pytest.raises(InputError, match=f"line 2: field '{name}': expected a"):
            ids()
        return
    is_value = name != "price" and expected != 0
    assert ids() == (old.encode([expected]).tolist() if is_value else [expected])
    if name != "word":
        with pytest.raises(InputError, match=r"expected (integers|numbers), got str"):
            old.encode([cell])


@named(
    "cells",
    [
        {"missing": "NA"},
        {"missing": [1]},
        {"missing": None},
        {},
        [],
        {"missing": [], "separator": ""},
        {"missing": [], "separator": 1},
        {"missing": [], "column": ""},
        {"missing": [], "loose": True},
        {"missing": [], "part": "minute"},
    ],
)
def test_unsound_cells_in_a_file_are_refused(cells):
    with pytest.raises(SpecError, match="cells"):
        FeatureSpec.from_json([{**GOLDEN["features"][0], "cells": cells}])


def test_json_keeps_cells_and_the_layout_of_the_log():
    again = FeatureSpec.from_json(json.loads(json.dumps(FEATURES.to_json())))
    assert [field.cells for field in again.fields] == [field.cells for field in FEATURES.fields]
    assert FeatureSpec.from_json(FEATURES.to_json()).to_json() == FEATURES.to_json()
    assert FeatureSpec().to_json() == []
    assert Cells.from_json(Cells(("",), ";", "c").to_json()) == Cells(("",), ";", "c")
