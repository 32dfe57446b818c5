"""The regression gate: fails when a report is worse than a baseline by more than is allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ondevice.bench.report import Report
from ondevice.bench.show.compare import Compared, Comparison, compare
from ondevice.errors import InputError


@dataclass(frozen=True)
class Gate:
    """The outcome: the comparison (a: the baseline), and the figures that are too much worse.

    Attributes:
        limit: allowed increase as a fraction.
        unsure: figures that scatter so much that such an increase could hide in them.
    """

    comparison: Comparison
    limit: float
    worse: tuple[Compared, ...]
    unsure: tuple[Compared, ...]

    def text(self) -> str:
        """The comparison, then what failed, or that nothing did."""
        percent = f"{self.limit * 100:g} %"
        parts = [self.comparison.text(), ""]
        if not self.worse:
            parts.append(f"passed: nothing is worse than the baseline by more than {percent}")
        for item in self.worse:
            parts.append(
                f"FAILED: {item.name}: {item.a:.4g} -> {item.b:.4g} {item.unit}, "
                f"{(item.ratio - 1) * 100:+.1f} % (allowed: {percent})"
            )
        parts += [
            f"unsure: {item.name}: the interval reaches {(item.high - 1) * 100:+.0f} %"
            for item in self.unsure
            if item.high is not None
        ]
        if self.unsure:
            parts.append(
                f"An unsure figure scatters too much to rule out {percent}; it does not fail. "
                "Measure on an idle machine, longer (--seconds) or more often (--processes)."
            )
        return "\n".join(parts)


def gate(report: Report, baseline: Report, limit: float) -> Gate:
    """Compare with a baseline.

    A figure fails when it grew by more than `limit` and the growth is real, that is, more than
    the measurements' own scatter; a figure measured once, without scatter, fails by its growth.

    Raises:
        InputError: the reports share no measurement, or the limit is negative.
    """
    if limit < 0:
        raise InputError(f"the allowed regression must be 0 or more, got {limit}")
    comparison = compare(baseline, report)
    worse = tuple(
        item
        for item in comparison.figures
        if item.ratio > 1 + limit and (item.real or item.low is None)
    )
    unsure = tuple(
        item
        for item in comparison.figures
        if item not in worse and item.high is not None and item.high > 1 + limit
    )
    return Gate(comparison, limit, worse, unsure)


def parse_limit(text: str) -> float:
    """An allowed regression: "5%" or "0.05". Raises InputError."""
    matched = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(%?)\s*", text)
    if not matched:
        raise InputError(f"expected a regression such as 5% or 0.05, got {text!r}")
    return float(matched[1]) / (100 if matched[2] else 1)
