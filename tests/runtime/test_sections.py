"""Tables in sections: their text, their checks, and that each is quantised by itself."""

import numpy as np
import pytest

from ondevice.codecs import quantise
from ondevice.errors import SpecError
from ondevice.sections import (
    Section,
    parse_sections,
    quantise_sections,
    resolve_sections,
    sections_text,
)

TABLE = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)


def test_text_and_back():
    sections = parse_sections("q8:1000, q4x8:20000,q1x4")
    assert sections == (
        Section(1000, "q8"),
        Section(20000, "q4", 8),
        Section(None, "q1", 4),
    )
    assert sections_text(sections) == "q8:1000,q4x8:20000,q1x4"
    assert parse_sections(sections_text(sections)) == sections


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "cannot read ''; expected CODEC"),
        ("q8:10,,q4", "cannot read ''"),
        ("q8:1e3", "cannot read 'q8:1e3'"),
        ("q5:10,q4", "unknown codec 'q5'; choose from f32, f16, q8, q4, q3, q2, q1"),
        ("q8,q4", r"only the last may lack its rows, but number 1 \(q8\) has none"),
        ("q8:0,q4", "rows must be 1..2147483647, got 0"),
        ("q8:5,q4x0", "width must be 1..1024, got 0"),
        (",".join(["q8:1"] * 17), "1 to 16 sections, got 17"),
    ],
)
def test_faults_of_the_text_are_named(text, fault):
    with pytest.raises(SpecError, match=fault):
        parse_sections(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("q8:100,q4", "are for 100 rows, the table has 100"),
        ("q8:101", "are for 101 rows, the table has 100"),
        ("q8:50,q4:49", "are for 99 rows, the table has 100"),
        ("q8:50,q4x7", "width 7, but the table has 6 columns"),
    ],
)
def test_sections_must_fit_the_table(text, fault):
    with pytest.raises(SpecError, match=fault):
        quantise_sections(TABLE, parse_sections(text))


def test_each_section_is_quantised_by_itself():
    sections = parse_sections("f32:3,q8x5:17,q3x2:30,q1x1")
    counts = np.arange(100)[::-1]
    table = quantise_sections(TABLE, sections, counts)
    values = table.dequantise()
    assert (table.rows, table.dim, values.dtype) == (100, 6, np.float32)
    assert (values[:3] == TABLE[:3]).all()
    assert not values[3:20, 5:].any() and not values[20:50, 2:].any() and not values[50:, 1:].any()
    alone = quantise(TABLE[20:50, :2], "q3", counts=counts[20:50]).dequantise()
    assert (values[20:50, :2] == alone).all()
    assert len(np.unique(values[50:, 0])) == 2


def test_kept_widths_end_at_the_section_s():
    widths = np.arange(100) % 7
    table = quantise_sections(TABLE, parse_sections("q8:50,q4x3"), widths=widths)
    kept = np.where(np.arange(100) < 50, widths, np.minimum(widths, 3))
    assert ((table.dequantise() != 0) <= (np.arange(6) < kept[:, None])).all()


def test_bytes_are_codes_and_scales():
    table = quantise_sections(
        TABLE, [Section(20, "q8", scale_axis="column"), Section(80, "q1", 2, "levels")]
    )
    assert table.bits == 20 * 6 * 8 + 6 * 32 + 80 * 2 + 2 * 2 * 32


def test_the_last_section_takes_the_rest():
    assert [s.rows for s in resolve_sections(parse_sections("q8:60,q1"), 100, 6)] == [60, 40]
