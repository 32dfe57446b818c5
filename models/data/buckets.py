"""Bucket boundaries of a numeric field, chosen from its training values."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ondevice.errors import InputError
from ondevice.models.data.statistics import NumberSummary, quantiles
from ondevice.raw_values import FloatArray

Scale = Literal["quantile", "log"]
SCALES: tuple[Scale, ...] = get_args(Scale)
MAX_BUCKETS = 65536


def boundaries(numbers: FloatArray, buckets: int = 32, scale: Scale = "quantile") -> FloatArray:
    """Ascending boundaries, float64 [at most buckets - 1], of training values float64 [n].

    Values that are not finite are left out. "quantile" puts about the same number of values into
    each bucket; "log" cuts sign(x) * log(1 + |x|) into equal widths between the smallest and the
    largest value. Either way the boundaries are values of x itself, so whoever puts a number into
    a bucket only compares. Equal boundaries are merged: few distinct values get few buckets.

    Raises:
        InputError: fewer than one bucket, or an unknown scale.
    """
    if not 1 <= buckets <= MAX_BUCKETS or scale not in SCALES:
        raise InputError(
            f"1..{MAX_BUCKETS} buckets and a scale of {' or '.join(SCALES)} needed, "
            f"got {buckets} and {scale!r}"
        )
    summary = NumberSummary.of(numbers)
    if not summary.count:
        return np.empty(0)
    shares = np.arange(1, buckets) / buckets
    if scale == "quantile":  # of the values themselves: no rounding between two of them
        return np.unique(quantiles(numbers, shares, summary))
    return log_boundaries(summary.low, summary.high, shares)


def log_boundaries(smallest: float, largest: float, shares: FloatArray) -> FloatArray:
    """Boundaries at these shares of the range of sign(x) * log(1 + |x|), inside the range."""
    low, high = (np.sign(x) * np.log1p(abs(x)) for x in (smallest, largest))
    cuts = low + (high - low) * shares
    candidates = np.unique(np.sign(cuts) * np.expm1(np.abs(cuts)))
    inside: FloatArray = candidates[(candidates > smallest) & (candidates <= largest)]
    return inside
