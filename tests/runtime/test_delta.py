"""Deltas: hand-written ones by every operation, every kind of damage, sizes, bounded memory."""

import io
import random
import struct
import tracemalloc

import numpy as np
import pytest
from support.deltas import block, header, mutants, operation, retrained, write_arrays, write_pair

from ondevice.delta.apply import apply_delta, read_delta
from ondevice.delta.create import create_delta
from ondevice.errors import BaseMismatchError, FileFormatError, OnDeviceError, OutputError
from ondevice.limits import MAX_DELTA_BYTES
from ondevice.manifest import ModelSet, new_manifest, record

COPY, ADD, XOR, NEW, WORDS, HALVES, SPARSE = range(7)
OLD = bytes(range(16, 48))


def applied(delta, old):
    new = io.BytesIO()
    apply_delta(io.BytesIO(delta), io.BytesIO(old), new, ("d.odd", "old.odm"))
    return new.getvalue()


def made_by(old, new, tmp_path, manifest=None):
    """The delta of two byte strings; it is checked that it gives back the second."""
    (tmp_path / "a.odm").write_bytes(old)
    (tmp_path / "b.odm").write_bytes(new)
    delta = create_delta(tmp_path / "a.odm", tmp_path / "b.odm", manifest)
    assert applied(delta, old) == new
    return delta


@pytest.mark.parametrize(
    "codes, data, new",
    [
        (operation(COPY, 4), b"", OLD[:4]),
        (operation(COPY, 4, 8 * 8), b"", OLD[8:12]),
        (operation(COPY, 4, 64) + operation(COPY, 2, -64 - 32), b"", OLD[8:12] + OLD[:2]),
        (operation(ADD, 3), b"\x01\xff\x00", bytes([17, 16, 18])),
        (operation(XOR, 2), b"\x10\x01", bytes([0, 16])),
        (operation(NEW, 3), b"abc", b"abc"),
        (operation(COPY, 1) + operation(NEW, 1) + operation(COPY, 1), b"!", b"\x10!\x11"),
        # from bit 4 on: the high half of 16 and the low half of 17, and so on
        (operation(COPY, 2, 4), b"", bytes([0x11, 0x21])),
        # 0x13121110 + 1 and 0x17161514 - 1, in planes of the lowest bytes first
        (operation(WORDS, 8), b"\x02\x01" + bytes(6), b"\x11\x11\x12\x13\x13\x15\x16\x17"),
        # 0x1110 + 256 = zigzag 0x0200
        (operation(HALVES, 2), b"\x00\x02", b"\x10\x12"),
        # a difference of 1, of -1 after one 0, and of 9 after none
        (operation(SPARSE, 4), bytes([0, 4, 2, 9]), bytes([17, 17, 17, 28])),
        (operation(SPARSE, 4), bytes([255]), OLD[:4]),
        (operation(SPARSE, 3) + operation(NEW, 1), bytes([3, 255]) + b"!", b"\x10\x12\x12!"),
    ],
)
def test_every_operation_by_hand(codes, data, new):
    assert applied(header(OLD, new) + block(codes, data), OLD) == new


def test_blocks_follow_one_another_and_places_go_on():
    new = OLD[:4] + OLD[4:8]
    assert applied(header(OLD, new) + 2 * block(operation(COPY, 4)), OLD) == new


FAULTS = {
    "no magic": (b"x" * 92, "not a delta"),
    "header cut off": (header(OLD, OLD)[:91], "cut off"),
    "manifest cut off": (header(OLD, OLD, b"{}")[:-1], "manifest"),
    "no block": (header(OLD, OLD), "cut off"),
    "more follows": (header(OLD, OLD[:1]) + block(operation(COPY, 1)) + b"!", "follow"),
    "wrong result": (header(OLD, OLD[:1]) + block(operation(NEW, 1), b"x"), "damaged"),
    "before the old file": (header(OLD, OLD) + block(operation(COPY, 1, -1)), "bit -1"),
    "behind the old file": (header(OLD, OLD) + block(operation(COPY, 2, 241)), "bit 241"),
    "behind the new file": (header(OLD, OLD[:3]) + block(operation(COPY, 4)), "lacks 3"),
    "of no bytes": (header(OLD, OLD) + block(operation(COPY, 0)), "0 bytes"),
    "huge": (header(OLD, OLD) + block(operation(COPY, 2**58)), "lacks 32"),
    "moved far": (header(OLD, OLD) + block(operation(COPY, 1, 2**61)), "from bit"),
    "data missing": (header(OLD, OLD) + block(operation(NEW, 2), b"x"), "more than its data"),
    "data unused": (header(OLD, OLD) + block(operation(NEW, 1), b"xx"), "uses 1 bytes"),
    "moved and new": (header(OLD, OLD) + block(operation(NEW, 1, 8), b"x"), "does not read"),
    "unknown kind": (header(OLD, OLD) + block(operation(7, 1), b"x"), "kind 7"),
    "sparse data missing": (header(OLD, OLD) + block(operation(SPARSE, 2), b"\0"), "more than"),
    "sparse without codes": (header(OLD, OLD) + block(operation(SPARSE, 2)), "more than"),
    "no large difference": (header(OLD, OLD) + block(operation(SPARSE, 1), b"\2"), "more than"),
    "difference beyond": (header(OLD, OLD) + block(operation(SPARSE, 1), b"\3"), "leaves its"),
    "sparse and long": (
        header(bytes(2**17), bytes(2**17)) + block(operation(SPARSE, 65_537), bytes([255] * 772)),
        "at most 65536",
    ),
    "half a word": (header(OLD, OLD) + block(operation(WORDS, 6), bytes(6)), "whole number"),
    "half a half": (header(OLD, OLD) + block(operation(HALVES, 3), bytes(3)), "whole number"),
    "number cut off": (header(OLD, OLD) + block(b"\x80"), "a number is cut off"),
    "number too long": (header(OLD, OLD) + block(b"\x80" * 9 + b"\x01"), "more than 9"),
    "no operations": (header(OLD, OLD) + block(b"", b"x"), "block of 0"),
    "stream cut off": (header(OLD, OLD) + block(operation(COPY, 1))[:-1], "block"),
    "no stream": (header(OLD, OLD) + block(b"\x10", packed=b"\xff\xff"), "DEFLATE"),
    "stream too short": (header(OLD, OLD) + block(b"\x10", sizes=(2, 0, 3)), "2 bytes long"),
    "bomb": (
        header(OLD, OLD) + block(operation(NEW, 10), bytes(60_000), sizes=(2, 10, 78)),
        "12 bytes long",
    ),
    "too many codes": (header(OLD, OLD) + block(b"\x10", sizes=(65_537, 0, 3)), "at most"),
    "too much data": (header(OLD, OLD) + block(b"\x10", sizes=(1, 65_537, 3)), "at most"),
    "long stream": (header(OLD, OLD) + block(b"\x10", sizes=(1, 0, 1026)), "at most"),
    "fills the disk": (
        header(OLD, OLD)[:16] + struct.pack("<Q", 2**40) + header(OLD, OLD)[24:],
        "more than",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_refused_by_name(name):
    delta, text = FAULTS[name]
    with pytest.raises(FileFormatError, match=text):
        applied(delta, bytes(2**17) if name == "sparse and long" else OLD)


def test_another_old_file_is_refused(tmp_path):
    delta = made_by(OLD, OLD[::-1], tmp_path)
    with pytest.raises(BaseMismatchError, match="has 31 bytes"):
        applied(delta, OLD[1:])
    with pytest.raises(BaseMismatchError, match="SHA-256"):
        applied(delta, b"!" + OLD[1:])


def test_models_and_their_delta(tmp_path):
    old, new = write_pair(tmp_path)
    delta = create_delta(old, new)
    assert applied(delta, old.read_bytes()) == new.read_bytes()
    assert len(delta) < new.stat().st_size // 4
    same = create_delta(new, new)
    assert len(same) < 92 + 12 + 50  # copies


def test_rows_of_a_retrain_cost_what_changed(tmp_path):
    before, after = retrained(np.random.default_rng(0), 50_000, 2000)
    write_arrays(tmp_path / "a.odm", {"table.t.records": before})
    write_arrays(tmp_path / "b.odm", {"table.t.records": after})
    delta = create_delta(tmp_path / "a.odm", tmp_path / "b.odm")
    assert applied(delta, (tmp_path / "a.odm").read_bytes()) == (tmp_path / "b.odm").read_bytes()
    assert len(delta) < 2000 * 5  # a byte and where it lies


def test_codes_that_change_by_one_cost_a_symbol_each(tmp_path):
    """One byte of 20 changes by 1: the entropy is .34 bits a byte, a plain DEFLATE takes .6."""
    rng = np.random.default_rng(6)
    before = rng.integers(0, 256, 100_000, dtype=np.uint8)
    change = rng.choice(np.array([0] * 38 + [1, 255], np.uint8), before.size)
    write_arrays(tmp_path / "a.odm", {"w": before})
    write_arrays(tmp_path / "b.odm", {"w": before + change})
    delta = create_delta(tmp_path / "a.odm", tmp_path / "b.odm")
    assert applied(delta, (tmp_path / "a.odm").read_bytes()) == (tmp_path / "b.odm").read_bytes()
    assert len(delta) < 0.4 * before.size / 8


def test_inserted_rows_of_any_width_are_found(tmp_path):
    """Rows of 3 bits a value shift all that follow by bits, which are no whole bytes."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2, (4000, 21), dtype=np.uint8)
    larger = np.insert(rows, rng.integers(0, 4000, 20), rng.integers(0, 2, 21), axis=0)
    packed = [np.packbits(bits.reshape(-1), bitorder="little") for bits in (rows, larger)]
    delta = made_by(packed[0].tobytes(), packed[1].tobytes(), tmp_path)
    assert len(delta) < 20 * 30


def test_random_edits_are_made_up_for(tmp_path):
    rng = random.Random(2)  # noqa: S311
    for _ in range(30):
        old = rng.randbytes(rng.randrange(0, 3000))
        new = bytearray(old)
        for _ in range(rng.randrange(6)):
            at = rng.randrange(len(new) + 1)
            if rng.random() < 0.5:
                new[at:at] = rng.randbytes(rng.randrange(40))
            else:
                del new[at : at + rng.randrange(40)]
        made_by(old, bytes(new), tmp_path)


def test_floats_and_halves_by_planes(tmp_path):
    rng = np.random.default_rng(3)
    for dtype, unit in (("<f4", 4), ("<f2", 2)):
        before = rng.normal(size=20_000).astype(dtype)
        after = (before * (1 + 1e-3 * rng.normal(size=before.size))).astype(dtype)
        delta = made_by(before.tobytes(), after.tobytes(), tmp_path)
        write_arrays(tmp_path / "a.odm", {"w": before})
        write_arrays(tmp_path / "b.odm", {"w": after})
        delta = create_delta(tmp_path / "a.odm", tmp_path / "b.odm")
        old = (tmp_path / "a.odm").read_bytes()
        assert applied(delta, old) == (tmp_path / "b.odm").read_bytes()
        assert len(delta) < 0.75 * unit * before.size


def test_a_manifest_travels_along_and_must_list_the_new_file(tmp_path):
    old, new = write_pair(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(new_manifest(ModelSet({"model.odm": record(new)}, 7)).to_bytes())
    delta = create_delta(old, new, manifest)
    start = read_delta(io.BytesIO(delta), "d.odd")
    assert start.manifest == manifest.read_bytes()
    assert applied(delta, old.read_bytes()) == new.read_bytes()
    with pytest.raises(FileFormatError, match="no file that it lists"):
        create_delta(new, old, manifest)


def test_a_file_far_larger_than_the_old_one_has_no_delta(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with (tmp_path / "b").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(OutputError, match="no delta"):
        create_delta(tmp_path / "a", tmp_path / "b")


def test_memory_does_not_grow_with_the_files(tmp_path):
    """Traced allocations of applying deltas to files of 1 and of 16 MiB."""
    peaks = []
    for size in (2**20, 2**24):
        rng = np.random.default_rng(4)
        old = rng.integers(0, 256, size, dtype=np.uint8)
        new = old.copy()
        new[::10_000] += 1
        write_arrays(tmp_path / "a.odm", {"table": old})
        write_arrays(tmp_path / "b.odm", {"table": new})
        (tmp_path / "d.odd").write_bytes(create_delta(tmp_path / "a.odm", tmp_path / "b.odm"))
        names = ("d.odd", "a.odm")
        with (
            (tmp_path / "d.odd").open("rb") as delta,
            (tmp_path / "a.odm").open("rb") as before,
            (tmp_path / "c.odm").open("wb") as after,
        ):
            tracemalloc.start()
            apply_delta(delta, before, after, names)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (tmp_path / "c.odm").read_bytes() == (tmp_path / "b.odm").read_bytes()
    assert max(peaks) < 2**20
    assert peaks[1] < 1.2 * peaks[0] + 10_000


def test_mutants_of_a_delta_are_refused_or_right(tmp_path):
    """Bytes changed, cut and repeated, and the numbers of operations under a valid stream."""
    old_path, new_path = write_pair(tmp_path)
    old, new = old_path.read_bytes(), new_path.read_bytes()
    delta = create_delta(old_path, new_path)
    rng = random.Random(5)  # noqa: S311
    refused = 0
    for mutant in mutants(delta, rng, 1500):
        try:
            assert applied(mutant, old) == new
        except OnDeviceError:
            refused += 1
    assert refused > 1000


def test_limits_bound_a_block():
    assert MAX_DELTA_BYTES == 65_536  # docs/format.md and the C library say so
