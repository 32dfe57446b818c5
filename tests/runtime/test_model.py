"""Model: parity with plain Python, raw values, ranking, and every kind of wrong request."""

import io
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.runtime import (
    VOCABULARY,
    expected_probabilities,
    small_ids,
    write_one_input_model,
    write_small_model,
)

import ondevice
from ondevice.engines.native import is_compiled
from ondevice.errors import FileFormatError, InputError, MissingDependencyError
from ondevice.hashing import hash_string
from ondevice.info import InputSpec, ModelInfo
from ondevice.inspection import inspect
from ondevice.limits import MAX_INPUTS
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.verify import verify


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.odm"
    write_small_model(path)
    return path


@pytest.fixture(scope="module")
def model(path):
    return ondevice.load(path)


@pytest.mark.parametrize("rows", [1, 2, 17, 1024])
def test_predict_equals_plain_python(model, rows):
    ids = small_ids(rows, seed=rows)
    got = model.predict(ids)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected_probabilities(ids), atol=1e-6)


def test_unsigned_ids_keep_their_bits(model):
    ids = small_ids(4)
    unsigned = {**ids, "user": ids["user"].astype(np.uint64)}
    np.testing.assert_array_equal(model.predict(unsigned), model.predict(ids))


def test_views_and_narrow_integers(model):
    ids = small_ids(8)
    views = {name: np.repeat(values, 2)[::2] for name, values in ids.items()}
    views["slot"] = views["slot"].astype(np.int8)
    np.testing.assert_array_equal(model.predict(views), model.predict(ids))


def test_raw_values(model):
    raw = {"user": ["anna", None], "colour": [None, 12345], "slot": [3, 0]}
    ids = {
        "user": [hash_string("anna", 7), 0],
        "colour": [0, 1],  # missing; not among the four colours
        "slot": [3, 0],
    }
    np.testing.assert_array_equal(model.predict(raw, raw=True), model.predict(ids))
    known = model.features["colour"].vocabulary
    assert known.tolist() == VOCABULARY.tolist()


def test_rank_equals_predict(model):
    ids = small_ids(5)
    context = {"user": ids["user"][:1]}
    candidates = {"colour": ids["colour"], "slot": ids["slot"]}
    whole = {"user": np.repeat(ids["user"][:1], 5), **candidates}
    np.testing.assert_array_equal(model.rank(context, candidates), model.predict(whole))
    raw = model.rank({"user": ["anna"]}, {"colour": [1, 2], "slot": [0, 1]}, raw=True)
    whole = {"user": ["anna"] * 2, "colour": [1, 2], "slot": [0, 1]}
    np.testing.assert_array_equal(raw, model.predict(whole, raw=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": None}, "missing inputs: user; the model takes: user, colour, slot"),
        ({"usr": [1]}, "unknown inputs: usr"),
        ({"user": [1.5, 2.5]}, "input 'user': expected integer IDs, got dtype float64"),
        ({"user": ["a", "b"]}, "expected integer IDs, got dtype <U1"),
        ({"user": [True, False]}, "expected integer IDs, got dtype bool"),
        ({"user": [[1], [2]]}, r"expected shape [batch], got [2, 1]"),
        ({"user": 3}, "expected shape [batch], got []"),
        ({"user": [1, 2, 3]}, "'user' has 3, 'colour' has 2"),
        ({"user": [[1], [2, 3]]}, "input 'user'"),
        ({"user": [2**64, 1]}, "input 'user'"),
        ({"slot": [0, 5]}, "ID 5 at [1] is outside 0..4"),
        ({"slot": [-1, 0]}, "ID -1 at [0] is outside 0..4"),
        ({"user": [], "colour": [], "slot": []}, "the batch is empty"),
    ],
)
def test_wrong_requests_say_what_is_wrong(model, change, message):
    request = {"user": [1, 2], "colour": [1, 2], "slot": [1, 2]} | change
    request = {name: values for name, values in request.items() if values is not None}
    with pytest.raises(InputError) as caught:
        model.predict(request)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("context", "candidates", "message"),
    [
        ({"user": [1, 2]}, {"colour": [1], "slot": [1]}, "expected one value"),
        ({"user": 1}, {"colour": [1], "slot": [1]}, "expected one value"),
        ({"user": [1]}, {"user": [1], "colour": [1], "slot": [1]}, "context and as candidates"),
        ({"user": [1], "colour": [1], "slot": [1]}, {}, "no candidate inputs"),
        ({"user": [1]}, {"colour": [1]}, "missing inputs: slot"),
        ({"user": [1]}, {"colour": [], "slot": []}, "empty"),
    ],
)
def test_wrong_rankings_say_what_is_wrong(model, context, candidates, message):
    with pytest.raises(InputError) as caught:
        model.rank(context, candidates)
    assert message in str(caught.value)


def test_raw_needs_lists(model):
    with pytest.raises(
        InputError, match=r"expected a list of raw values, got str; one value is \['anna'\]"
    ):
        model.predict({"user": "anna", "colour": [1], "slot": [1]}, raw=True)
    with pytest.raises(InputError, match="expected a mapping"):
        model.predict([1, 2])
    with pytest.raises(InputError, match="no field 'usr'"):
        model.predict({"usr": ["a"]}, raw=True)


def test_load_says_what_is_wrong(path, tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        ondevice.load(tmp_path / "none.odm")
    with pytest.raises(FileFormatError, match="unknown kind of model file"):
        ondevice.load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="unknown engine 'gpu'"):
        ondevice.load(path, engine="gpu")
    with pytest.raises(InputError, match=r"'onnx' cannot run \.odm"):
        ondevice.load(path, engine="onnx")
    with pytest.raises(InputError, match=r"threads must be 1\.\.1024, got 0"):
        ondevice.load(path, threads=0)
    with pytest.raises(FileFormatError, match=r"a folder, not a model file; expected one of \.odm"):
        ondevice.load(path.parent)


@pytest.mark.parametrize("opened", [ondevice.load, verify, inspect, ondevice.Live])
def test_only_paths_of_files_are_opened(path, opened):
    with path.open("rb") as file:
        content = file.read()
        for given in (content, file, io.BytesIO(content), None, bytes(path), 3):
            with pytest.raises(InputError, match="expected the path of a model file, got"):
                opened(given)
    for address in ("s3://bucket/model.odm", "https://example.org/model.odm", "hf://a/b/c.odm"):
        with pytest.raises(InputError, match=f"{address}: addresses are not read"):
            opened(address)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ([{"user": 1}, {"user": 2}], "got list (a data frame of these rows is a table)"),
        (3, "got int; the model takes"),
        ([], "got list; the model takes"),
    ],
)
def test_what_is_no_request_says_what_would_be_one(model, given, advice):
    with pytest.raises(InputError) as caught:
        model.predict(given, raw=True)
    assert advice in str(caught.value)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_damaged_foreign_files_fail_typed(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"not a model" * 10)
    with pytest.raises((FileFormatError, MissingDependencyError)):
        ondevice.load(path)


def test_eight_threads_agree(model):
    ids = [small_ids(33, seed=i) for i in range(8)]
    expected = [model.predict(item) for item in ids]
    wrong = []

    def work(number):
        for _ in range(50):
            if not np.array_equal(model.predict(ids[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_a_closed_model_takes_no_requests_and_lets_go_of_its_file(path, engine):
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    ids = small_ids(3)
    with ondevice.load(path, engine=engine) as model:
        expected = model.predict(ids)
        assert expected.shape == (3,)
    for _ in range(2):
        with pytest.raises(InputError, match="the model is closed"):
            model.predict(ids)
        with pytest.raises(InputError, match="the model is closed"):
            model.rank({"user": ids["user"][:1]}, {name: ids[name] for name in ("colour", "slot")})
        model.close()
    assert "closed" in repr(model)
    assert [item.name for item in model.inputs] == ["user", "colour", "slot"]


def test_requests_that_run_while_a_model_is_closed_end_well(path):
    ids = small_ids(64)
    expected = ondevice.load(path).predict(ids)
    faults = []

    def use(model):
        try:
            while True:
                np.testing.assert_array_equal(model.predict(ids), expected)
        except InputError as error:
            faults.append(str(error))

    for _ in range(20):
        model = ondevice.load(path)
        threads = [threading.Thread(target=use, args=(model,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        model.close()
        for thread in threads:
            thread.join()
    assert faults == ["the model is closed"] * 80


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
def test_closing_unmaps_a_large_file(tmp_path):
    large = write_one_input_model(tmp_path / "large.odm", rows=3_000_000)
    model = ondevice.load(large)
    assert model.predict([2_999_999]) == 2_999_999
    mapped = Path("/proc/self/maps").read_text().count("large.odm")
    model.close()
    assert (mapped > 0, "large.odm" in Path("/proc/self/maps").read_text()) == (True, False)


def test_a_notebook_shows_inputs_with_their_text_escaped(model):
    html = model._repr_html_()
    assert "<td>user</td><td>batch</td><td>int64</td><td>string, hash</td>" in html
    info = replace(model.info, inputs=(InputSpec("<script>alert(1)</script>"),))
    assert "<script>" not in replace(model, info=info)._repr_html_()


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize("rows", [1, 3])
def test_results_are_the_callers_own(engine, rows, tmp_path):
    """Outputs that are an input, a view of one, a constant's rows, or another output."""
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    names = ("same", "flipped", "spread", "sum", "again")
    nodes = (
        Node("Identity", ("x",), ("same",), {}),
        Node("Transpose", ("x",), ("flipped",), {"perm": [0, 2, 1]}),
        Node("ExpandRows", ("row", "x"), ("spread",), {}),
        Node("Add", ("x", "one"), ("sum",), {}),
        Node("Identity", ("sum",), ("again",), {}),
    )
    weights = {"one": np.ones(1, np.float32), "row": np.array([[4, 5]], np.float32)}
    info = ModelInfo((InputSpec("x", ("batch", 2, 3), dtype="float32"),), names)
    path = tmp_path / "copies.odm"
    write_odm(path, Plan(("x",), names, nodes, tuple(weights), {}), info, weights, {})
    model = ondevice.load(path, engine=engine)
    x = np.arange(6 * rows, dtype=np.float32).reshape(rows, 2, 3)
    expected = [x, x.transpose(0, 2, 1), np.repeat(weights["row"], rows, axis=0), x + 1, x + 1]
    expected = dict(zip(names, map(np.copy, expected), strict=True))
    given = x.copy()
    got = model.predict({"x": given})
    given[...] = -1
    for name in names:  # each is written into once it was compared, which changes no other
        np.testing.assert_array_equal(got[name], expected[name])
        assert got[name].flags.c_contiguous
        got[name][...] = -2
    again = model.predict({"x": x})
    for name in names:
        np.testing.assert_array_equal(again[name], expected[name])


def test_masked_arrays_in_a_list_are_refused(tmp_path):
    """numpy makes an array of them with what is behind their masks."""
    model = ondevice.load(write_one_input_model(tmp_path / "history.odm", length=3))
    rows = np.ma.masked_array([[1, 2, 3], [4, 5, 6]], [[0, 1, 0], [0, 0, 0]])
    for values in (list(rows), tuple(rows), [rows[0], [4, 5, 6]]):
        with pytest.raises(InputError, match="'item': masked arrays are not read"):
            model.predict({"item": values})


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize("count", [64, 65, MAX_INPUTS])
def test_models_of_many_outputs_return_them_all(engine, count, tmp_path):
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    names = tuple(f"y{number}" for number in range(count))
    weights = {f"w{number}": np.full(1, number, np.float32) for number in range(count)}
    steps = zip(names, weights, strict=True)
    nodes = tuple(Node("Add", ("x", weight), (name,), {}) for name, weight in steps)
    info = ModelInfo((InputSpec("x", dtype="float32"),), names)
    write_odm(tmp_path / "m.odm", Plan(("x",), names, nodes, tuple(weights), {}), info, weights, {})
    model = ondevice.load(tmp_path / "m.odm", engine=engine)
    x = np.array([0.5, -2], np.float32)
    for got in (model.predict({"x": x}), model.rank({}, {"x": x})):
        assert tuple(got) == names
        for number, name in enumerate(names):
            np.testing.assert_array_equal(got[name], x + number)
