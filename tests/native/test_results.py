"""Arrays of scores: memory is used again only where nobody else can see it."""

import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.engines.native import is_compiled

pytestmark = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 1), nn.Flatten(0), nn.Sigmoid())
    folder = tmp_path_factory.mktemp("results")
    convert(module.eval(), torch.arange(1, 5), folder, targets=("odm",), tables="f32")
    return folder / "model.odm"


@pytest.fixture
def model(path):
    return ondevice.load(path, engine="native")


def request(first, rows=1):
    return {"input": np.arange(first, first + rows)}


def expected(path, first, rows=1):
    return ondevice.load(path, engine="numpy").predict(request(first, rows))


def test_every_result_that_is_held_stays(model, path):
    held = [model.predict(request(number)) for number in range(50)]
    for number, scores in enumerate(held):
        np.testing.assert_allclose(scores, expected(path, number), atol=1e-6)


def test_memory_is_used_again_once_it_is_free(model):
    places = set()
    for number in range(50):
        scores = model.predict(request(number))
        places.add(scores.ctypes.data)
    assert len(places) == 2  # the name still has the last one while the next is made


@pytest.mark.parametrize(
    "keep",
    [
        lambda scores: scores[:],
        lambda scores: memoryview(scores),
        lambda scores: torch.from_numpy(scores),
        lambda scores: scores.reshape(-1, 1),
        lambda scores: np.asarray(memoryview(scores)),
    ],
    ids=["slice", "memoryview", "torch", "reshaped", "through a buffer"],
)
def test_what_looks_at_a_result_keeps_it(keep, model, path):
    views = [keep(model.predict(request(number, 3))) for number in range(9)]
    for number, view in enumerate(views):
        np.testing.assert_allclose(
            np.asarray(view).reshape(-1), expected(path, number, 3), atol=1e-6
        )


def test_a_weak_reference_never_sees_other_scores(model):
    scores = model.predict(request(1))
    seen, before = weakref.ref(scores), scores.copy()
    del scores
    for number in range(2, 9):
        model.predict(request(number))
    assert seen() is None or np.array_equal(seen(), before)


def test_what_a_caller_changed_is_not_returned(model):
    for change in (
        lambda scores: scores.setflags(write=False),
        lambda scores: setattr(scores, "shape", (1, 3)),
        lambda scores: setattr(scores, "dtype", np.int32),
    ):
        scores = model.predict(request(1, 3))
        change(scores)
        del scores
        again = model.predict(request(2, 3))
        assert again.shape == (3,) and again.dtype == np.float32 and again.flags.writeable
        del again


def test_rows_of_every_number_in_turn(model, path):
    for rows in (1, 3, 1, 300, 3, 257, 256, 1):
        np.testing.assert_allclose(
            model.predict(request(0, min(rows, 40))), expected(path, 0, min(rows, 40)), atol=1e-6
        )
        assert model.predict({"input": np.zeros(rows, np.int64)}).shape == (rows,)


def test_threads_do_not_share_a_result(model, path):
    wanted, faults = [expected(path, number, 20) for number in range(4)], []

    def score(number):
        for _ in range(2000):
            if not np.allclose(model.predict(request(number, 20)), wanted[number], atol=1e-6):
                faults.append(number)

    threads = [threading.Thread(target=score, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
