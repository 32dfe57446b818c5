"""Quantised tables and row records: hand-computed bytes, error bounds, round trips."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.codecs import quantise
from ondevice.errors import FileFormatError, SpecError
from ondevice.records import TAIL_BYTES, RecordLayout, RecordTable, pack_records


def test_q8_by_hand():
    table = quantise([[1.0, -0.5, 0.25, 0.0]], "q8", scale_axis="row")
    scale = np.float32(np.float16(1 / 127))
    expected = [round(value / float(scale)) for value in (1.0, -0.5, 0.25, 0.0)]
    assert table.values.tolist() == [[min(127, code) for code in expected]]
    assert table.scales.dtype == np.float16
    np.testing.assert_array_equal(
        table.dequantise(), (np.float32(table.values) * scale).astype(np.float32)
    )


def test_rounding_is_half_to_even():
    table = quantise([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]], "q4", scale_axis="column")
    assert table.scales[0] == 1.0
    # one column each: every other column's scale makes its only value the largest code
    assert table.values[0].tolist() == [7, 7, 7, 7, -7, -7]
    row = quantise([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]], "q4", scale_axis="row")
    assert row.values[0].tolist() == [7, 0, 2, 2, 0, -2]


def test_record_bytes_by_hand_q4_row_scales():
    table = quantise([[7.0, -7.0, 1.0], [2.0, 0.0, 0.0]], "q4", widths=[3, 1], scale_axis="row")
    packed = pack_records(table)
    one = struct.pack("<e", 1.0) + bytes([0x97, 0x01])
    two = struct.pack("<e", np.float16(2 / 7)) + bytes([0x07])
    assert packed.records.tobytes() == one + two + bytes(TAIL_BYTES)
    # base width 2 (1 byte), step 2: codes 1 and 0
    assert (packed.layout.width_base, packed.layout.width_step) == (2, 2)
    assert packed.index.tobytes() == struct.pack("<I", 0) + bytes([0x01]) + bytes(7)


def test_record_bytes_by_hand_q8_column_scales():
    packed = pack_records(quantise([[127.0, 254.0], [-127.0, 2.0]], "q8", scale_axis="column"))
    assert packed.records.tobytes() == bytes([127, 127, 129, 1]) + bytes(TAIL_BYTES)
    assert packed.scales.tolist() == [1.0, 2.0]
    assert packed.index.size == 0


@st.composite
def tables(draw):
    rows, dim = draw(st.integers(1, 50)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=(rows, dim)).astype(np.float32) * 10.0 ** draw(st.integers(-3, 3))
    widths = draw(
        st.sampled_from([None, rng.integers(1, dim + 1, rows), rng.integers(0, dim + 1, rows)])
    )
    return values, widths


@settings(max_examples=150, deadline=None)
@given(
    tables(), st.sampled_from(["f32", "f16", "q8", "q4"]), st.sampled_from([None, "row", "column"])
)
def test_records_hold_the_quantised_table(table, codec, axis):
    values, widths = table
    quantised = quantise(values, codec, widths=widths, scale_axis=axis)
    packed = pack_records(quantised)
    packed.validate("t")
    rows = np.arange(len(values))
    np.testing.assert_array_equal(packed.read(rows), quantised.dequantise())
    np.testing.assert_array_equal(packed.read(rows[None, ::-1]), quantised.dequantise()[None, ::-1])
    if widths is not None:
        assert (packed.widths() >= widths).all()
        dropped = np.arange(values.shape[1]) >= widths[:, None]
        assert not packed.read(rows)[dropped].any()


@settings(max_examples=100, deadline=None)
@given(tables(), st.sampled_from(["q8", "q4"]), st.sampled_from(["row", "column"]))
def test_error_is_at_most_half_a_step(table, codec, axis):
    values, widths = table
    quantised = quantise(values, codec, widths=widths, scale_axis=axis)
    kept = np.ones_like(values, bool)
    if widths is not None:
        kept = np.arange(values.shape[1]) < widths[:, None]
    largest = 127 if codec == "q8" else 7
    peak = np.abs(np.where(kept, values, 0)).max(axis=1 if axis == "row" else 0, keepdims=True)
    # float16 scales are off by up to 2**-11, which the largest code multiplies
    step = peak / largest * (0.5 + (largest * 2**-10 if axis == "row" else 1e-4)) + 1e-7 * largest
    error = np.abs(quantised.dequantise() - values)
    assert (error <= np.broadcast_to(step, values.shape))[kept].all()


def test_index_costs_at_most_a_byte_a_row():
    rng = np.random.default_rng(0)
    widths = rng.integers(1, 17, 10_000)
    values = rng.normal(size=(10_000, 16)).astype(np.float32)
    packed = pack_records(quantise(values, "q8", widths=widths, scale_axis="column"))
    payload = int(widths.sum())
    assert packed.records.size - TAIL_BYTES == payload
    assert packed.index.size <= 10_000


def test_scale_axis_is_chosen_by_error_at_equal_bytes():
    rng = np.random.default_rng(0)
    uniform = rng.normal(size=(200, 4)).astype(np.float32)
    assert quantise(uniform, "q8").scale_axis == "column"  # a scale a row would add half
    rows_differ = rng.normal(size=(200, 64)) * 10.0 ** rng.integers(-3, 1, (200, 1))
    assert quantise(rows_differ, "q4").scale_axis == "row"


@pytest.mark.parametrize(
    ("table", "settings", "fault"),
    [
        ([[1.0, float("nan")]], {}, "not finite, first in row 0"),
        ([1.0], {}, r"shape \[rows, dim\], got \[1\]"),
        ([[1.0]], {"codec": "q3"}, "unknown codec 'q3'"),
        ([[1.0]], {"widths": [2]}, "widths must be 0..1"),
        ([[1.0]], {"widths": [1, 1]}, r"integers of shape \[1\]"),
        ([[1e30]], {"scale_axis": "row"}, "exceeds float16"),
        ([[1e6]], {"codec": "f16"}, "f16 holds values up to 65504"),
    ],
)
def test_faults_are_named(table, settings, fault):
    with pytest.raises(SpecError, match=fault):
        quantise(table, settings.pop("codec", "q8"), **settings)


def test_layout_and_index_are_checked():
    with pytest.raises(FileFormatError, match="unknown codec"):
        RecordLayout("q2", None, 1, 1, 1, 0)
    with pytest.raises(FileFormatError, match="must be even"):
        RecordLayout("q4", "row", 1, 8, 1, 2)
    packed = pack_records(quantise(np.eye(20, 16), "q8", widths=np.arange(20) % 16 + 1))
    index = packed.index.copy()
    index[12] += 1
    with pytest.raises(FileFormatError, match="index does not match"):
        RecordTable(packed.layout, packed.records, index, packed.scales).validate("t")
    with pytest.raises(FileFormatError, match="index has 12 bytes, expected 24"):
        RecordTable(packed.layout, packed.records, index[:12], packed.scales).validate("t")
