"""Quantised tables and row records: hand-computed bytes, error bounds, round trips."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.codecs import BITS, CODECS, quantise
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
    table = quantise([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], "q8", scale_axis="column")
    assert table.scales[0] == 1.0
    # one column each: every other column's scale makes its only value the largest code
    assert table.values[0].tolist() == [127, 127, 127, 127, -127, -127]
    row = quantise([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], "q8", scale_axis="row")
    assert row.values[0].tolist() == [127, 0, 2, 2, 0, -2]


@pytest.mark.parametrize(("codec", "lowest"), [("q4", -8), ("q3", -4), ("q2", -2)])
def test_narrow_codes_by_hand(codec, lowest):
    """The value furthest from zero gets the lowest code, so a positive one a negative scale."""
    table = quantise([[1.0, 0.5, -0.25, 0.0]], codec, scale_axis="column")
    assert table.values[0].tolist() == [lowest, lowest, lowest, 0]
    np.testing.assert_array_equal(table.scales, np.float32([1, 0.5, -0.25, 0]) / lowest)
    np.testing.assert_array_equal(table.dequantise(), [[1.0, 0.5, -0.25, 0.0]])
    row = quantise([[float(lowest), 1.0, 0.0, -1.0]], codec, scale_axis="row")
    assert row.scales[0] == 1.0 and row.values[0].tolist() == [lowest, 1, 0, -1]


@pytest.mark.parametrize("axis", ["row", "column"])
@pytest.mark.parametrize("codec", ["q4", "q2"])
def test_scales_of_narrow_codecs_have_the_least_error_of_their_candidates(codec, axis):
    rng = np.random.default_rng(0)
    values = rng.standard_t(3, size=(300, 8)).astype(np.float32)
    table = quantise(values, codec, scale_axis=axis)
    lines, scales = (values, table.scales) if axis == "row" else (values.T, table.scales)
    lowest, highest = (-8, 7) if codec == "q4" else (-2, 1)
    clipped = 0
    for line, scale in zip(lines.astype(np.float64), scales.astype(np.float64), strict=True):
        whole = line[np.argmax(np.abs(line))] / lowest
        errors = []
        for step in range(10 if axis == "row" else 32):
            tried = float(np.float16(whole * 0.9**step)) if axis == "row" else whole * 0.9**step
            codes = np.clip(np.rint(line / tried), lowest, highest)
            errors.append(((codes * tried - line) ** 2).sum())
        codes = np.clip(np.rint(line / scale), lowest, highest)
        assert ((codes * scale - line) ** 2).sum() <= min(errors) * 1.001
        clipped += min(errors) < errors[0]
    assert clipped > 0.9 * len(scales) * (axis == "column")


def test_clipping_divides_the_error_of_long_tailed_columns():
    """Against the scale that clips nothing, which is all that a table with outliers can have."""
    values = np.random.default_rng(0).standard_t(4, size=(20_000, 1)).astype(np.float32)
    whole = np.abs(values).max() / 7
    unclipped = np.mean((np.rint(values / whole) * whole - values) ** 2)
    chosen = np.mean((quantise(values, "q4").dequantise() - values) ** 2)
    assert chosen < unclipped / 4


def test_record_bytes_by_hand_q4_row_scales():
    table = quantise([[-8.0, 7.0, 1.0], [-4.0, 0.0, 2.0]], "q4", scale_axis="row")
    packed = pack_records(table)
    # records of 16 + 3 * 4 bits: the second begins in the middle of a byte
    assert table.scales.tolist() == [1.0, 0.5]
    one, half = (f"{int.from_bytes(struct.pack('<e', v), 'little'):04x}" for v in (1.0, 0.5))
    digits = "178" + one  # the first record as a number, its first bits last
    digits = "408" + half + digits
    assert packed.records.tobytes() == int(digits, 16).to_bytes(7, "little") + bytes(TAIL_BYTES)
    assert packed.index.size == 0


@pytest.mark.parametrize(
    ("codec", "values", "expected"),
    [
        ("q4", [[-8], [7], [-1], [1], [2]], [0x78, 0x1F, 0x02]),
        ("q2", [[-2], [1], [-1], [0], [1]], [0b00_11_01_10, 0b01]),
        ("q2", [[-2, 1, -2], [0, -2, 1]], [0b00_10_01_10, 0b01_10]),
        ("q3", [[-4, 3, -4], [0, -4, 1]], [0b00_011_100, 0b1_100_000_1, 0b00]),
        ("q1", [[-1], [0], [-1], [-1]], [0b1101]),
    ],
)
def test_rows_share_bytes_by_hand(codec, values, expected):
    packed = pack_records(quantise(np.float32(values), codec, scale_axis="column"))
    assert packed.records.tobytes() == bytes(expected) + bytes(TAIL_BYTES)


def test_index_bytes_by_hand():
    """300 rows of one or three q4 values: width codes of one bit, groups of 64 rows."""
    widths = np.where(np.arange(300) % 3 == 0, 3, 1)
    values = np.where(np.arange(3) < widths[:, None], np.float32([-8, -7, 5]), np.float32(0))
    packed = pack_records(quantise(values, "q4", widths=widths, scale_axis="column"))
    layout = packed.layout
    assert (layout.width_base, layout.width_step, layout.width_bits) == (1, 2, 1)
    codes = sum(1 << i for i in range(0, 64, 3))
    assert packed.index[:12].tobytes() == struct.pack("<IQ", 0, codes)
    first = (22 * 3 + 42) * 4 // 8  # the nibbles of 64 rows
    codes = sum(1 << i for i in range(64) if (i + 64) % 3 == 0)
    assert packed.index[12:24].tobytes() == struct.pack("<IQ", first, codes)
    # rows 0 to 3: three values, one, one, three
    assert packed.records[:4].tolist() == [0x88, 0x88, 0x88, 0x88]


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
@given(tables(), st.sampled_from(CODECS), st.sampled_from([None, "row", "column", "levels"]))
def test_records_hold_the_quantised_table(table, codec, axis):
    values, widths = table
    if axis == "levels" and BITS[codec] > 4:
        axis = None
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
@given(tables(), st.sampled_from(["row", "column"]))
def test_error_of_q8_is_at_most_half_a_step(table, axis):
    values, widths = table
    quantised = quantise(values, "q8", widths=widths, scale_axis=axis)
    kept = np.ones_like(values, bool)
    if widths is not None:
        kept = np.arange(values.shape[1]) < widths[:, None]
    largest = 127
    peak = np.abs(np.where(kept, values, 0)).max(axis=1 if axis == "row" else 0, keepdims=True)
    # float16 scales are off by up to 2**-11, which the largest code multiplies
    step = peak / largest * (0.5 + (largest * 2**-10 if axis == "row" else 1e-4)) + 1e-7 * largest
    error = np.abs(quantised.dequantise() - values)
    assert (error <= np.broadcast_to(step, values.shape))[kept].all()


@pytest.mark.parametrize("dim", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("codec", ["q8", "q4", "q3", "q2", "q1"])
def test_width_index_and_rounding_cost_at_most_a_byte_a_row(codec, dim):
    rng, rows = np.random.default_rng(0), 10_000
    for widths in (rng.integers(1, dim + 1, rows), np.minimum(rng.geometric(0.5, rows), dim)):
        values = rng.normal(size=(rows, dim)).astype(np.float32)
        packed = pack_records(quantise(values, codec, widths=widths, scale_axis="column"))
        kept = int(widths.sum()) * BITS[codec] / 8
        assert kept <= packed.records.size - TAIL_BYTES <= kept + rows
        assert packed.records.size - TAIL_BYTES + packed.index.size <= kept + rows


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
        ([[1.0]], {"codec": "q5"}, "unknown codec 'q5'"),
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
        RecordLayout("q5", None, 1, 1, 1, 0)
    with pytest.raises(FileFormatError, match="codec q8 with levels"):
        RecordLayout("q8", "levels", 1, 1, 1, 0, 0)
    for codec, axis in (("q3", "column"), ("q1", "row"), ("q4", "levels")):
        with pytest.raises(FileFormatError, match="needs width_bits"):
            RecordLayout(codec, axis, 1, 1, 1, 0)
    with pytest.raises(FileFormatError, match="grow by whole bytes"):
        RecordLayout("q4", "row", 1, 8, 1, 2)
    for bits in (3, 8, 0, -1, 2.0, True, "2"):
        with pytest.raises(FileFormatError, match="width_bits"):
            RecordLayout("q4", "row", 1, 8, 1, 2, bits)
    with pytest.raises(FileFormatError, match="width_bits"):
        RecordLayout("q4", "row", 1, 8, 1, 0, 4)
    packed = pack_records(quantise(np.eye(20, 16), "q8", widths=np.arange(20) % 16 + 1))
    index = packed.index.copy()
    index[12] += 1
    with pytest.raises(FileFormatError, match="index does not match"):
        RecordTable(packed.layout, packed.records, index, packed.scales).validate("t")
    with pytest.raises(FileFormatError, match="index has 12 bytes, expected 24"):
        RecordTable(packed.layout, packed.records, index[:12], packed.scales).validate("t")
