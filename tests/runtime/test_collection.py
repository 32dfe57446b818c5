"""Pauses of the garbage collector: it is as before afterwards, whatever happened in between."""

import gc
import threading

import pytest

from ondevice.collection import collection_paused


@pytest.fixture(autouse=True)
def collector():
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was_enabled else gc.disable)()


def test_it_is_off_within_and_on_afterwards():
    with collection_paused():
        assert not gc.isenabled()
        with collection_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_on_after_an_error():
    with pytest.raises(KeyError), collection_paused():
        raise KeyError
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()


def test_threads_that_overlap_leave_it_as_it_was():
    begun, may_end = threading.Event(), threading.Event()

    def pause():
        with collection_paused():
            begun.set()
            may_end.wait(120)

    other = threading.Thread(target=pause)
    with collection_paused():
        other.start()
        begun.wait(120)
    assert not gc.isenabled()  # the other thread still needs it off
    may_end.set()
    other.join()
    assert gc.isenabled()
