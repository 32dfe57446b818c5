"""Hostile requests: the right value or a typed error, in predict, rank, encode and both texts."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from support.hostile import csv_texts, json_lines, refused_arrays, same_arrays
from support.runtime import expected_probabilities, small_ids, write_small_model

import ondevice
from ondevice.engines.native import is_compiled
from ondevice.errors import InputError, SpecError
from ondevice.features import FeatureSpec, Field
from ondevice.hashing import hash_string
from ondevice.requests import read_requests

ROWS = 6
NAMES = ["user", "colour", "slot"]
RIGHT = {"user": '"anna"', "colour": "1", "slot": "1"}
FIELDS = {
    "text": Field("text", "string", "hash"),
    "integer": Field("integer", "integer", "hash"),
    "id": Field("id", "integer", "id"),
    "number": Field("number", "number", "bucket", boundaries=np.array([0.0, 2.0])),
    "list": Field("list", "integer", "id", length=3),
}


@pytest.fixture(scope="module", params=["numpy", "native"])
def model(request, tmp_path_factory):
    if request.param == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    path = tmp_path_factory.mktemp("model") / "small.odm"
    write_small_model(path)
    return ondevice.load(path, engine=request.param)


@pytest.mark.parametrize("what", same_arrays(np.arange(3, dtype=np.int64)))
def test_any_layout_of_the_same_ids_scores_alike(model, what):
    ids = small_ids(ROWS)
    request = {name: same_arrays(values)[what] for name, values in ids.items()}
    np.testing.assert_allclose(model.predict(request), expected_probabilities(ids), atol=1e-6)
    context = {"user": same_arrays(ids["user"][:1])[what]}
    candidates = {name: request[name] for name in ("colour", "slot")}
    whole = {**ids, "user": np.repeat(ids["user"][:1], ROWS)}
    got = model.rank(context, candidates)
    np.testing.assert_allclose(got, expected_probabilities(whole), atol=1e-6)


def test_unsigned_ids_above_2_63_keep_their_bits(model):
    ids = small_ids(ROWS)
    for dtype in ("<u8", ">u8"):
        unsigned = ids["user"].view(np.uint64).astype(dtype)
        got = model.predict({**ids, "user": unsigned})
        np.testing.assert_allclose(got, expected_probabilities(ids), atol=1e-6)


@pytest.mark.parametrize("what", refused_arrays(ROWS))
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_id_is_refused(model, what, name):
    ids = small_ids(ROWS)
    with pytest.raises(InputError):
        model.predict({**ids, name: refused_arrays(ROWS)[what]})
    others = {other: values for other, values in ids.items() if other not in ("user", name)}
    with pytest.raises(InputError):
        model.rank({"user": ids["user"][:1]}, {**others, name: refused_arrays(ROWS)[what]})
    if what != "no rows":
        with pytest.raises(InputError):
            model.rank({"user": refused_arrays(ROWS)[what]}, {**others, "slot": ids["slot"]})


@pytest.mark.parametrize("request_", [None, 3, "user", [1, 2], {1: [1]}, {None: [1]}])
def test_what_is_no_mapping_of_inputs_is_refused(model, request_):
    with pytest.raises(InputError):
        model.predict(request_)
    with pytest.raises(InputError):
        model.rank(request_, {"slot": [1]})
    with pytest.raises(InputError):
        model.rank({"user": [1]}, request_)


GAPS = {what for what in refused_arrays(ROWS) if what.endswith("with a gap")}
GAPS_OF_INTEGERS = GAPS - {"floats of pandas with a gap"}
READ_BY = {  # of refused_arrays: what is no ID, but right as a field's raw values
    "text": {"object text", "text", "digits", "no rows"},
    "integer": {"no rows", *GAPS_OF_INTEGERS},
    "id": {"no rows", *GAPS_OF_INTEGERS},
    "number": {
        *("whole floats", "fractions", "beyond uint64", "half a number", "long double", "mixed"),
        *("no rows", *GAPS),
    },
    "list": {"matrix", "ragged", "no rows"},
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("what", refused_arrays(ROWS))
def test_raw_values_are_read_or_refused(field, what):
    values = refused_arrays(ROWS)[what]
    if what in READ_BY[field]:
        ids = FIELDS[field].encode(values)
        assert len(ids) == len(values)
        if what in GAPS:
            np.testing.assert_array_equal(ids, FIELDS[field].encode([5, None, *[7] * (ROWS - 2)]))
        return
    with pytest.raises(InputError):
        FeatureSpec((FIELDS[field],)).encode({field: values})


def read(model, text, text_format):
    requests = read_requests(io.StringIO(text, newline=""), text_format, model, False, 10)
    return [batch.ids for batch in requests]


@pytest.mark.parametrize(("what", "text"), list(json_lines(NAMES, RIGHT)), ids=lambda x: x[:30])
def test_json_lines_are_read_or_refused_with_their_line(model, what, text):
    readable = {
        "user: NUL": ("user", hash_string("\0", 7)),
        "user: text": ("user", hash_string("abc", 7)),
        "user: null": ("user", 0),
        "colour: null": ("colour", 0),
        "slot: null": ("slot", 0),
        "user: NaN": ("user", 0),
        "colour: NaN": ("colour", 0),
        "slot: NaN": ("slot", 0),
    }
    if what in readable:
        name, expected = readable[what]
        assert read(model, text, "jsonl")[0][name].tolist() == [expected]
        return
    with pytest.raises(InputError, match="line 1: "):
        read(model, text, "jsonl")


@pytest.mark.parametrize(("what", "text"), list(csv_texts(NAMES)), ids=lambda x: x[:30])
def test_csv_is_read_or_refused_with_its_line(model, what, text):
    cell = text.splitlines()[1].split(",")[0] if text.count("\n") > 1 else ""
    if what.startswith("user: ") and what != "user: long":
        assert read(model, text, "csv")[0]["user"].tolist() == [hash_string(cell, 7)]
        return
    with pytest.raises(InputError, match=r"line [12]: |the CSV input is empty|line 3: not valid"):
        read(model, text, "csv")


def test_a_fault_in_a_cell_names_its_own_line(model):
    text = f"user,colour,slot\na,5,1\na,{2**63},1\n"
    with pytest.raises(
        InputError,
        match=r"line 3: field 'colour': expected a signed 64-bit .*'9223372036854775808'",
    ):
        read(model, text, "csv")


def test_numbers_beyond_a_double_are_infinite_in_text():
    assert FIELDS["number"].encode([float("1e400"), -math.inf]).tolist() == [4, 2]
    with pytest.raises(InputError, match="too large for a double"):
        FIELDS["number"].encode([10**400])


def test_names_that_cannot_be_printed_are_refused(tmp_path, model):
    from ondevice.errors import FileFormatError
    from ondevice.info import ModelInfo

    text = json.loads(replace(model.info, vectors=None).to_bytes().partition(b"\0")[0])
    text["inputs"][0]["name"] = "\ud800"
    with pytest.raises(FileFormatError, match="surrogates"):
        ModelInfo.from_bytes(json.dumps(text).encode())


def test_many_fields_are_checked_in_linear_time():
    fields = tuple(Field(f"f{i}") for i in range(20_000))
    assert FeatureSpec(fields)["f19999"].name == "f19999"  # a quadratic check takes 10 s
    with pytest.raises(SpecError, match="named twice: f0"):
        FeatureSpec((*fields, Field("f0")))


def test_a_model_prints_one_line(model):
    assert repr(model).startswith("<ondevice.Model ") and "\n" not in repr(model)
    assert "user[batch]" in repr(model) and repr(model).endswith("-> probability>")
