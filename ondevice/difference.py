"""How far scores are from the expected ones, in units of the output's scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Scale of an output that is no probability, in typical magnitudes: a sigmoid divides by four or
# more what layers lose to rounding, so that a tolerance of probabilities suits logits too.
MAGNITUDES = 4
# Scale of an output whose values are all small: so many times its largest value.
SMALL_OUTPUT_FACTOR = 10
# No scale is below this: of the 1e-5 of float32 layers it leaves 3e-7, some last bits of a number
# near 1, of which a small output may be a difference.
SMALLEST_SCALE = 0.03

FloatArray = npt.NDArray[np.float32]
ScaleArray = npt.NDArray[np.float64]


def output_scale(values: Sequence[FloatArray]) -> ScaleArray:
    """The scale of an output, for every position in its rows.

    It is 1 for probabilities. Where a value is beyond 0..1, it is MAGNITUDES times the magnitude
    which nine of ten rows stay within, if that is more: some thousands for counts of some
    thousands, even where a row is close to 0 as a difference of large numbers. Rare large values
    do not count: they would hide errors of all others. Where no value reaches 0.1, it is less.

    Args:
        values: the expected output for one or several requests, each [rows, ...].

    Returns:
        float64 [...], the shape of one row; NaN where a value is.
    """
    rows = np.concatenate([np.asarray(array, np.float64) for array in values])
    if not len(rows):
        return np.ones(rows.shape[1:])
    magnitudes = np.sort(np.abs(rows), axis=0)
    typical = MAGNITUDES * magnitudes[9 * (len(rows) - 1) // 10]
    small = np.clip(SMALL_OUTPUT_FACTOR * magnitudes[-1], SMALLEST_SCALE, 1)
    probability = ((rows >= 0) & (rows <= 1)).all(axis=0)
    scale: ScaleArray = np.where(probability, small, np.maximum(typical, small))
    return scale


def largest_difference(
    got: FloatArray, expected: FloatArray, scale: npt.NDArray[Any] | None = None
) -> float:
    """Largest |difference|, relative to the output's scale or, if larger, to the value.

    Args:
        got: an output, [rows, ...].
        expected: what it should be.
        scale: of the output, [...], from `output_scale`; by default that of `expected`.

    Returns:
        Infinity for unequal shapes; NaN where either value is.
    """
    if got.shape != expected.shape:
        return float("inf")
    right = np.asarray(expected, np.float64)
    units = np.maximum(np.abs(right), output_scale([expected]) if scale is None else scale)
    with np.errstate(invalid="ignore"):  # infinity less infinity is NaN
        return float((np.abs(got - right) / units).max(initial=0))
