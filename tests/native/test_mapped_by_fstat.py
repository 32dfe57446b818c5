"""How macOS notices that a mapped file changed (by fstat, as there is no statx), tried on Linux."""

import ctypes
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support.engine import COMPILER, ENGINE, INCLUDES, PLATFORM, needs_compiler
from support.native import random_table, write_model

from ondevice.spec import full_spec

OD_OK, OD_E_FORMAT = 0, 2
ROWS, DIM = 80_000, 32  # more than the 8 MiB that are read instead of mapped

pytestmark = needs_compiler


class Error(ctypes.Structure):
    """od_error."""

    _fields_ = (("status", ctypes.c_int), ("text", ctypes.c_char * 248))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("fstat") / "engine.so"
    command = [COMPILER, "-std=c11", "-O1", "-ffp-contract=off", "-fPIC", "-shared", *INCLUDES]
    subprocess.run([*command, "-DOD_USE_FSTAT", *ENGINE, *PLATFORM, "-o", path], check=True)
    names = subprocess.run(["nm", "-D", path], capture_output=True, text=True, check=True).stdout
    assert " U fstat" in names and " U syscall" not in names  # the other way is not in it
    return ctypes.CDLL(str(path))


@pytest.fixture
def model(library, tmp_path):
    """A mapped model: its file, and a function that scores row 7 and gives status and error."""
    path = tmp_path / "model.odm"
    spec = full_spec(ROWS, DIM)
    table = random_table(spec, "f32", np.random.default_rng(1), truncated=False)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    old = time.time() - 60
    os.utime(path, (old, old))
    error, opened, session = Error(), ctypes.c_void_p(), ctypes.c_void_p()
    at = os.fsencode(path)
    assert library.od_open_path(at, None, ctypes.byref(opened), ctypes.byref(error)) == OD_OK
    assert str(path) in Path("/proc/self/maps").read_text()
    assert library.od_session_open(opened, ctypes.byref(session), ctypes.byref(error)) == OD_OK
    ids = (ctypes.c_int64 * 1)(7)
    scores = (ctypes.c_float * DIM)()

    def run():
        inputs, outputs = (ctypes.c_void_p * 1)(), (ctypes.c_void_p * 1)()
        inputs[0], outputs[0] = ctypes.addressof(ids), ctypes.addressof(scores)
        one = ctypes.c_size_t(1)
        return library.od_run(session, inputs, one, outputs, ctypes.byref(error)), error.text

    assert run()[0] == OD_OK
    yield path, run
    library.od_session_close(session)
    library.od_close(opened)


def test_a_truncated_file_is_an_error_not_a_signal(model):
    path, run = model
    os.truncate(path, 4096)
    status, text = run()
    assert status == OD_E_FORMAT and b"while it was in use" in text


def test_an_overwritten_file_is_an_error(model):
    path, run = model
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"12345678")
    status, text = run()
    assert status == OD_E_FORMAT and b"while it was in use" in text


def test_a_file_that_is_replaced_stays(model):
    path, run = model
    other = path.with_name("other")
    other.write_bytes(b"x" * 100)
    other.replace(path)
    assert run()[0] == OD_OK
