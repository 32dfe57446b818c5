"""Free axes beside the rows, such as the length of a history, in the C engine."""

import threading
import warnings

import numpy as np
import pytest
from support.attention import ints, request, write_attention

import ondevice
from ondevice.engines.native import NativeEngine, is_compiled, kernels_available
from ondevice.engines.native_sizes import MOST_OPEN, SizedNativeEngine
from ondevice.errors import InputError, UnsupportedError
from ondevice.info import TestVectors
from ondevice.plan import Node
from ondevice.ranking import ranking_difference

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")


def close(got, expected):
    for name, right in expected.items():
        np.testing.assert_allclose(got[name], right, atol=2e-6, rtol=2e-6, err_msg=name)


def test_every_length_gives_the_scores(tmp_path):
    """More lengths than are open at a time, back and forth; all kernels of one length."""
    expected = write_attention(tmp_path / "m.odm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no other engine takes over
        model = ondevice.load(tmp_path / "m.odm")
    assert model.engine == "native"
    assert isinstance(model.runner, SizedNativeEngine)
    lengths = [*range(1, MOST_OPEN + 5), 1, 130, 2]
    for steps in lengths:
        given = request(70, steps)
        close(model.predict(given), expected(given))
    assert len(model.runner._open) == MOST_OPEN
    for kernels in kernels_available():
        engine = NativeEngine(tmp_path / "m.odm", kernels=kernels, sizes={"steps": 5})
        given = request(70, 5)
        close(engine.run(given), expected(given))
        close(engine.resized({"steps": 3}).run(request(9, 3)), expected(request(9, 3)))


def test_rank_of_every_split(tmp_path):
    write_attention(tmp_path / "m.odm")
    for steps in (1, 6):
        difference = ranking_difference(lambda: ondevice.load(tmp_path / "m.odm"),
                                        request(70, steps))  # fmt: skip
        assert difference < 2e-6


def test_the_profile_of_a_length(tmp_path):
    write_attention(tmp_path / "m.odm")
    _, operators = ondevice.load(tmp_path / "m.odm").runner.profile({}, request(4, 3))
    assert len(operators) > 5


HALVES = Node("Reshape", ("weights", "halved"), ("halves",), {})  # takes 6 steps only


def test_the_lengths_of_the_test_vectors_are_tried_first(tmp_path):
    """A model that does not take 8 steps, and what it says of other lengths."""
    given, path, shape = request(3, 6), tmp_path / "m.odm", {"halved": ints(-1, 2, 3)}
    expected = write_attention(path, [HALVES], shape, ("score", "halves"))
    with pytest.raises(UnsupportedError, match="does not fit"):
        ondevice.load(path, engine="native")
    score = expected(given)["score"].astype(np.float32)
    vectors = TestVectors(given, {"score": score}, 1e-5)
    write_attention(path, [HALVES], shape, ("score", "halves"), vectors)
    model = ondevice.load(path, engine="native")
    np.testing.assert_allclose(model.predict(given)["score"], score, atol=2e-6)
    with pytest.raises(InputError, match=r"does not take the sizes steps=7: .*does not fit"):
        model.predict(request(3, 7))
    np.testing.assert_allclose(model.predict(given)["score"], score, atol=2e-6)


def test_sizes_that_differ_between_inputs(tmp_path):
    write_attention(tmp_path / "m.odm")
    wrong = request(5, 8) | {"numbers": request(5, 7)["numbers"]}
    with pytest.raises(InputError, match="differ in steps size"):
        ondevice.load(tmp_path / "m.odm").predict(wrong)


@pytest.mark.parametrize("sizes", [None, {}, {"other": 3}, {"steps": 0}, {"steps": 2**25}])
def test_a_size_that_is_missing_or_too_large(sizes, tmp_path):
    write_attention(tmp_path / "m.odm")
    with pytest.raises(UnsupportedError, match=r"'steps', whose size is not given|too large"):
        NativeEngine(tmp_path / "m.odm", sizes=sizes)


@pytest.mark.parametrize(
    "node",
    [
        Node("Mul", ("rows", "two"), ("bad",), {}),
        Node("Cast", ("rows",), ("bad",), {"to": 1}),
        Node("Concat", ("steps", "rows"), ("bad",), {"axis": 0}),
        Node("Identity", ("rows",), ("bad",), {}),
        Node("Reshape", ("w", "flat"), ("bad",), {}),
    ],
    ids=lambda node: node.op,
)
def test_nothing_computes_with_the_number_of_rows(node, tmp_path):
    """A request says it; the numpy engine runs such a file, and the warning says why."""
    write_attention(tmp_path / "m.odm", [node])
    with pytest.raises(UnsupportedError, match=node.op):
        ondevice.load(tmp_path / "m.odm", engine="native")
    with pytest.warns(RuntimeWarning, match="slower numpy engine"):
        assert ondevice.load(tmp_path / "m.odm").engine == "numpy"


def test_lengths_are_of_the_file_that_was_opened(tmp_path):
    """Another file takes its name meanwhile: a model never mixes the two."""
    path, other = tmp_path / "m.odm", tmp_path / "other.odm"
    expected = write_attention(path)
    model = ondevice.load(path)
    write_attention(other, seed=1)
    other.replace(path)
    for steps in (3, 8, 11):
        close(model.predict(request(5, steps)), expected(request(5, steps)))


def test_threads_share_the_lengths(tmp_path):
    expected = write_attention(tmp_path / "m.odm")
    model, faults = ondevice.load(tmp_path / "m.odm"), []

    def score(seed):
        try:
            for steps in range(1, 40):
                given = request(3, 1 + (steps * seed) % 23, seed)
                close(model.predict(given), expected(given))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=score, args=(seed,)) for seed in (3, 5, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
