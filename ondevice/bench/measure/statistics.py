"""Statistics of repeated measurements: summaries, percentiles, and intervals by resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.bench.report import Spread
from ondevice.errors import InputError

FloatArray = npt.NDArray[np.float64]
RESAMPLES = 4000  # the interval's ends repeat within a hundredth of its width
# Student's t, two-sided 95 %, for 1, 2, ... 30 degrees of freedom; 1.96 for more.
T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
Z_95 = 1.960


def spread(values: Sequence[float] | FloatArray) -> Spread:
    """Summarise observations; percentiles are interpolated linearly (numpy's default).

    Raises:
        InputError: no observations.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise InputError("no observations to summarise")
    low, p50, p90, p95, p99, high = map(float, np.percentile(array, [0, 50, 90, 95, 99, 100]))
    return Spread(
        count=int(array.size),
        mean=min(max(float(array.mean()), low), high),  # rounding must not leave the range
        sd=float(array.std(ddof=1)) if array.size > 1 else 0.0,
        min=low,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=high,
    )


def percentiles(values: Sequence[float] | FloatArray) -> tuple[float, ...]:
    """The 0th, 1st, ... 100th percentile."""
    return tuple(map(float, np.percentile(np.asarray(values, dtype=np.float64), np.arange(101))))


@dataclass(frozen=True)
class Ratio:
    """A ratio b / a of typical times, with its 95 % interval.

    Attributes:
        reason: why there is no interval (low and high are None), or None.
    """

    value: float
    low: float | None
    high: float | None
    reason: str | None = None

    @property
    def real(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def ratio_of_bursts(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, seed: int = 0
) -> Ratio:
    """Compare two measurements by the medians of their bursts, process by process.

    Requests of one process are not independent (it keeps its memory layout, and the clock drifts),
    so processes are resampled first and bursts within them second, as Kalibera and Jones,
    "Rigorous benchmarking in reasonable time" (2013), section 9, advise. With few processes the
    percentile interval is too narrow: it is widened about the estimate, in logarithms, by
    sqrt(n / (n - 1)) t(n - 1) / z, after Hesterberg, "What teachers should know about the
    bootstrap" (2015), section 4.

    Args:
        a: medians of bursts, for each process.
        b: likewise.
        seed: of the resampling, so that a comparison repeats.
    """
    left, right = _logs(a), _logs(b)
    estimate = _centre(right) - _centre(left)
    fewest = min(len(left), len(right))
    if fewest < 2:
        return Ratio(float(np.exp(estimate)), None, None, "measured in one process only")
    rng = np.random.default_rng(seed)
    centres = _resampled(right, rng) - _resampled(left, rng)
    low, high = np.percentile(centres, [2.5, 97.5])
    t = T_95[fewest - 2] if fewest - 1 <= len(T_95) else Z_95
    widen = float(np.sqrt(fewest / (fewest - 1)) * t / Z_95)
    return Ratio(
        float(np.exp(estimate)),
        float(np.exp(estimate + widen * min(low - estimate, 0.0))),
        float(np.exp(estimate + widen * max(high - estimate, 0.0))),
    )


def _logs(processes: Sequence[Sequence[float]]) -> list[FloatArray]:
    if not processes or any(not bursts or min(bursts) <= 0 for bursts in processes):
        raise InputError("expected positive times of every process")
    return [np.log(np.asarray(bursts, dtype=np.float64)) for bursts in processes]


def _centre(processes: Sequence[FloatArray]) -> float:
    """Mean over processes of the median over bursts: no single burst or process decides."""
    return float(np.mean([np.median(bursts) for bursts in processes]))


def _resampled(processes: Sequence[FloatArray], rng: np.random.Generator) -> FloatArray:
    medians = np.stack(
        [
            np.median(bursts[rng.integers(0, len(bursts), (RESAMPLES, len(bursts)))], axis=1)
            for bursts in processes
        ]
    )
    chosen = rng.integers(0, len(processes), (RESAMPLES, len(processes)))
    picked: FloatArray = medians[chosen, np.arange(RESAMPLES)[:, None]].mean(axis=1)
    return picked
