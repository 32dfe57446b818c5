"""Numbers to buckets and lists to padded sequences, as the device runtime encodes them."""

import bisect
import json
import math

import numpy as np
import pytest

from ondevice.errors import InputError, SpecError
from ondevice.features import FeatureSpec, Field, bucket_ids

EDGES = np.array([-2.5, 0.0, 1.0, 1e300])
PRICE = Field("price", "number", "bucket", boundaries=EDGES)


def test_buckets_by_hand():
    values = [-math.inf, -2.5000001, -2.5, -0.0, 0.0, 0.5, 1, 1.0000001, 1e300, math.inf]
    assert PRICE.encode(values).tolist() == [2, 2, 3, 4, 4, 4, 5, 5, 6, 6]
    assert PRICE.encode([None, math.nan, np.float32("nan")]).tolist() == [1, 1, 1]
    assert PRICE.encode(np.array([0, 1], dtype=np.int32)).tolist() == [4, 5]
    assert PRICE.encode([]).shape == (0,)
    none = Field("x", "number", "bucket", boundaries=np.empty(0))
    assert none.encode([5.0, None]).tolist() == [2, 1]


def test_buckets_agree_with_bisect_next_to_every_boundary():
    rng = np.random.default_rng(0)
    edges = np.unique(rng.normal(size=40))
    near = [np.nextafter(edges, -np.inf), edges, np.nextafter(edges, np.inf)]
    values = np.concatenate([*near, rng.normal(size=500)])
    expected = [2 + bisect.bisect_right(edges.tolist(), value) for value in values.tolist()]
    assert bucket_ids(edges, values).tolist() == expected


@pytest.mark.parametrize("value", ["1.5", True, 10**400, [1.0], b"1"])
def test_other_values_are_refused(value):
    with pytest.raises(InputError, match="price"):
        PRICE.encode([1.0, value])


@pytest.mark.parametrize("edges", [[1.0, 1.0], [2.0, 1.0], [math.nan], [math.inf]])
def test_unsound_boundaries_are_refused(edges):
    with pytest.raises(SpecError, match="ascending"):
        Field("x", "number", "bucket", boundaries=np.array(edges))


def test_kinds_and_encodings_must_agree():
    for settings in (
        {"kind": "number"},
        {"kind": "integer", "encoding": "bucket"},
        {"boundaries": EDGES},
        {"length": 0},
        {"length": True},
        {"kind": "number", "encoding": "bucket", "length": 3},
    ):
        with pytest.raises(SpecError):
            Field("x", **settings)


def test_sequences_keep_the_last_values_and_pad_at_the_end():
    field = Field("seen", "integer", "id", length=3)
    ids = field.encode([[5, 6, 7, 8], [9], [], None, [4, None]])
    assert ids.tolist() == [[6, 7, 8], [9, 0, 0], [0, 0, 0], [0, 0, 0], [4, 0, 0]]
    assert field.encode(np.array([[1, 2], [3, 4]])).tolist() == [[1, 2, 0], [3, 4, 0]]
    for wrong in (5, "56", {"a": 1}):
        with pytest.raises(InputError, match="expected a list"):
            field.encode([[1], wrong])


def test_json_stores_a_shared_vocabulary_once():
    item = Field("item", "string", seed=7)
    known = np.sort(item.hashes(["a", "b", "c"]))
    item = Field("item", "string", "vocabulary", 7, known)
    spec = FeatureSpec((item, Field("seen", "string", "vocabulary", 7, known, length=2), PRICE))
    data = json.loads(json.dumps(spec.to_json()))
    assert "vocabulary" not in data[1] and data[1]["vocabulary_of"] == "item"
    again = FeatureSpec.from_json(data)
    raw = {"item": ["b", "z"], "seen": [["c", "a"], ["z"]], "price": [0.3, None]}
    for name, ids in spec.encode(raw).items():
        np.testing.assert_array_equal(again.encode(raw)[name], ids)
    assert again["seen"].encode([["b"]])[0, 0] == item.encode(["b"])[0]
    data[1]["vocabulary_of"] = "price_"
    with pytest.raises(SpecError, match="vocabulary"):
        FeatureSpec.from_json(data)
