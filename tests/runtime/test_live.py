"""`ondevice.Live`: a file that is replaced under load; ONDEVICE_SWITCHES sets how often."""

import ctypes
import gc
import os
import sys
import threading
import time
import weakref
from array import array
from pathlib import Path

import numpy as np
import pytest
from support.native import write_hybrids
from support.odm_parts import put_together, take_apart
from support.runtime import small_ids, write_small_model

import ondevice
from ondevice.engines.native import is_compiled
from ondevice.errors import FileFormatError

SWITCHES = int(os.environ.get("ONDEVICE_SWITCHES", "300"))
SOAK_SECONDS = float(os.environ.get("ONDEVICE_SOAK_SECONDS", "0"))
THREADS = 8
PAUSE = (
    0.001  # seconds between a thread's requests: else Python's lock leaves two switches a second
)
ENGINES = ["numpy", *(["native"] if is_compiled() else [])]


@pytest.fixture
def versions(request, tmp_path):
    """Two files of other weights, and what they score."""
    paths = [tmp_path / f"v{i}.odm" for i in range(2)]
    write_small_model(paths[0], vectors=False)
    parts = take_apart(paths[0])
    parts.arrays["weight.b2"] = np.float32([0.5])
    put_together(paths[1], parts)
    engine = request.param if hasattr(request, "param") else "auto"
    scores = [ondevice.load(path, engine=engine).predict(small_ids(4)) for path in paths]
    assert not np.array_equal(*scores)
    return [path.read_bytes() for path in paths], scores


def replace(path, data):
    """As an update does it: write beside the file, then rename."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(data)
    fresh.replace(path)


@pytest.mark.parametrize(("engine", "versions"), [(e, e) for e in ENGINES], indirect=["versions"])
def test_requests_go_on_while_the_file_is_replaced(engine, versions, tmp_path, record_property):
    """No request fails or gets anything but one version's scores; all versions serve."""
    contents, scores = versions
    path = tmp_path / "live.odm"
    path.write_bytes(contents[0])
    limits = growth_limits(lambda: ondevice.load(path, engine=engine))
    live = ondevice.Live(path, engine=engine, check_seconds=0)
    stop, faults, served = threading.Event(), [], [0, 0]

    def serve():
        ids = small_ids(4)
        while not stop.is_set():
            try:
                got = live.predict(ids)
                which = [np.array_equal(got, expected) for expected in scores]
                served[which.index(True)] += 1
                time.sleep(PAUSE)
            except Exception as error:  # whatever it is, it is a fault
                faults.append(error)
                return

    threads = [threading.Thread(target=serve) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SOAK_SECONDS
    memory = [array("d") for _ in range(3)]  # arrays: what counts must not be counted
    switches = 0
    # a busy processor may let the other threads begin late
    while (switches < SWITCHES or not all(served) or time.monotonic() < end) and not faults:
        replace(path, contents[switches % 2])
        live.refresh()
        switches += 1
        if switches % 20 == 0:
            for numbers, now in zip(memory, memory_in_use(), strict=True):
                numbers.append(now)
    stop.set()
    for thread in threads:
        thread.join()
    growth = [float(np.mean(numbers[-20:]) - np.mean(numbers[20:40])) for numbers in memory]
    figures = (
        f"{switches} switches, {sum(served)} requests, {len(faults)} failed; growth of {KINDS}"
    )
    record_property("live", f"{engine}: {figures}: {growth}, limits {limits}")
    for kind, numbers in zip(KINDS, memory, strict=True):
        curve = [int(number) for number in numbers[:: max(1, len(numbers) // 24)]]
        record_property(f"{kind}, at 24 equal distances", str(curve))
    assert not faults
    assert min(served) > 0
    assert live.error is None
    if len(memory[0]) > 100:
        assert all(np.less(growth, limits)), f"{KINDS} grew by {growth}, limits are {limits}"


KINDS = ("Python's blocks", "bytes given out", "resident bytes")


def growth_limits(load):
    """How much more memory a program that serves by `Live` can hold without losing any.

    Of models, THREADS + 2 may be open: one for each request, the current one and the next. What the
    C library has given out includes up to 0.24 MB of freed pieces that each thread keeps (glibc's
    tcache: 7 pieces of each of 64 sizes). Resident is what was given out at the highest moment of
    each arena: each thread has one, and any of them may have opened all models that were open at
    once. That twice, as free pieces between others are lost for larger ones. At its end an arena
    keeps twice the largest piece that was ever mapped and freed. That is Python's table of interned
    names, of 1.92 MB here, to which `pathlib` adds the parts of each path, so that it is built anew
    every some thousand switches, by any thread. Python's small objects come in steps of 1 MiB: two
    of them.
    """
    load().predict(small_ids(4))
    before = memory_in_use()
    models = [load() for _ in range(THREADS + 2)]
    for model in models:
        model.predict(small_ids(4))
    blocks, given, _ = (now - then for now, then in zip(memory_in_use(), before, strict=True))
    freed = 0.24e6 * (THREADS + 1)
    kept = (2 * given + 2 * 1.92e6) * (THREADS + 1)
    return [blocks + 1000, given + freed, freed + kept + 2 * 2**20]


class MallInfo(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    )  # fmt: skip


def memory_in_use():
    """Python's blocks; bytes that the C library has given out; resident bytes of the process.

    A collection first empties Python's free lists, which hold up to 40,000 tuples.
    """
    gc.collect()
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33
    given = 0
    if function is not None:
        function.restype = MallInfo
        info = function()
        given = info.uordblks + info.hblkhd
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return sys.getallocatedblocks(), given, resident


@pytest.mark.parametrize(("engine", "versions"), [(e, e) for e in ENGINES], indirect=["versions"])
def test_a_broken_file_leaves_the_old_one(engine, versions, tmp_path):
    contents, scores = versions
    path = tmp_path / "live.odm"
    path.write_bytes(contents[0])
    live = ondevice.Live(path, engine=engine, check_seconds=None)
    replace(path, contents[1][:-100])
    with pytest.warns(RuntimeWarning, match="stays"), pytest.raises(FileFormatError):
        live.refresh()
    with pytest.raises(FileFormatError):  # as long as it is there
        live.refresh()
    np.testing.assert_array_equal(live.predict(small_ids(4)), scores[0])
    path.unlink()
    with pytest.warns(RuntimeWarning, match="no such file"), pytest.raises(FileFormatError):
        live.refresh()
    np.testing.assert_array_equal(live.predict(small_ids(4)), scores[0])
    replace(path, contents[1])
    assert live.refresh()
    assert not live.refresh()
    assert live.error is None
    np.testing.assert_array_equal(live.predict(small_ids(4)), scores[1])
    context = {name: ids[:1] for name, ids in small_ids(4).items() if name == "user"}
    items = {name: ids for name, ids in small_ids(4).items() if name != "user"}
    np.testing.assert_array_equal(live.rank(context, items), live.model.rank(context, items))


def test_a_model_of_other_inputs_is_not_taken(versions, tmp_path):
    contents, scores = versions
    path = tmp_path / "live.odm"
    path.write_bytes(contents[0])
    live = ondevice.Live(path, check_seconds=None)
    write_hybrids(tmp_path / "other.odm")
    replace(path, (tmp_path / "other.odm").read_bytes())
    with pytest.warns(RuntimeWarning), pytest.raises(FileFormatError, match="the one in use"):
        live.refresh()
    np.testing.assert_array_equal(live.predict(small_ids(4)), scores[0])


def test_the_old_model_is_released_with_its_last_request(versions, tmp_path):
    contents, _ = versions
    path = tmp_path / "live.odm"
    path.write_bytes(contents[0])
    live = ondevice.Live(path, check_seconds=None)
    held = live.model  # as a request holds it
    gone = weakref.ref(held)
    replace(path, contents[1])
    assert live.refresh()
    gc.collect()
    assert gone() is held
    del held
    gc.collect()
    assert gone() is None


def test_requests_look_for_a_new_file_once_in_a_while(versions, tmp_path, monkeypatch):
    contents, scores = versions
    path = tmp_path / "live.odm"
    path.write_bytes(contents[0])
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    live = ondevice.Live(path, check_seconds=1)
    replace(path, contents[1])
    clock[0] += 0.5
    np.testing.assert_array_equal(live.predict(small_ids(4)), scores[0])
    clock[0] += 1
    np.testing.assert_array_equal(live.predict(small_ids(4)), scores[1])
    replace(path, b"broken")
    clock[0] += 1
    with pytest.warns(RuntimeWarning, match="stays"):
        np.testing.assert_array_equal(live.predict(small_ids(4)), scores[1])
    assert isinstance(live.error, FileFormatError)
