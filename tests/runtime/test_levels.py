"""Fitted levels: least squared error, checked by trying every partition of small columns."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.codecs import BITS, quantise
from ondevice.errors import SpecError
from ondevice.levels import fit_levels, level_codes, read_levels
from ondevice.records import TAIL_BYTES, pack_records


def least_error(values, weights, count):
    """The least weighted squared error of all partitions of sorted values into runs."""
    order = np.argsort(values)
    values, weights = values[order].astype(np.float64), weights[order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), count - 1):
        error = 0.0
        for part in np.split(np.arange(len(values)), cuts):
            mean = np.average(values[part], weights=weights[part])
            error += float(weights[part] @ (values[part] - mean) ** 2)
        best = min(best, error)
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 11), st.sampled_from([1, 2]))
def test_levels_are_the_best_of_all_partitions(seed, rows, bits):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size=(rows, 1)).astype(np.float32)
    weights = rng.integers(1, 9, rows).astype(np.float64)
    levels = fit_levels(values, bits, weights)
    restored = read_levels(level_codes(values, levels), levels)
    error = float(weights @ (restored[:, 0].astype(np.float64) - values[:, 0]) ** 2)
    spread = float(weights @ (values[:, 0] - np.average(values[:, 0], weights=weights)) ** 2)
    assert error <= least_error(values[:, 0], weights, 2**bits) + 1e-6 * spread


def test_few_different_values_are_their_own_levels():
    values = np.float32([[0.5, 7], [-3, 7], [0.5, 7], [2, 7], [-3, 7]])
    levels = fit_levels(values, 2)
    assert levels.tolist() == [[-3, 0.5, 2, 2], [7, 7, 7, 7]]
    assert read_levels(level_codes(values, levels), levels).tolist() == values.tolist()


def test_a_table_rounded_before_is_not_changed():
    """Also where some level is so rare that no sample of the rows shows it."""
    rng = np.random.default_rng(3)
    table = np.float32([-0.7, 0.1, 0.2, 9])[rng.integers(0, 3, size=(700_000, 2))]
    table[123_457, 1] = 9
    assert (quantise(table, "q2", scale_axis="levels").dequantise() == table).all()


def test_weights_move_levels():
    values = np.float32([[0], [1], [10], [11], [12]])
    assert fit_levels(values, 1).tolist() == [[0.5, 11]]
    counts = [1, 3, 0, 1, 0]
    assert quantise(values, "q1", scale_axis="levels", counts=counts).scales.tolist() == [
        [0.75, 11]
    ]


def test_weights_far_below_the_others_leave_finite_levels():
    """Sums lose weights of 1e-13, so a bin of such values once had no mean: levels became NaN."""
    values = np.random.default_rng(0).normal(size=(5000, 1)).astype(np.float32)
    weights = np.full(5000, 1e-13)
    weights[:10] = 1.0
    levels = fit_levels(values, 3, weights)
    assert np.isfinite(levels).all()
    nearest = np.abs(values[:10] - levels).min(axis=1)
    unweighted = np.abs(values[:10] - fit_levels(values, 3)).min(axis=1)
    assert np.square(nearest).sum() < np.square(unweighted).sum()


def test_bytes_by_hand():
    """The three bits of a code, lowest first, row after row; levels beside them."""
    values = np.float32([[3], [0], [7], [5], [1], [2], [4], [6]])
    packed = pack_records(quantise(values, "q3", scale_axis="levels"))
    assert packed.scales.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    whole = sum(int(value) << (3 * i) for i, value in enumerate(values[:, 0]))
    assert packed.records.tobytes() == whole.to_bytes(3, "little") + bytes(TAIL_BYTES)
    assert packed.layout.scale_axis == "levels"


@pytest.mark.parametrize("codec", ["q4", "q3", "q2", "q1"])
def test_levels_beat_scales(codec):
    """On normal values; and with the error that the literature states for Lloyd-Max."""
    values = np.random.default_rng(0).normal(size=(50_000, 2)).astype(np.float32)
    errors = {
        axis: float(((quantise(values, codec, scale_axis=axis).dequantise() - values) ** 2).mean())
        for axis in ("column", "levels")
    }
    assert errors["levels"] < errors["column"]
    # Max, Quantizing for Minimum Distortion, 1960, table I
    assert errors["levels"] == pytest.approx(
        {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}[BITS[codec]], rel=0.03
    )


def test_zero_is_exact_beyond_a_row_s_width():
    rng = np.random.default_rng(1)
    values = rng.normal(3, 1, size=(500, 6)).astype(np.float32)
    widths = rng.integers(0, 7, 500)
    for codec in ("q1", "q2", "q3", "q4"):
        table = quantise(values, codec, widths=widths, scale_axis="levels")
        packed = pack_records(table)
        dropped = np.arange(6) >= widths[:, None]
        for restored in (table.dequantise(), packed.read(np.arange(500))):
            assert not restored[dropped].any()
            assert (restored == table.dequantise()).all()


def test_faults_are_named():
    with pytest.raises(SpecError, match="levels are for codecs of at most 4 bits, not q8"):
        quantise([[1.0]], "q8", scale_axis="levels")
    with pytest.raises(SpecError, match=r"counts must have shape \[1\], got \[2\]"):
        quantise([[1.0]], "q2", counts=[1, 2])
    with pytest.raises(SpecError, match="counts must be finite and at least 0"):
        quantise([[1.0]], "q2", counts=[-1])
