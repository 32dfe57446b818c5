"""The hashed log: golden hashes, the fixed split, vocabularies from the training part alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import InputError
from ondevice.features import FeatureSpec, Field
from ondevice.hashing import xxh64
from ondevice.models.data import HashedLog, cardinalities, encode, hashed_field, split, split_rows


def make_log(**columns: list[int]) -> HashedLog:
    n = len(next(iter(columns.values())))
    features = FeatureSpec(tuple(hashed_field(name, "integer") for name in columns))
    hashes = {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
    return HashedLog("made", features, hashes, np.zeros(n, dtype=np.float32))


def test_seed_of_a_field_is_the_hash_of_its_name():
    assert hashed_field("user").seed == xxh64(b"user", 0)
    # a golden value, so that models trained yesterday still match
    assert hashed_field("user").seed == 4440828080198502894


def test_split_is_the_documented_permutation():
    train, validation, test = split_rows(1003)
    order = np.random.default_rng(0).permutation(1003)
    assert train.tolist() == order[:802].tolist()
    assert validation.tolist() == order[802:902].tolist()
    assert test.tolist() == order[902:].tolist()


@given(st.integers(10, 500), st.integers(0, 5))
def test_split_covers_every_row_once(n, seed):
    rows = np.concatenate(split_rows(n, seed))
    assert np.array_equal(np.sort(rows), np.arange(n))


@pytest.mark.parametrize("parts", [(0.5, 0.5), (0.8, 0.1, 0.2), (1.0, 0.0, 0.0)])
def test_split_rejects_bad_parts(parts):
    with pytest.raises(InputError, match="three positive shares"):
        split_rows(100, parts=parts)


def test_split_rejects_too_few_rows():
    with pytest.raises(InputError, match="5 rows are too few"):
        split_rows(5)


def test_split_keeps_rows_together():
    log = make_log(a=list(range(100)), b=list(range(1000, 1100)))
    for part in split(log):
        assert (part.hashes["b"] - part.hashes["a"] == 1000).all()


def test_encode_takes_the_vocabulary_from_training_alone():
    train = make_log(a=[50, -7, 50, 0, 9], b=[3, 3, 3, 3, 3])
    validation, test = make_log(a=[-7, 8], b=[4, 0]), make_log(a=[0, 9], b=[3, 3])
    splits = encode(train, validation, test, ["a"])
    assert splits.train.features["a"].vocabulary.tolist() == [-7, 9, 50]
    assert splits.train.ids["a"].tolist() == [4, 2, 4, 0, 3]
    assert splits.validation.ids["a"].tolist() == [2, 1]  # 8 was never trained on
    assert splits.test.ids["a"].tolist() == [0, 3]
    assert splits.validation.ids["b"].tolist() == [4, 0]  # no vocabulary field: hashes stay
    assert splits.train.features["b"] == train.features["b"]


def test_encode_drops_rare_values():
    train = make_log(a=[50, 50, 9, 0, 0])
    splits = encode(train, train, train, {"a"}, min_count=2)
    assert splits.train.ids["a"].tolist() == [2, 2, 1, 0, 0]


def test_encoded_ids_are_those_the_runtime_computes():
    raw = np.array([5, 6, 7, 5], dtype=np.int64)
    field = hashed_field("a", "integer")
    log = HashedLog(
        "made", FeatureSpec((field,)), {"a": field.encode(raw)}, np.ones(4, dtype=np.float32)
    )
    splits = encode(log, log, log, ["a"])
    assert splits.train.features.encode({"a": raw})["a"].tolist() == splits.train.ids["a"].tolist()


def test_encode_rejects_unknown_fields_and_counts():
    log = make_log(a=[1])
    with pytest.raises(InputError, match="no field 'c'"):
        encode(log, log, log, ["c"])
    with pytest.raises(InputError, match="min_count"):
        encode(log, log, log, ["a"], min_count=0)
    with pytest.raises(InputError, match="same fields"):
        encode(log, make_log(b=[1]), log, ["a"])


def test_cardinalities_leave_missing_values_out():
    assert cardinalities(make_log(a=[0, 4, 4, 5], b=[0, 0, 0, 0])) == {"a": 2, "b": 0}


def test_a_hashed_log_holds_hashes():
    features = FeatureSpec((Field("a", "integer", "id"),))
    with pytest.raises(InputError, match="encoded yet: a"):
        HashedLog("x", features, {"a": np.zeros(1, np.int64)}, np.zeros(1, np.float32))
    with pytest.raises(InputError, match=r"must be int64 \[2\]"):
        HashedLog(
            "x",
            FeatureSpec((hashed_field("a"),)),
            {"a": np.zeros(1, np.int64)},
            np.zeros(2, np.float32),
        )
