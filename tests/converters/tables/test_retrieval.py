"""Retrieval structures: every ID reads its row, others the row for unknown ones but for 2**-f."""

import itertools
import json

import numpy as np
import pytest
from support.retrieval import CASES, case_name, golden, random_structure

from ondevice.codecs import BITS, quantise
from ondevice.converters.tables import retrieval
from ondevice.converters.tables.peeling import order, solve, solve_dense
from ondevice.converters.tables.retrieval import build_retrieval
from ondevice.errors import FileFormatError, SpecError
from ondevice.lookup import look_up, table_rows
from ondevice.records import pack_records
from ondevice.spec import LookupSpec


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_golden_vectors(case):
    spec, table, ids, vectors = golden(case)
    assert table_rows(spec, ids).tolist() == case["cells"]
    read = look_up(spec, ids, pack_records(table).read_sums)
    np.testing.assert_array_equal(read, vectors)
    assert LookupSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("count", [1, 2, 7, 100, 3000])
@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize(
    ("codec", "bits"),
    [("q4", 0), ("q4", 4), ("q4", 5), ("q3", 4), ("q2", 1), ("q1", 3), ("q1", 0), ("q8", 8)],
)
def test_every_id_reads_its_row(count, codec, bits, levels):
    levels = levels and codec != "q8"
    built, ids, vectors, unknown = random_structure(
        codec, 3, count, bits=bits, seed=count, levels=levels
    )
    read = pack_records(built.table).read_sums
    np.testing.assert_array_equal(look_up(built.spec, ids, read), vectors)
    np.testing.assert_array_equal(look_up(built.spec, np.array([0]), read), np.zeros((1, 3)))
    others = np.random.default_rng(99).integers(-(2**63), 2**63, 20_000)
    read_others = look_up(built.spec, others, read)
    assert np.isfinite(read_others).all()
    width = BITS[codec]
    expected = 2.0 ** -(width * -(-bits // width))
    if bits and count >= 100:  # a stranger's row is that of unknown IDs by chance
        strange = (read_others != unknown).any(axis=-1).mean()
        assert abs(strange - expected * (1 - 0.5 ** (3 * width))) < 0.02


def test_cells_for_an_id():
    """What docs/format.md states of the size."""
    for count, most in ((300, 1.3), (3000, 1.06), (30_000, 1.06), (300_000, 1.11)):
        built, *_ = random_structure("q4", 1, count, bits=4)
        assert count < built.spec.cells <= most * count


def test_the_same_arguments_give_the_same_structure():
    first, second = (random_structure("q4", 1, 5000, bits=4)[0] for _ in range(2))
    assert first.spec == second.spec
    np.testing.assert_array_equal(first.table.values, second.table.values)


def test_refusals():
    rows = quantise(np.ones((3, 2), np.float32), "q4", scale_axis="column")
    ids = np.array([5, 9, 5])
    for call, fault in (
        (lambda: build_retrieval(ids, rows, fingerprint_bits=4), "ID 5 occurs twice"),
        (lambda: build_retrieval(ids[:2], rows, fingerprint_bits=4), r"int64 \[3\]"),
        (lambda: build_retrieval(np.arange(3), rows, fingerprint_bits=9), "0..8 bits"),
        (
            lambda: build_retrieval(
                np.arange(3), quantise(np.ones((3, 2)), "f32"), fingerprint_bits=0
            ),
            "integer codes",
        ),
    ):
        with pytest.raises(SpecError, match=fault):
            call()


def test_fewer_cells_than_ids(monkeypatch):
    few = [retrieval._Shape(39, 4, starts, 0, 39) for starts in (39, 24)]
    monkeypatch.setattr(retrieval, "_shapes", lambda count: iter(few))
    with pytest.raises(SpecError, match="no retrieval structure for these 40 IDs"):
        random_structure("q4", 1, 40, bits=4)


def test_peeling_by_hand():
    """Equations a+b, b+c, c+d; and a cycle of three, solved by putting one of them off."""
    chain = np.array([[0, 1], [1, 2], [2, 3]], np.int32)
    found = order(chain, 4)
    assert [sorted(taken.tolist()) for taken, _ in found.rounds] == [[0, 2], [1]]
    assert not len(found.put_off)
    wanted = np.array([[7, 1], [250, 2], [9, 3]], np.uint8)
    values = solve(chain, found, wanted, 4)
    np.testing.assert_array_equal(values[chain].sum(axis=1, dtype=np.uint8), wanted)
    cycle = np.array([[0, 1, 3], [1, 2, 3], [0, 2, 3], [0, 1, 2]], np.int32)
    assert order(cycle, 4, 0) is None
    found = order(cycle, 4)
    assert len(found.put_off)
    wanted = np.array([[1], [2], [200], [4]], np.uint8)
    values = solve(cycle, found, wanted, 4)
    np.testing.assert_array_equal(values[cycle].sum(axis=1, dtype=np.uint8), wanted)


def test_dense_systems_modulo_256():
    """Against the product by plain integers; a matrix of even numbers has no inverse."""
    rng = np.random.default_rng(3)
    matrix = rng.integers(0, 256, (30, 44), dtype=np.uint8)
    wanted = rng.integers(0, 256, (30, 2), dtype=np.uint8)
    solved = solve_dense(matrix, wanted)
    product = matrix.astype(np.int64) @ solved.astype(np.int64)
    np.testing.assert_array_equal(product % 256, wanted)
    assert solve_dense(matrix & 254, wanted) is None


def test_cells_must_be_whole_codes_with_column_scales():
    for (codec, axis), widths in itertools.product(
        (("q4", "row"), ("f16", None), ("q8", "column")), (None, [1, 2, 2])
    ):
        table = pack_records(quantise(np.ones((3, 2)), codec, scale_axis=axis, widths=widths))
        with pytest.raises(FileFormatError, match="whole rows of codes of 4 bits"):
            table.layout.check_cells(4)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"retrieval": None}, "needs its hashes"),
        ({"retrieval": {"hashes": 4}}, "window"),
        ({"scheme": "full", "oov_row": None}, "takes no retrieval"),
        ({"oov_row": None}, "last row is that"),
        ({"oov_row": 3}, "last row is that"),
        ({"head": 1}, "takes no blocks"),
        ({"fuse": "mean"}, "no fuse"),
        ({"hashes": 9}, "hashes must be 1..8"),
        ({"window": 0}, "windows of 0"),
        ({"window": 13}, "4 windows of 13 cells must fit the 50 cells"),
        ({"window": 1.0}, "window must be an integer"),
        ({"starts": 0}, "starts must be 1..50"),
        ({"starts": 51}, "starts must be 1..50"),
        ({"bits": 5}, "bits must be one of"),
        ({"seed": -1}, "seed must be"),
        ({"fingerprints": 9}, "fingerprints must be 0..8"),
    ],
)
def test_contradictions_are_named(change, fault):
    data = json.loads(CASES[1]["spec"])
    if set(change) <= set(data["retrieval"]):
        data["retrieval"] |= change
    else:
        data |= change
    with pytest.raises(SpecError, match=fault):
        LookupSpec.from_dict(data)
