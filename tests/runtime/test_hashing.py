"""XXH64 against golden vectors of the reference implementation."""

import json
from pathlib import Path

import numpy as np
import pytest

from ondevice.errors import InputError
from ondevice.features import Field
from ondevice.hashing import hash_int64, hash_string, xxh64

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "xxh64.json").read_text("utf-8"))


def test_golden_vectors():
    assert len(GOLDEN) > 100
    for case in GOLDEN:
        seed, expected = int(case["seed"]), int(case["id"])
        if case["kind"] == "string":
            assert hash_string(case["value"], seed) == expected, case
        else:
            assert hash_int64(np.array([int(case["value"])]), seed).tolist() == [expected], case


def test_published_vector():
    # xxHash's own check value for the empty input and seed 0
    assert xxh64(b"", 0) == 0xEF46DB3751D8E999


def test_fields_hash_as_the_functions_do():
    text, number = Field("a", "string", seed=5), Field("b", "integer", seed=5)
    assert text.encode(["x", None]).tolist() == [hash_string("x", 5), 0]
    assert number.encode([3, None]).tolist() == [hash_int64(np.array([3]), 5)[0], 0]
    assert number.encode(np.array([3])).tolist() == number.encode([3]).tolist()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("string", ["a", 3], "expected strings, got int 3 at 1"),
        ("string", ["\ud800"], "not valid Unicode"),
        ("integer", [1, "2"], "expected integers, got str '2' at 1"),
        ("integer", [True], "expected integers, got bool True"),
        ("integer", [1.0], "expected integers, got float 1.0"),
        ("integer", [2**63], "does not fit a signed 64-bit integer"),
    ],
)
def test_wrong_values_name_field_and_place(kind, values, message):
    with pytest.raises(InputError, match=r"field 'f'.*") as caught:
        Field("f", kind).encode(values)
    assert message in str(caught.value)


def test_vocabulary_ids():
    field = Field("v", "string", "vocabulary", vocabulary=np.sort(Field("v").hashes(["a", "b"])))
    order = np.argsort(Field("v").hashes(["a", "b"]))
    expected = {name: 2 + int(np.where(order == i)[0][0]) for i, name in enumerate("ab")}
    assert field.encode(["a", "b", "c", None]).tolist() == [expected["a"], expected["b"], 1, 0]


def test_vocabulary_that_was_not_shipped():
    with pytest.raises(InputError, match="vocabulary is not in this file"):
        Field("v", "string", "vocabulary").encode(["a"])
