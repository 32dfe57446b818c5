"""XXH64 against golden vectors of the reference implementation: in C, by xxhash, in Python."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice import hashing
from ondevice.errors import InputError
from ondevice.features import Field
from ondevice.hashing import (
    HASHED,
    MISSING,
    UNREAD,
    hash_int64,
    hash_string,
    hash_texts,
    hash_values,
    xxh64,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "xxh64.json").read_text("utf-8"))
# of every plane, with NUL and lone surrogates, and long enough for the four lanes
TEXTS = st.text(st.characters(), max_size=80)
MARKERS = st.sampled_from(["", "NA", "\ud800", None])
SEEDS = st.integers(0, 2**64 - 1)
EVERY_IMPLEMENTATION = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["C", "xxhash", "Python"])
def implementation(request, monkeypatch):
    """Hash by one of the implementations."""
    if request.param == "C":
        if not hashing.COMPILED:
            pytest.skip("the native engine is not compiled")
        return request.param
    digest = xxh64
    if request.param == "xxhash":
        digest = pytest.importorskip("xxhash").xxh64_intdigest
    monkeypatch.setattr(hashing, "COMPILED", False)
    monkeypatch.setattr(hashing, "_digest", digest)
    return request.param


def reference(data, seed):
    """The function that the golden vectors pin, as int64."""
    digest = xxh64(data, seed)
    return digest - 2**64 if digest >= 2**63 else digest


def test_golden_vectors(implementation):
    assert len(GOLDEN) > 100
    for case in GOLDEN:
        seed, expected = int(case["seed"]), int(case["id"])
        if case["kind"] == "string":
            assert hash_string(case["value"], seed) == expected, case
            assert hash_texts([case["value"]], seed).tolist() == [expected], case
        else:
            assert hash_int64(np.array([int(case["value"])]), seed).tolist() == [expected], case


@EVERY_IMPLEMENTATION
@given(texts=st.lists(st.text(max_size=80), max_size=20), seed=SEEDS)
def test_texts_equal_the_reference(implementation, texts, seed):
    expected = [reference(text.encode("utf-8"), seed) for text in texts]
    assert hash_texts(texts, seed).tolist() == expected
    assert hash_texts(tuple(texts), seed).tolist() == expected
    assert hash_texts(np.array(texts, dtype=object), seed).tolist() == expected


@EVERY_IMPLEMENTATION
@given(integers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), seed=SEEDS)
def test_integers_equal_the_reference(implementation, integers, seed):
    expected = [reference(n.to_bytes(8, "little", signed=True), seed) for n in integers]
    array = np.array(integers, dtype=np.int64)
    assert hash_int64(array, seed).tolist() == expected
    assert hash_int64(array.astype(">i8"), seed).tolist() == expected
    assert hash_int64(np.repeat(array, 2)[::2], seed).tolist() == expected
    assert array.tolist() == integers


@EVERY_IMPLEMENTATION
@given(
    values=st.lists(
        TEXTS | st.sampled_from(["", "NA", "\ud800", None, 1, 2.5, b"NA", ("NA",), []])
    ),
    missing=st.lists(TEXTS | st.sampled_from(["", "NA", "\ud800", None])).map(tuple),
    seed=SEEDS,
)
def test_values_are_hashed_missing_or_unread(implementation, values, missing, seed):
    expected = []
    for value in values:
        try:
            is_text = value is None or isinstance(value, str)
            if is_text and value in missing:
                expected.append((0, MISSING))
            else:
                expected.append((reference(str.encode(value, "utf-8"), seed), HASHED))
        except (TypeError, UnicodeEncodeError):
            expected.append((0, UNREAD))
    hashes, states, unhashed = hash_values(values, seed, missing)
    assert list(zip(hashes.tolist(), states.tolist(), strict=True)) == expected
    assert unhashed == len(values) - states.tolist().count(HASHED)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", "b\udfff"], "the text at 1 is not valid Unicode"),
        (["a", "b", b"c"], "expected texts, got bytes at 2"),
        ([None], "expected texts, got NoneType at 0"),
        (["a", np.nan, "\ud800"], "expected texts, got float at 1"),
    ],
)
def test_what_is_no_text_is_named(implementation, texts, message):
    with pytest.raises(InputError) as caught:
        hash_texts(texts)
    assert str(caught.value) == message


@pytest.mark.skipif(not hashing.COMPILED, reason="the native engine is not compiled")
@pytest.mark.parametrize(("hashes", "states"), [(3, 2), (2, 3), (3, 3), (1, 1)])
def test_compiled_texts_refuse_arrays_of_other_lengths(hashes, states):
    from ondevice import _native

    with pytest.raises(ValueError, match="one for every value"):
        _native.hash_texts(
            ["a", "b"], 0, (), np.zeros(hashes, np.int64), np.zeros(states, np.uint8)
        )


@pytest.mark.skipif(not hashing.COMPILED, reason="the native engine is not compiled")
def test_compiled_integers_refuse_arrays_of_other_lengths():
    from ondevice import _native

    with pytest.raises(ValueError, match="of one length"):
        _native.hash_integers(np.zeros(2, np.int64), 0, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="of one length"):
        _native.hash_integers(np.zeros(3, np.int32), 0, np.zeros(3, np.int32))


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
