"""Designs that grow and shrink to a size: counted by hand and against the budget."""

import numpy as np
import pytest

from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.search.design_sizes import DesignSizes
from ondevice.models.search.size_fitter import Network, networks
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial_data import prepare

COLUMNS = {"user": "column", "item": "column", "hour": "column"}


@pytest.fixture(scope="module")
def data():
    return prepare(synthetic_log(4000, {"user": 400, "item": 150, "hour": 24}))


def test_four_bytes_too_many_cost_the_rarest_values(data):
    sizes = DesignSizes(data)
    designs = {
        "user": TableDesign(1, "q4", head=200),
        "item": TableDesign(1, "q4", head=20),
        "hour": TableDesign(2, "q8"),
    }
    assert sizes.of("user", designs["user"], "column") == 101 + 4
    smaller = sizes.shrunk(designs, COLUMNS, 4)
    # half a byte a row; users are the rarest
    assert smaller == {**designs, "user": TableDesign(1, "q4", head=192)}
    assert sizes.total(designs, COLUMNS) - sizes.total(smaller, COLUMNS) == 4
    # with the map: 8 bytes a value on top
    whole = DesignSizes(data, "file")
    assert whole.of("user", designs["user"], "column") == 105 + 8 * 200
    assert whole.shrunk(designs, COLUMNS, 4)["user"].head == 199
    assert sizes.shrunk(designs, COLUMNS, 10_000) is None


def test_a_large_excess_takes_rows_of_every_field(data):
    sizes = DesignSizes(data)
    designs = dict.fromkeys(data.values, TableDesign(1, "q8"))
    smaller = sizes.shrunk(designs, COLUMNS, 250)
    saved = sizes.total(designs, COLUMNS) - sizes.total(smaller, COLUMNS)
    assert 250 <= saved <= 252
    rarest = {
        name: data.counts[name][smaller[name].rows_owned(len(data.values[name])) - 1]
        for name in ("user", "item")
    }
    assert max(rarest.values()) - min(rarest.values()) <= 1  # the same rarity everywhere


def test_the_budget_is_used_to_the_byte(data):
    sizes = DesignSizes(data)
    whole = dict.fromkeys(data.values, TableDesign(4, "q8"))
    axes = dict.fromkeys(data.values, "row")
    narrow = {**whole, "item": TableDesign(4, "q4")}
    cut = {**narrow, "user": TableDesign(4, "q8", head=10)}
    path = [(item, axes) for item in (whole, narrow, cut)]
    assert sizes.fitting(path, sizes.total(whole, axes) + 5) == (whole, axes)
    for most in range(sizes.total(cut, axes), sizes.total(whole, axes), 37):
        designs, _ = sizes.fitting(path, most)
        assert 0.99 * most <= sizes.total(designs, axes) <= most
    assert sizes.fitting(path, sizes.total(cut, axes) - 1) is None
    # rows are the rest of the budget: 6 bytes each
    designs, _ = sizes.fitting(path, sizes.total(cut, axes) + 20)
    assert designs["user"].head == 13


def test_networks_shrink_by_blocks_of_units():
    assert networks((128, 64)) == tuple(
        Network(hidden, "q8") for hidden in ((128, 64), (64, 32), (32, 16), (16, 16), ())
    )
    assert networks((8,)) == (Network((8,), "q8"), Network((), "q8"))
    assert Network((128, 64), "q8").weights(9) == 9 * 128 + 128 * 64 + 64
    assert np.isfinite(Network((), "f32").weights(3))
