"""Large native files are compared with their checksums as the caller says: damage is found."""

import os
import shutil
import threading
import time
import warnings

import numpy as np
import pytest
from support.native import random_table, write_model

import ondevice
from ondevice.container import open_container
from ondevice.engines.native import is_compiled
from ondevice.errors import FileFormatError, InputError
from ondevice.odm import FULL_CHECK_BYTES
from ondevice.spec import full_spec

ROWS, DIM = 140_000, 32
IDS = np.arange(0, ROWS, 97)
SECONDS = 300  # for a thread that has a tenth of a second to compute, on a busy machine

pytestmark = pytest.mark.filterwarnings("ignore:the native engine is not compiled")
ENGINES = ["numpy", pytest.param("native", marks=pytest.mark.skipif(
    not is_compiled(), reason="the native engine is not compiled"))]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "whole.odm"
    spec = full_spec(ROWS, DIM)
    table = random_table(spec, "f32", np.random.default_rng(0), truncated=True)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    settle(path)
    assert path.stat().st_size > FULL_CHECK_BYTES
    return path


def settle(path):
    """Let a file look old: one that was just written is copied, not mapped."""
    old = time.time() - 60
    os.utime(path, (old, old))


def flipped(whole, path, at, bit=0):
    shutil.copyfile(whole, path)
    with path.open("r+b") as file:
        file.seek(at)
        value = file.read(1)[0]
        file.seek(at)
        file.write(bytes([value ^ 1 << bit]))
    settle(path)


def places(whole):
    """Bytes of every array of the file but the paddings: the first, the last and some between."""
    rng = np.random.default_rng(1)
    for name, entry in open_container(whole).stored.items():
        if name.startswith("ondevice.padding") or entry.start == entry.stop:
            continue
        drawn = rng.integers(entry.start, entry.stop, 3).tolist()
        yield from ((name, at) for at in {entry.start, entry.stop - 1, *drawn})


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flipped_bit_is_found(whole, tmp_path, engine):
    path, unseen, opened = tmp_path / "flipped.odm", [], 0
    for number, (name, at) in enumerate(places(whole)):
        flipped(whole, path, at, number % 8)
        try:
            model = ondevice.load(path, engine=engine)
        except FileFormatError:
            continue  # of the header, the plan or the description
        opened += 1
        try:
            model.check()
            unseen.append((name, at))
        except FileFormatError as error:
            assert "damaged" in str(error)
            assert str(error).count(str(path)) == 1
        with pytest.raises(FileFormatError, match="damaged"):
            model.predict({"a": IDS})
        with pytest.raises(FileFormatError, match="damaged"):
            model.rank({}, {"a": IDS})
        with pytest.raises(FileFormatError):
            ondevice.load(path, engine=engine, check="full")
    assert not unseen
    assert opened > 8  # records, index and scales of the table among them


@pytest.mark.parametrize("engine", ENGINES)
def test_a_check_in_the_background_stops_a_damaged_model(whole, tmp_path, engine):
    path = tmp_path / "flipped.odm"
    flipped(whole, path, open_container(whole).entries["table.a.records"].stop - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a thread that ends in an exception
        model = ondevice.load(path, engine=engine, check="background")
        deadline = time.monotonic() + SECONDS
        with pytest.raises(FileFormatError, match="damaged"):
            while time.monotonic() < deadline:
                model.predict({"a": IDS})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("check", ["open", "full", "background"])
def test_a_whole_file_serves_while_it_is_checked(whole, engine, check):
    model = ondevice.load(whole, engine=engine, check=check)
    right = model.predict({"a": IDS})
    faults, stop = [], threading.Event()

    def score():
        while not stop.is_set():
            try:
                if not np.array_equal(model.predict({"a": IDS}), right):
                    faults.append("wrong")
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=score) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        model.check()
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults


def test_damage_after_it_was_opened_is_found(whole, tmp_path):
    """Whoever writes into a mapped file and sets its time back is found by a check only."""
    if not is_compiled():
        pytest.skip("the numpy engine has a copy of its own")
    path = tmp_path / "m.odm"
    shutil.copyfile(whole, path)
    settle(path)
    times = path.stat()
    model = ondevice.load(path, engine="native", check="full")
    with path.open("r+b") as file:
        file.seek(open_container(whole).entries["table.a.records"].start + 5)
        file.write(b"\x55\xaa")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    model.predict({"a": IDS})
    with pytest.raises(FileFormatError, match="damaged"):
        model.check()
    os.truncate(path, 4096)
    model = ondevice.load(whole, engine="native")
    shutil.copyfile(whole, path)
    settle(path)
    model = ondevice.load(path, engine="native")
    os.truncate(path, 4096)
    with pytest.raises(FileFormatError, match="open it again"):
        model.check()


def test_closed_models_and_unknown_checks(whole):
    model = ondevice.load(whole, check="background")
    model.close()
    with pytest.raises(InputError, match="closed"):
        model.check()
    with pytest.raises(InputError, match="choose open, full, background"):
        ondevice.load(whole, check="fast")


@pytest.mark.skipif(not is_compiled(), reason="numpy reads the whole file")
@pytest.mark.parametrize("check", ["open", "background"])
def test_opening_does_not_read_the_file(whole, check):
    """Some 0.1 ms; a full check of these 9 MB takes 4."""
    seconds = []
    for _ in range(5):
        begun = time.thread_time()
        ondevice.load(whole, engine="native", check=check)
        seconds.append(time.thread_time() - begun)
    assert min(seconds) < 2e-3
