"""Columns of raw values: the golden cells together, every container, faults at their position."""

import json
import math
import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.runtime import write_small_model

import ondevice
from ondevice import hashing
from ondevice.cells import Cells
from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.hashing import hash_string, xxh64
from ondevice.times import EARLIEST, LATEST

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cells.json").read_text("utf-8"))
FEATURES = FeatureSpec.from_json(GOLDEN["features"])
EDGES = np.array([-1.0, 0.0, 0.5, 2.0**53])
PRICE = Field("price", "number", "bucket", boundaries=EDGES, cells=Cells())
WORD = Field("word", seed=3, cells=Cells(("", "NA", "\ud800")))
COUNT = Field("count", "integer", "id", cells=Cells(("", "NA")))
SEEN = Field("seen", "integer", "id", length=3)
named = pytest.mark.parametrize


class Offered:
    """A column that is no array but offers one, as those of pandas do."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __iter__(self):
        raise AssertionError("the array is read, not its elements")

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.fixture(params=["compiled", "Python"])
def implementation(request, monkeypatch):
    """Read by the compiled module, or without it."""
    if request.param == "compiled" and not hashing.COMPILED:
        pytest.skip("the native engine is not compiled")
    if request.param == "Python":
        monkeypatch.setattr(hashing, "COMPILED", False)
        monkeypatch.setattr(hashing, "_digest", xxh64)
    return request.param


def value_of(kind, value):
    if kind == "list":
        return [value_of(*item) for item in value]
    return {"nan": math.nan, "infinity": math.inf}.get(kind, value)


@st.composite
def golden_columns(draw):
    """A field, and golden cases of it."""
    field = draw(st.sampled_from(FEATURES.fields))
    cases = [case for case in GOLDEN["cases"] if case["field"] == field.name]
    if draw(st.booleans()):  # mostly columns without a fault
        cases = [case for case in cases if case["ids"] is not None]
    return field, draw(st.lists(st.sampled_from(cases), max_size=12))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(golden_columns())
def test_a_column_has_the_ids_of_its_golden_cells(implementation, column):
    field, cases = column
    values = [value_of(case["type"], case["value"]) for case in cases]
    array = np.empty(len(values), dtype=object)
    array[:] = values
    containers = [values, tuple(values), array]
    if all(isinstance(value, str) and not value.endswith("\0") for value in values):
        containers.append(np.array(values, dtype=str))
    for container in containers:
        if all(case["ids"] is not None for case in cases):
            expected = [case["ids"][0] if field.length is None else case["ids"] for case in cases]
            assert field.encode(container).tolist() == expected
            continue
        with pytest.raises(InputError, match=f"field '{field.name}': ") as caught:
            field.encode(container)
        if field.length is None:
            place = int(re.search(r" at (\d+)|the integer at (\d+)", str(caught.value))[1])
            assert cases[place]["ids"] is None


@named(
    ("field", "values", "message"),
    [
        (WORD, ["a", None, math.nan, 3], "expected strings, got int 3 at 3"),
        (WORD, [None, "\ud800", "b\udfff"], r"str 'b\udfff' at 2 is not valid Unicode"),
        (COUNT, [None, "7", "x", "x"], "expected a signed 64-bit integer, got str 'x' at 2"),
        (COUNT, [None, 7, 3.0], "expected integers, got float 3.0 at 2"),
        (COUNT, [7, True], "expected integers, got bool True at 1"),
        (COUNT, [7, None, 2**63], "int 9223372036854775808 at 2 does not fit"),
        (COUNT, ["1", -(2**63) - 1], "int -9223372036854775809 at 1 does not fit"),
        (PRICE, [None, 1.0, True], "expected numbers, got bool True at 2"),
        (PRICE, [0.5, -(10**400)], "the integer at 1 is too large for a double"),
        (SEEN, [[1], None, [2, "3"]], "expected integers, got str '3' at 2"),
        (SEEN, [[1], None, 5], "expected a list of values, got int 5 at 2"),
    ],
)
def test_a_fault_names_its_position(implementation, field, values, message):
    with pytest.raises(InputError) as caught:
        field.encode(values)
    assert str(caught.value).startswith(f"field '{field.name}': {message}")


def test_missing_texts_with_lone_surrogates(implementation):
    assert WORD.encode(["\ud800", "NA", "", "NB"]).tolist() == [0, 0, 0, hash_string("NB", 3)]


@named("values", [[0, 2**53 + 1, -(2**63)], [0.1, None, math.nan, -math.inf], [np.float32(0.5), 1]])
def test_numbers_fall_into_the_buckets_of_their_doubles(values):
    expected = [
        1 if value is None or value != value else 2 + sum(float(value) >= EDGES) for value in values
    ]
    assert PRICE.encode(values).tolist() == expected
    assert PRICE.encode(np.array(values, dtype=object)).tolist() == expected


def test_hashes_are_of_values_that_are_not_missing():
    for field, values in ((WORD, ["a", None]), (COUNT, [1, math.nan])):
        with pytest.raises(InputError, match=r"got a missing value at 1"):
            field.hashes(values)
    assert WORD.hashes(["NA"]).tolist() == [hash_string("NA", 3)]  # markers are of cells
    assert COUNT.hashes([np.int8(3)]).tolist() == COUNT.hashes([3]).tolist()


def test_columns_that_offer_an_array():
    offered = Offered(np.array(["a", None, "NA"], dtype=object))
    assert WORD.encode(offered).tolist() == [hash_string("a", 3), 0, 0]
    assert COUNT.encode(Offered(np.array([1, -2], dtype=np.int16))).tolist() == [1, -2]
    assert PRICE.encode(Offered(np.array([0.5, math.nan]))).tolist() == [5, 1]


@named(
    "values",
    [
        np.array([1.0]),
        np.array([True]),
        np.array(["2020-01-01"], dtype="datetime64[ns]"),
        np.array([1], dtype="timedelta64[ns]"),
        np.array([b"1"]),
    ],
)
def test_arrays_of_other_types_are_refused(values):
    with pytest.raises(InputError, match="expected integers"):
        COUNT.encode(values)


def test_tensors():
    torch = pytest.importorskip("torch")
    assert COUNT.encode(torch.tensor([1, -2])).tolist() == [1, -2]
    assert PRICE.encode(torch.tensor([0.5, math.nan])).tolist() == [5, 1]
    for wrong in ([1.0], [True]):
        with pytest.raises(InputError, match="expected integers"):
            COUNT.encode(torch.tensor(wrong))
    with pytest.raises(InputError, match="expected numbers"):  # it refuses to become an array
        PRICE.encode(torch.tensor([1.0], requires_grad=True))


def test_matrices_are_sequences():
    expected = [[2, 3, 4], [6, 7, 8]]
    matrix = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert SEEN.encode(matrix).tolist() == expected
    assert SEEN.encode(matrix.astype(object)).tolist() == expected
    assert SEEN.encode(np.asfortranarray(matrix)).tolist() == expected
    assert SEEN.encode(matrix[:, :2]).tolist() == [[1, 2, 0], [5, 6, 0]]
    assert SEEN.encode(matrix[:, :0]).tolist() == [[0, 0, 0]] * 2
    assert SEEN.encode(matrix[:0]).shape == (0, 3)
    unsigned = np.array([[2**64 - 1, 5]], dtype=np.uint64)  # keeps its bits, as a column does
    assert SEEN.encode(unsigned).tolist() == [[-1, 5, 0]]
    words = Field("words", length=2, cells=Cells(("NA",)))
    got = words.encode(np.array([["a", "NA"], ["b", "c"]]))
    assert got.tolist() == [[hash_string("a"), 0], [hash_string("b"), hash_string("c")]]


def test_a_column_is_not_changed():
    ids = np.array([5, 6])
    assert COUNT.encode(ids).tolist() == [5, 6]
    values, rows = [None, "7", 7], [[1, 2, 3, 4], None]
    COUNT.encode(values), SEEN.encode(rows)
    assert values == [None, "7", 7] and rows == [[1, 2, 3, 4], None] and ids.tolist() == [5, 6]


@named("engine", ["native", "numpy"])
@named("rows", [1, 2, 100])
def test_raw_requests_score_as_their_ids(tmp_path, engine, rows):
    path = tmp_path / "small.odm"
    write_small_model(path)
    try:
        model = ondevice.load(path, engine=engine)
    except ondevice.errors.MissingDependencyError as error:
        pytest.skip(str(error))
    raw = {
        "user": [f"user {n % 7}" if n % 5 else None for n in range(rows)],
        "colour": [n * 3 for n in range(rows)],
        "slot": np.arange(rows) % 5,
    }
    ids = model.features.encode(raw)
    assert ids["user"].tolist() == [hash_string(u, 7) if u else 0 for u in raw["user"]]
    np.testing.assert_array_equal(model.predict(raw, raw=True), model.predict(ids))
    context = {"user": ["user 1"]}
    candidates = {"colour": raw["colour"], "slot": raw["slot"]}
    whole = {"user": ["user 1"] * rows, **candidates}
    np.testing.assert_array_equal(
        model.rank(context, candidates, raw=True), model.predict(whole, raw=True)
    )
    for wrong in ({**raw, "slot": [5] * rows}, {**raw, "slot": [0] * (rows + 1)}):
        with pytest.raises(InputError, match="slot"):
            model.predict(wrong, raw=True)
    with pytest.raises(InputError, match="mapping"):
        model.predict([1], raw=True)


UNITS = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "3h", "25us", "7ns"]


def seconds_of(unit, number):
    """Seconds since 1970 of a number of numpy's units, by Python's integers; None: of no date."""
    count, unit = int(unit.rstrip("YMWDhmsunpfa") or 1), unit.lstrip("0123456789")
    number *= count
    if unit in "YM":
        months = number * (12 if unit == "Y" else 1)
        if not 1 <= 1970 + months // 12 <= 9999:
            return None
        return (date(1970 + months // 12, months % 12 + 1, 1) - date(1970, 1, 1)).days * 86400
    if unit in ("ms", "us", "ns", "ps", "fs", "as"):
        return number // 1000 ** (1 + ("ms", "us", "ns", "ps", "fs", "as").index(unit))
    return number * {"W": 604800, "D": 86400, "h": 3600, "m": 60, "s": 1}[unit]


@named("unit", UNITS)
def test_times_of_every_unit_and_size(unit):
    """Numpy's own conversion to seconds wraps around, also onto dates."""
    rng = np.random.default_rng(5)
    numbers = [0, 1, -1, 1 - 2**63, 2**63 - 1, 2**62, -(2**62)]
    numbers += [int(rng.integers(-(10**k), 10**k)) for k in range(1, 19) for _ in range(9)]
    times = np.array(numbers, np.int64).view(f"datetime64[{unit}]")
    whole = Field("t", "integer", "id", cells=Cells(form="iso"))
    for number, time in zip(numbers, times, strict=True):
        seconds = seconds_of(unit, number)
        for column in (times[times == time][:1], [time]):
            if seconds is None or not EARLIEST <= seconds <= LATEST:
                with pytest.raises(InputError, match="of the years 1 to 9999, got datetime64"):
                    whole.encode(column)
            else:
                assert whole.encode(column).tolist() == [seconds]
    for column in (np.array(["NaT"], times.dtype), np.array(["NaT"], "datetime64")):
        assert whole.encode(column).tolist() == [0]
