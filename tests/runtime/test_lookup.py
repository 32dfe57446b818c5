"""Lookup specifications and their numpy executor."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import InputError, SpecError
from ondevice.lookup import NO_ROW, look_up, table_rows
from ondevice.spec import (
    LookupSpec,
    Residue,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "block_rows.json").read_text("utf-8"))
SCHEMES = json.loads((FOLDER / "schemes.json").read_text("utf-8"))
MAKERS = {
    "hashing": hashing_spec,
    "multi_hash": multi_hash_spec,
    "quotient_remainder": quotient_remainder_spec,
    "binary_code": binary_code_spec,
}


def test_golden_rows():
    assert len(GOLDEN) >= 10
    for case in GOLDEN:
        spec = LookupSpec.from_json(case["spec"])
        ids = np.array([int(number) for number in case["ids"]], dtype=np.int64)
        assert table_rows(spec, ids).tolist() == case["rows"], case["settings"]


def test_constructor_agrees_with_golden_specifications():
    for case in GOLDEN:
        spec = LookupSpec.from_json(case["spec"])
        made = binary_code_spec(4, **case["settings"], multiplier=spec.multiplier)
        assert made == spec


any_id = st.integers(-(2**63), 2**63 - 1)


def golden_table(spec):
    """The table of the golden vectors (see make_schemes.py), float32 [rows, row_dim]."""
    row, column = np.ogrid[: spec.rows, : spec.row_dim]
    return ((5 * row + 3 * column + row // 7) % 11 - 5).astype(np.float32)


@pytest.mark.parametrize("case", SCHEMES, ids=lambda c: f"{c['method']}-{c['settings']}")
def test_golden_schemes(case):
    spec = LookupSpec.from_json(case["spec"])
    ids = np.array([int(number) for number in case["ids"]], dtype=np.int64)
    rows = [[row for row in found if row != NO_ROW] for found in table_rows(spec, ids).tolist()]
    assert rows == case["rows"]
    table = golden_table(spec)
    vectors = look_up(spec, ids, lambda numbers: table[numbers])
    np.testing.assert_allclose(vectors, case["vectors"], rtol=1e-6)
    sequences = np.array([[int(number) for number in row] for row in case["sequences"]])
    for pooling, expected in case["pooled"].items():
        pooled = look_up(replace(spec, pooling=pooling), sequences, lambda n: table[n])
        np.testing.assert_allclose(pooled, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SCHEMES, ids=lambda c: f"{c['method']}-{c['settings']}")
def test_makers_agree_with_golden_schemes(case):
    settings = dict(case["settings"])
    if case["method"] == "hashing":
        del settings["fuse"]  # one row has nothing to fuse
    leading = () if case["method"] == "binary_code" else ("rows", "values")
    values = [settings.pop(name) for name in leading if name in settings]
    spec = LookupSpec.from_json(case["spec"])
    assert MAKERS[case["method"]](*values, 4, **settings) == spec
    assert LookupSpec.from_json(spec.to_json()) == spec
    assert spec.to_json() == case["spec"]  # what an older release does not know is left out


@st.composite
def hash_specs(draw):
    """Hash specifications of every kind, with and without a head."""
    head = draw(st.sampled_from([0, 1, 7, 100]))
    rows = draw(st.integers(1, 200))
    kind = draw(st.sampled_from(["hashing", "multi_hash", "quotient_remainder"]))
    fuse = draw(st.sampled_from(["sum", "mean", "concat"]))
    if kind == "hashing":
        return hashing_spec(rows, 12, head=head)
    if kind == "multi_hash":
        hashes, shared, seed = draw(st.integers(1, 4)), draw(st.booleans()), draw(st.integers(0, 9))
        return multi_hash_spec(
            rows, 12, hashes=hashes, shared=shared, seed=seed, fuse=fuse, head=head
        )
    values = draw(st.integers(1, 2**30))
    return quotient_remainder_spec(values, 12, remainders=rows * 5000, fuse=fuse, head=head)


@given(hash_specs(), st.data())
def test_every_hash_is_in_range_and_repeats(spec, data):
    ids = np.array(data.draw(st.lists(any_id, min_size=1, max_size=20)), dtype=np.int64)
    rows = table_rows(spec, ids)
    assert rows.shape == (len(ids), spec.rows_per_id)
    assert rows.max() < spec.rows
    own = (ids >= 0) & (ids < spec.head)
    assert (rows[~own] >= spec.head_rows).all()
    assert (rows[own] < spec.head_rows).all()
    assert (rows[own, 0] >= 0).all()
    np.testing.assert_array_equal(rows, table_rows(spec, ids))


@pytest.mark.parametrize("remainders", [1, 2, 9, 31, 1000])
def test_quotient_and_remainder_tell_all_values_apart(remainders):
    spec = quotient_remainder_spec(1000, 4, remainders=remainders)
    rows = table_rows(spec, np.arange(1000))
    assert len(np.unique(rows, axis=0)) == 1000
    assert spec.rows == remainders + -(-1000 // remainders)


@pytest.mark.parametrize(
    "spec",
    [
        hashing_spec(13, 4, head=50),
        multi_hash_spec(13, 4, head=50, fuse="concat"),
        binary_code_spec(4, code_bits=8, t=4, head=50),
    ],
    ids=lambda spec: spec.kind,
)
def test_head_ids_share_no_row(spec):
    rows = table_rows(spec, np.arange(50))
    kept = rows[rows != NO_ROW]
    assert len(np.unique(kept)) == kept.size == spec.head_rows
    tail = table_rows(spec, np.concatenate([np.arange(50, 3000), -np.arange(1, 3000)]))
    assert not np.isin(tail, kept).any()


def test_two_hashes_are_independent():
    """Of pairs that collide in one hash, about one in `rows` collides in the other too."""
    spec = multi_hash_spec(64, 4, hashes=2)
    rows = table_rows(spec, np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 6000))
    pairs = np.zeros((64, 64), dtype=np.int64)
    np.add.at(pairs, (rows[:, 0], rows[:, 1] - 64), 1)
    first, second = pairs.sum(1), pairs.sum(0)
    expected = np.outer(first, second) / len(rows)
    chi_square = ((pairs - expected) ** 2 / expected).sum()
    assert chi_square == pytest.approx(63**2, abs=5 * (2 * 63**2) ** 0.5)


@pytest.mark.parametrize("spec", [hashing_spec(9, 4, padding_id=0), full_spec(9, 4, padding_id=0)])
def test_pooled_by_hand(spec):
    table = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    ids = np.array([[3, 0, 5, 0], [0, 0, 0, 0], [4, 4, 4, 4]])
    total = table[3] + table[5]
    read = table.__getitem__
    summed = look_up(replace(spec, pooling="sum"), ids, read)
    np.testing.assert_array_equal(summed, [total, np.zeros(4), table[4] * 4])
    mean = look_up(replace(spec, pooling="mean"), ids, read)
    np.testing.assert_array_equal(mean, [total / 2, np.zeros(4), table[4]])
    assert look_up(replace(spec, pooling="mean"), ids[:0], read).shape == (0, 4)
    with pytest.raises(InputError, match="pooling needs"):
        look_up(replace(spec, pooling="sum"), ids[0], read)


def test_kinds_have_the_names_of_the_literature():
    assert full_spec(4, 4).kind == "full"
    assert hashing_spec(4, 4).kind == "hash"
    assert hashing_spec(4, 4, head=3).kind == "hybrid hash"
    assert multi_hash_spec(4, 4).kind == "multi-hash"
    assert quotient_remainder_spec(40, 4, remainders=4).kind == "quotient-remainder"
    assert binary_code_spec(4, code_bits=8, t=4, head=3).kind == "hybrid binary code"


@st.composite
def specs(draw, most_bits=16):
    """Binary-code specifications of every shape whose blocks have at most `most_bits` bits."""
    code_bits = draw(st.integers(1, 64))
    strategy = draw(st.sampled_from(["succession", "skip"]))
    if strategy == "succession":
        t = draw(st.integers(1, min(most_bits, code_bits)))
    else:
        t = draw(st.integers(-(-code_bits // most_bits) - 1, code_bits - 1))
    shared = draw(st.booleans())
    return binary_code_spec(3, code_bits=code_bits, t=t, strategy=strategy, shared=shared)


@given(specs(), st.lists(any_id, min_size=1, max_size=20))
def test_every_row_is_in_range_for_every_pattern(spec, ids):
    rows = table_rows(spec, np.array(ids, dtype=np.int64))
    assert rows.shape == (len(ids), spec.rows_per_id)
    assert rows.min() >= 0
    assert rows.max() < spec.rows


@given(specs(), any_id, st.sampled_from([32, 64]))
def test_pieces_rebuild_the_block(spec, number, word_bits):
    """Cutting blocks at word borders must give the same values as taking bits one by one."""
    for block, pieces in zip(spec.blocks, spec.pieces(word_bits), strict=True):
        bits = [number >> (block.start + i * block.stride) & 1 for i in range(block.bits)]
        expected = sum(bit << place for place, bit in enumerate(bits))
        words = [(number >> (word_bits * piece.word)) % 2**word_bits for piece in pieces]
        got = sum(((w >> p.shift) & p.mask) * p.weight for w, p in zip(words, pieces, strict=True))
        assert got == expected


@pytest.mark.parametrize("fuse", ["sum", "mean", "concat"])
def test_fuse_by_hand(fuse):
    spec = binary_code_spec(4, code_bits=4, t=2, fuse=fuse, padding_id=9)
    table = np.arange(spec.rows * spec.row_dim, dtype=np.float32).reshape(spec.rows, -1)
    ids = np.array([[0b0110, 9]])
    out = look_up(spec, ids, lambda rows: table[rows])
    first, second = table[0b10], table[4 + 0b01]
    expected = {"sum": first + second, "mean": (first + second) / 2}
    expected = expected.get(fuse, np.concatenate([first, second]))
    assert out.shape == (1, 2, 4)
    np.testing.assert_array_equal(out[0, 0], expected)
    np.testing.assert_array_equal(out[0, 1], np.zeros(4))


def test_full_table_policies():
    ids = np.array([-1, 0, 4, 5, 2**40])
    assert table_rows(full_spec(5, 2, oov_row=1), ids)[:, 0].tolist() == [1, 0, 4, 1, 1]
    with pytest.raises(InputError, match=r"ID -1 is outside 0\.\.4"):
        table_rows(full_spec(5, 2), ids)
    assert table_rows(full_spec(5, 2, padding_id=-1), np.array([-1, 3]))[:, 0].tolist() == [0, 3]


RESIDUE = {"modulus": 3, "offset": 0, "divisor": 1, "multiplier": 1, "bits": 64}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"scheme": "magic"}, "unknown scheme"),
        ({"rows": 0}, "rows must be"),
        ({"rows": True}, "rows must be an integer"),
        ({"dim": 1025}, "dim must be"),
        ({"code_bits": 65}, "code_bits must be 1..64"),
        ({"multiplier": 2}, "multiplier must be odd"),
        ({"oov_row": 0}, "no oov_row"),
        ({"residues": [RESIDUE]}, "takes no residues"),
        ({"residues": [{"modulus": 3}]}, "residue needs exactly modulus, offset, divisor"),
        ({"residues": 3}, "'residues' must be a list"),
        ({"residues": [{"surprise": 3}]}, "surprise"),
        ({"head": -1}, "head: its -1 rows"),
        ({"head": 9}, "head: its 9 rows must be among the 8"),
        ({"head": 1.0}, "head must be an integer"),
        ({"head": 1, "fuse": "mul"}, "not with mul"),
        ({"pooling": "max"}, "pooling must be"),
        ({"pooling": "sum"}, "pooling needs a padding_id"),
        ({"rows": 5}, "reaches beyond row 4"),
        ({"code_bits": 3}, "reads beyond bit 2"),
        ({"fuse": "concat", "dim": 3}, "dim divisible by 2 rows"),
        ({"fuse": "max"}, "fuse must be"),
        ({"padding_id": 2**63}, "padding_id must fit int64"),
        ({"surprise": 1}, "surprise"),
        ({"blocks": 3}, "'blocks' must be a list"),
    ],
)
def test_contradictions_are_named(change, fault):
    data = json.loads(binary_code_spec(4, code_bits=4, t=2).to_json()) | change
    with pytest.raises(SpecError, match=fault):
        LookupSpec.from_dict(data)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"t": (3, 4)}, "code_bits 8 or more together needed"),
        ({"t": (9, 1)}, r"1\.\.8 bits each"),
        ({"t": (8, 0)}, r"1\.\.8 bits each"),
        ({"t": ()}, "or more together needed"),
        ({"t": (4, 4), "strategy": "skip"}, "got skip"),
        ({"t": 4, "rows": 15}, r"blocks of \[16, 16\] rows have 16 to 32 together, got rows=15"),
        ({"t": 4, "rows": 33}, "16 to 32"),
        ({"t": 4, "rows": 20, "shared": True}, "16 to 16"),
    ],
)
def test_impossible_blocks_are_named(settings, fault):
    with pytest.raises(SpecError, match=fault):
        binary_code_spec(4, code_bits=8, **settings)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"modulus": 0}, "1 <= divisor <= modulus"),
        ({"modulus": 2**31}, "1 <= divisor <= modulus"),
        ({"divisor": 0}, "1 <= divisor <= modulus"),
        ({"divisor": 10}, "1 <= divisor <= modulus"),
        ({"modulus": 9.0}, r"residues\[0\].modulus must be an integer"),
        ({"offset": 1}, "residue 0 reaches beyond row 8"),
        ({"offset": -1}, "residue 0 reaches beyond row 8"),
        ({"multiplier": 2}, "multiplier must be odd"),
        ({"multiplier": 2**64 + 1}, "multiplier must be odd and fit 64 bits"),
        ({"bits": 32}, "bits must be 64 or 31"),
    ],
)
def test_contradictions_of_a_residue_are_named(change, fault):
    data = json.loads(hashing_spec(9, 4).to_json())
    data["residues"] = [dict(data["residues"][0]) | change]
    with pytest.raises(SpecError, match=fault):
        LookupSpec.from_dict(data)


def test_contradictions_of_hash_makers_are_named():
    for make, fault in (
        (lambda: multi_hash_spec(4, 4, hashes=0), r"1\.\.64 hashes"),
        (lambda: quotient_remainder_spec(10, 4, remainders=0), "remainders >= 1"),
        (lambda: quotient_remainder_spec(10, 4, remainders=3, fuse="mul", head=2), "not with mul"),
        (lambda: quotient_remainder_spec(2**32, 4, remainders=2**16), "modulus <="),
        (lambda: hashing_spec(0, 4), "rows must be"),
        (lambda: LookupSpec("hash", 4, 4), r"1\.\.64 residues"),
        (lambda: LookupSpec("hash", 4, 4, residues=(Residue(4),), code_bits=3), "not code_bits"),
        (
            lambda: LookupSpec("hash", 4, 4, residues=(Residue(4), Residue(4, bits=31))),
            "same number of bits",
        ),
        (lambda: LookupSpec("full", 4, 4, head=2), "no residues or head"),
    ):
        with pytest.raises(SpecError, match=fault):
            make()


def test_all_faults_are_listed_at_once():
    with pytest.raises(SpecError) as caught:
        LookupSpec("binary_code", 0, 0, code_bits=0, multiplier=2)
    for fault in ("rows", "dim", "code_bits", "multiplier", "blocks"):
        assert fault in str(caught.value)


def test_json_round_trip():
    spec = binary_code_spec(8, code_bits=33, t=3, strategy="skip", multiplier=2**64 - 1)
    assert LookupSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match="not JSON"):
        LookupSpec.from_json("{")
