"""Conversion like an earlier file: scales and good codes stay, errors stay within the slack."""

import dataclasses

import numpy as np
import pytest
from support.runtime import write_small_model

from ondevice.codecs import quantise
from ondevice.converters.tables.like import Like
from ondevice.converters.tables.packed_table import pack_table
from ondevice.converters.tables.table_source import ArrayTable
from ondevice.dense import DENSE, pack_dense
from ondevice.errors import FileFormatError, SpecError
from ondevice.odm import open_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(300, 8)).astype(np.float32)


def like_tables(tmp_path, tables, slack=0.25):
    """A file with these record tables, as far as `Like` looks at them."""
    path = tmp_path / "old.odm"
    write_small_model(path)
    return Like(dataclasses.replace(open_odm(path), tables=tables), slack)


def codes_of(table):
    return np.concatenate([chunk.values for chunk in table.sections[0].chunks()])


@pytest.mark.parametrize("codec, axis", [("q8", "column"), ("q4", "column"), ("q2", "levels")])
def test_a_little_training_changes_few_codes_and_no_scale(tmp_path, codec, axis):
    old = quantise(TABLE, codec, scale_axis=axis)
    like = like_tables(tmp_path, {"t": pack_records(old)})
    step = np.abs(old.scales) if axis == "column" else np.ptp(old.scales, axis=1) / 2**2
    trained = (TABLE + 0.1 * step * RNG.normal(size=TABLE.shape)).astype(np.float32)
    fresh = pack_table(ArrayTable(trained), codec, None)
    table = like.tables({"t": fresh})["t"]
    section = table.sections[0]
    assert np.array_equal(section.table_scales, old.scales)
    changed = float((codes_of(table) != old.values).mean())
    best = quantise(trained, codec, scale_axis=axis)
    assert changed < 0.02
    assert changed < float((best.values != old.values).mean()) / 2
    # a value of a kept code is at most so much further away than the nearest one
    nearest = dataclasses.replace(section, source=ArrayTable(trained))
    rows = np.arange(300)
    error = np.abs(table.read(rows) - trained)
    assert (error <= np.abs(nearest.read(rows) - trained) + 0.2501 * step).all()
    assert np.array_equal(np.concatenate(list(table.dequantised())), table.read(rows))


def test_slack_of_zero_gives_the_nearest_codes_of_the_old_scales(tmp_path):
    old = quantise(TABLE, "q4", scale_axis="column")
    like = like_tables(tmp_path, {"t": pack_records(old)}, 0)
    trained = TABLE + np.float32(0.05)
    table = like.tables({"t": pack_table(ArrayTable(trained), "q4", None)})["t"]
    expected = np.clip(np.rint(trained / old.scales), -8, 7)
    assert (codes_of(table) == expected).mean() > 0.999  # but where two codes are as near


def test_what_the_old_file_does_not_have_is_chosen_anew(tmp_path):
    old = quantise(TABLE[:, :4], "q4", scale_axis="column")
    by_rows = quantise(TABLE, "q8", scale_axis="row")
    like = like_tables(tmp_path, {"narrow": pack_records(old), "rows": pack_records(by_rows)})
    for name, codec in (("narrow", "q4"), ("rows", "q8"), ("new", "q4")):
        fresh = pack_table(ArrayTable(TABLE), codec, None)
        assert like.tables({name: fresh})[name].sections == fresh.sections


def test_a_table_with_more_rows_keeps_its_scales(tmp_path):
    old = quantise(TABLE, "q4", scale_axis="column")
    like = like_tables(tmp_path, {"t": pack_records(old)})
    fresh = pack_table(ArrayTable(np.concatenate([TABLE, TABLE[:9] * 1.1])), "q4", None)
    table = like.tables({"t": fresh})["t"]
    assert np.array_equal(table.sections[0].table_scales, old.scales)
    assert table.rows == 309
    assert np.array_equal(codes_of(table)[:300], old.values)
    new = np.clip(np.rint(TABLE[:9] * np.float32(1.1) / old.scales), -8, 7)
    assert (codes_of(table)[300:] == new).mean() > 0.98


def test_rows_that_moved_are_no_further_from_their_values(tmp_path):
    old = quantise(TABLE, "q4", scale_axis="column")
    like = like_tables(tmp_path, {"t": pack_records(old)})
    for moved in (TABLE[::-1], np.roll(TABLE, 8, axis=0)[5:]):
        table = like.tables({"t": pack_table(ArrayTable(moved), "q4", None)})["t"]
        nearest = np.clip(np.rint(moved / old.scales), -8, 7) * old.scales
        error = np.abs(table.read(np.arange(len(moved))) - moved)
        assert (error <= np.abs(nearest - moved) + 0.2501 * np.abs(old.scales)).all()


def test_dense_layers_keep_scales_and_codes_but_of_units_that_outgrew_them(tmp_path):
    weight = RNG.normal(size=(30, 20)).astype(np.float32)
    bias = RNG.normal(size=20).astype(np.float32)
    packed = pack_dense(weight, bias, "q8")
    path = tmp_path / "old.odm"
    write_small_model(path)
    opened = open_odm(path)
    node = Node(DENSE, ("x", "w", "b", "s"), ("y",), {"codec": "q8"})
    arrays = {"w": packed.weight, "b": packed.bias, "s": packed.scale}
    plan = Plan(("x",), ("y",), (node,), ("w", "b", "s"), {})
    like = Like(dataclasses.replace(opened, plan=plan, weights=arrays), 0.25)
    trained = weight + 0.1 * packed.scale[:20] * RNG.normal(size=weight.shape).astype(np.float32)
    trained[:, 3] *= 2
    result = like.dense("y", trained, bias + 1)
    fresh = pack_dense(trained, bias + 1, "q8")
    kept = np.arange(32) != 3
    assert np.array_equal(result.scale[kept], packed.scale[kept])
    assert result.scale[3] == fresh.scale[3]
    assert np.array_equal(result.bias, fresh.bias)
    codes, old, new = (
        item.weight.reshape(-1, 32, 4).transpose(1, 0, 2) for item in (result, packed, fresh)
    )
    assert (codes[kept] != old[kept]).mean() < 0.02
    assert np.array_equal(codes[3], new[3])
    other = like.dense("z", trained, bias)
    assert np.array_equal(other.weight, pack_dense(trained, bias, "q8").weight)


def test_slack_and_file_are_checked(tmp_path):
    write_small_model(tmp_path / "m.odm")
    with pytest.raises(SpecError, match=r"0\.\.1"):
        Like.read(tmp_path / "m.odm", 1.5)
    (tmp_path / "x.odm").write_bytes(b"no model")
    with pytest.raises(FileFormatError):
        Like.read(tmp_path / "x.odm")
