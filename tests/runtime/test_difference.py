"""Differences of scores in units of the output's scale: golden values, sums at every scale."""

import json
from pathlib import Path

import numpy as np
import pytest

from ondevice.difference import largest_difference, output_scale

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "differences.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=[case["what"] for case in GOLDEN])
def test_golden_differences(case):
    got, expected = (
        np.array(case[name], np.float32).reshape(-1, case["row_size"])
        for name in ("got", "expected")
    )
    assert largest_difference(got, expected) == pytest.approx(case["difference"], abs=1e-12)


def test_no_number_and_other_shapes_never_pass():
    one, none = np.float32([1]), np.float32([np.nan])
    assert np.isnan(largest_difference(none, one)) and np.isnan(largest_difference(one, none))
    infinite = np.float32([np.inf])
    assert not largest_difference(infinite, infinite) <= 1
    assert largest_difference(infinite, one) == np.inf
    assert largest_difference(one, np.float32([[1]])) == np.inf


@pytest.mark.parametrize("exponent", range(-3, 9))
def test_rounding_passes_and_an_error_of_a_hundredth_does_not_at_any_scale(exponent):
    """Float32 sums of terms as large as the output, in two orders; float64 is the judge."""
    rng = np.random.default_rng(exponent + 3)
    terms = (rng.normal(size=(1000, 64)) * 10.0**exponent / 8).astype(np.float32)
    terms[::7, -1] = -terms[::7, :-1].sum(1)  # every seventh sum nearly cancels
    right = terms.sum(1, dtype=np.float64).astype(np.float32)
    other = np.zeros(1000, np.float32)
    for column in terms.T:
        other += column
    assert largest_difference(other, right) < 1e-5
    assert largest_difference(right * np.float32(1.01), right) > 1e-5
    assert largest_difference(np.zeros_like(right), right) > 1e-5


def test_the_scale_of_several_requests_is_that_of_all_rows():
    few, many = np.float32([0.01]), np.full(20, 300, np.float32)
    assert output_scale([few, many]) == 1200
    # the single row by itself would allow nothing
    assert largest_difference(few + 1, few, output_scale([few, many])) == pytest.approx(1 / 1200)
