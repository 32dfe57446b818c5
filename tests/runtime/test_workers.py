"""A model in other places than where it was loaded: copies, pickles, processes, keys of a dict."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from support.runtime import expected_probabilities, small_ids, write_small_model
from support.signing import private_key, sign_folder

import ondevice
from ondevice.bench.measure.device import emulator
from ondevice.errors import FileFormatError, InputError


@pytest.fixture
def path(tmp_path):
    write_small_model(tmp_path / "small.odm")
    return tmp_path / "small.odm"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_model_opens_its_file_again(path, tmp_path, monkeypatch, protocol):
    """The pickle holds the path, not the model, and works from any folder."""
    monkeypatch.chdir(tmp_path)
    model = ondevice.load("small.odm", engine="numpy")
    pickled = pickle.dumps(model, protocol)
    assert len(pickled) < 300 + len(str(path))
    monkeypatch.chdir("/")
    again = pickle.loads(pickled)  # noqa: S301 (of this test)
    assert again.engine == "numpy"
    assert again.path == path
    np.testing.assert_array_equal(again.predict(small_ids(7)), model.predict(small_ids(7)))
    path.unlink()
    with pytest.raises(FileFormatError, match="no such file"):
        pickle.loads(pickled)  # noqa: S301 (of this test)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_worker_processes_take_the_model_as_an_argument(path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    model, inputs = ondevice.load(path), small_ids(9)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        try:
            scores = pool.submit(ondevice.Model.predict, model, inputs).result(timeout=600)
        except BrokenProcessPool:
            if emulator() is None:
                raise
            pytest.skip("this Python cannot start another one: it runs in an emulator")
    np.testing.assert_allclose(scores, expected_probabilities(inputs), atol=1e-6)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_model(path, copied):
    """So that a failed check or `close` reaches it, and nothing is read again."""
    model = ondevice.load(path)
    assert copied(model) is model


def test_what_is_not_pickled_says_why(path, tmp_path):
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    key = private_key(1)
    sign_folder(tmp_path, key)
    signed = ondevice.load(path, keys=key.public)
    with pytest.raises(InputError, match="load it in each process"):
        pickle.dumps(signed)
    model = ondevice.load(path)
    model.close()
    with pytest.raises(InputError, match="the model is closed"):
        pickle.dumps(model)


def test_models_are_told_apart_by_identity(path):
    """Caches of frameworks hash what they are given."""
    model, other = ondevice.load(path), ondevice.load(path)
    assert {model: 1, other: 2}[model] == 1
    assert model != other
