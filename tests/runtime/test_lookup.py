"""Lookup specifications and their numpy executor."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import InputError, SpecError
from ondevice.lookup import look_up, table_rows
from ondevice.spec import LookupSpec, binary_code_spec, full_spec

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "block_rows.json").read_text("utf-8"))


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


any_id = st.integers(-(2**63), 2**63 - 1)


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
        ({"rows": 5}, "reaches beyond row 4"),
        ({"code_bits": 3}, "reads beyond bit 2"),
        ({"fuse": "concat", "dim": 3}, "dim divisible by 2 blocks"),
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
