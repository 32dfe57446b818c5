"""The C library applies deltas as Python does: golden ones, faults, mutants, on ARM."""

import ctypes
import io
import random
import subprocess
import zlib
from ctypes import CFUNCTYPE, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path

import pytest
from support.arm import COMPILERS, cannot_build
from support.delta_programs import check_program, golden, goldens, in_python
from support.deltas import mutants, write_pair
from support.engine import (
    COMPILER,
    SANITIZERS,
    WARNED,
    listed,
    loaded_bytes,
    needs_compiler,
    needs_sanitizers,
)
from support.tools import require
from support.update import Error, compiled_update

from ondevice.delta.create import create_delta
from ondevice.errors import OnDeviceError

PROGRAM = Path(__file__).with_name("apply_deltas.c")
INPUT, FORMAT, MEMORY, SYSTEM = 1, 2, 4, 5
MOST_BYTES = 60_000
pytestmark = needs_compiler


class Header(ctypes.Structure):
    _fields_ = (
        ("old_bytes", c_uint64),
        ("new_bytes", c_uint64),
        ("old_sha256", c_uint8 * 32),
        ("new_sha256", c_uint8 * 32),
        ("manifest_bytes", c_uint32),
    )


ReadOld = CFUNCTYPE(c_int, c_void_p, c_uint64, c_void_p, c_size_t)
ReadDelta = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
WriteNew = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
Inflate = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)


class Files(ctypes.Structure):
    _fields_ = (
        ("read_old", ReadOld),
        ("read_delta", ReadDelta),
        ("write_new", WriteNew),
        ("inflate", Inflate),
        ("user", c_void_p),
    )


class Failed(Exception):
    def __init__(self, error):
        super().__init__(error.text.decode())
        self.status = error.status


class Library:
    """od_delta_read and od_delta_apply on bytes in memory."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.od_delta_memory.restype = c_size_t
        self.library.od_delta_read.argtypes = (c_char_p, c_size_t, c_void_p, c_void_p)

    def apply(self, delta, old, *, inflate=None, memory=None, full=None):
        """The new bytes; `full`: how many can be written. Raises Failed."""
        error, start = Error(), Header()
        read = self.library.od_delta_read
        if read(delta, min(len(delta), 92), ctypes.byref(start), ctypes.byref(error)):
            raise Failed(error)
        rest, new = io.BytesIO(delta[92 + start.manifest_bytes :]), bytearray()

        def read_old(_, at, to, size):
            part = old[at : at + size]
            ctypes.memmove(to, part, len(part))
            return len(part) != size

        def read_delta(_, to, size):
            part = rest.read(size)
            ctypes.memmove(to, part, len(part))
            return len(part) != size

        def write_new(_, data, size):
            new.extend(ctypes.string_at(data, size))
            return full is not None and len(new) > full

        def unpack(_, data, size, to, to_size):
            try:
                part = zlib.decompress(ctypes.string_at(data, size), -15)
            except zlib.error:
                return 1
            ctypes.memmove(to, part[:to_size], min(len(part), to_size))
            return len(part) != to_size

        files = Files(
            ReadOld(read_old),
            ReadDelta(read_delta),
            WriteNew(write_new),
            Inflate(unpack) if inflate else Inflate(),
            None,
        )
        size = self.library.od_delta_memory() if memory is None else memory
        held = ctypes.create_string_buffer(max(1, size))
        if self.library.od_delta_apply(
            ctypes.byref(start), ctypes.byref(files), held, c_size_t(size), ctypes.byref(error)
        ):
            raise Failed(error)
        return bytes(new)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return Library(compiled_update(tmp_path_factory.mktemp("delta")))


@pytest.mark.parametrize("inflate", [False, True])
@pytest.mark.parametrize("name", goldens())
def test_golden_deltas(library, name, inflate):
    delta, old, new = golden(name)
    assert in_python(delta, old) == new
    assert library.apply(delta, old, inflate=inflate) == new


def test_every_fault_has_its_status(library):
    delta, old, _ = golden("model")
    with pytest.raises(Failed, match="another file") as raised:
        library.apply(delta, b"!" + old[1:])
    assert raised.value.status == INPUT
    with pytest.raises(Failed, match="cannot be read") as raised:
        library.apply(delta, old[:-1])
    assert raised.value.status == SYSTEM
    with pytest.raises(Failed, match="cannot be written") as raised:
        library.apply(delta, old, full=10)
    assert raised.value.status == SYSTEM
    with pytest.raises(Failed, match="bytes of memory") as raised:
        library.apply(delta, old, memory=1000)
    assert raised.value.status == MEMORY
    with pytest.raises(Failed, match="damaged") as raised:
        library.apply(delta[:-1], old)
    assert raised.value.status == FORMAT
    assert library.library.od_delta_memory() < 300_000


def test_mutants_are_accepted_and_refused_as_in_python(library, tmp_path):
    old_path, new_path = write_pair(tmp_path)
    old = old_path.read_bytes()
    accepted = 0
    for mutant in mutants(create_delta(old_path, new_path), random.Random(6), 600):  # noqa: S311
        try:
            expected = in_python(mutant, old)
        except OnDeviceError:
            with pytest.raises(Failed):
                library.apply(mutant, old)
        else:
            accepted += 1
            assert library.apply(mutant, old) == expected
    assert accepted < 300


def test_the_library_stays_small(tmp_path):
    assert loaded_bytes(compiled_update(tmp_path)) <= MOST_BYTES


def built(folder, compiler, *flags):
    program = folder / "apply_deltas"
    sources = [PROGRAM, *listed("update/sources.txt")]
    subprocess.run([compiler, *WARNED, "-Werror", *flags, *sources, "-o", program], check=True)
    return program


@needs_sanitizers
def test_goldens_and_mutants_under_the_sanitizers(tmp_path):
    program = built(tmp_path, COMPILER, "-g", *SANITIZERS)
    check_program([program], tmp_path)


@pytest.mark.parametrize("architecture", COMPILERS)
def test_goldens_and_mutants_on_arm(tmp_path, architecture):
    require(cannot_build(architecture))
    program = built(tmp_path, COMPILERS[architecture], "-static")
    check_program([f"qemu-{architecture}-static", program], tmp_path)
