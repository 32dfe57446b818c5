"""Charts of a training report as SVG text: curves over epochs, calibration, metrics of groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ondevice.bench.show.charts import (
    AXIS,
    PAD,
    ROW,
    SERIES,
    WIDTH,
    Format,
    svg,
    text,
)
from ondevice.models.training.metrics import Bin

LETTER = 6.5  # width of a letter of an axis label, on the generous side


@dataclass(frozen=True)
class Curve:
    """A line over numbered epochs.

    Attributes:
        label: what it shows.
        series: its colour.
        points: epoch and value, in order.
        marked: epochs to mark.
    """

    label: str
    series: int
    points: Sequence[tuple[int, float]]
    marked: Sequence[int] = ()


@dataclass(frozen=True)
class Dot:
    """One row of a dot chart: label, value (None: there is none), text on the right, hover text,
    and whether the value's distance from that of all rows is more than chance.
    """

    label: str
    value: float | None
    text: str
    hover: str
    real: bool


class _Axis:
    """A linear axis from one place to another: where values lie, and round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        room = (high - low) * 0.06 or max(abs(high) * 0.01, 1e-6)
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """At most so many round values."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * size for size in (1, 2, 5, 10, 20) if span / (power * size) <= most)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def _decimals(ticks: Sequence[float]) -> Format:
    """A format with as many decimals as tell ticks apart."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=0.1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return lambda value: f"{value:.{digits}f}"


def curves(lines: Sequence[Curve], label: str) -> str:
    """Lines over epochs, each named at its own line above the chart; marked epochs have a dot."""
    values = [value for line in lines for _, value in line.points]
    epochs = [epoch for line in lines for epoch, _ in line.points]
    names = 18 * len(lines)
    top, bottom = names + 8.0, names + 170.0
    vertical = _Axis(min(values), max(values), bottom, top)
    ticks = vertical.ticks()
    shown = _decimals(ticks)
    left = 14 + LETTER * max(len(shown(tick)) for tick in ticks)
    horizontal = _Axis(min(epochs), max(epochs), left, WIDTH - PAD)
    parts = []
    for number, line in enumerate(lines):
        y = 18.0 * number + 10
        parts.append(
            f'<g class="s{line.series % SERIES}"><line class="curve" x1="{PAD}" x2="{PAD + 16}" '
            f'y1="{y}" y2="{y}"/></g>' + text(PAD + 22, y + 4, line.label, "name")
        )
    for tick in ticks:
        y = vertical.at(tick)
        parts.append(_grid(left, WIDTH - PAD, y, y))
        parts.append(text(left - 5, y + 4, shown(tick), "tick", "end"))
    every = -(-len(set(epochs)) // 10)
    for epoch in sorted(set(epochs))[::every]:
        parts.append(text(horizontal.at(epoch), bottom + 16, str(epoch), "tick", "middle"))
    parts.append(text(WIDTH - PAD, bottom + 30, "epoch", "tick", "end"))
    for line in lines:
        places = [(horizontal.at(epoch), vertical.at(value)) for epoch, value in line.points]
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<g class="s{line.series % SERIES}"><path class="curve" d="M{path}"/>')
        for (epoch, value), (x, y) in zip(line.points, places, strict=True):
            radius = 5 if epoch in line.marked else 2.5
            hover = escape(f"{line.label}, epoch {epoch}: {value:.4f}")
            parts.append(
                f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
                f"<title>{hover}</title></circle>"
            )
        parts.append("</g>")
    return svg(bottom + 36, label, parts)


def calibration(bins: Sequence[Bin], series: int, label: str) -> str:
    """Observed over predicted shares of clicks; on the diagonal they are equal."""
    most = max(max(item.predicted, item.observed) for item in bins)
    top, bottom, left = 8.0, 232.0, 44.0
    vertical = _Axis(0.0, most, bottom, top)
    ticks = [tick for tick in vertical.ticks() if tick >= 0]
    horizontal = _Axis(0.0, most, left, WIDTH - PAD)
    digits = _decimals([100 * tick for tick in ticks])
    parts = []
    for tick in ticks:
        x, y = horizontal.at(tick), vertical.at(tick)
        shown = f"{digits(100 * tick)} %"
        parts += [_grid(left, WIDTH - PAD, y, y), _grid(x, x, top, bottom)]
        parts.append(text(left - 5, y + 4, shown, "tick", "end"))
        anchor = "end" if x > WIDTH - PAD - 18 else "middle"
        parts.append(text(x, bottom + 16, shown, "tick", anchor))
    ends = (vertical.low, vertical.high)
    diagonal = " L".join(f"{horizontal.at(end):.1f} {vertical.at(end):.1f}" for end in ends)
    parts.append(f'<path class="frontier" d="M{diagonal}"/>')
    parts.append(text(left + 6, top + 12, "observed", "tick"))
    parts.append(text(WIDTH - PAD, bottom + 32, "predicted", "tick", "end"))
    places = [(horizontal.at(item.predicted), vertical.at(item.observed)) for item in bins]
    path = " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts.append(f'<g class="s{series % SERIES}"><path class="curve" d="M{path}"/>')
    for item, (x, y) in zip(bins, places, strict=True):
        hover = f"{item.rows:,} rows: predicted {item.predicted:.2%}, observed {item.observed:.2%}"
        parts.append(
            f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="4.5">'
            f"<title>{escape(hover)}</title></circle>"
        )
    parts.append("</g>")
    return svg(bottom + 38, label, parts)


def dots(rows: Sequence[Dot], reference: float, label: str) -> str:
    """Values as dots on one axis, with a line from that of all rows together."""
    values = [row.value for row in rows if row.value is not None]
    axis = _Axis(min([*values, reference]), max([*values, reference]), PAD, WIDTH - PAD)
    height = ROW * len(rows) + AXIS
    ticks = axis.ticks(4)
    shown = _decimals(ticks)
    parts = []
    for tick in ticks:
        x = axis.at(tick)
        anchor = "start" if x < 22 else "end" if x > WIDTH - 22 else "middle"
        parts.append(_grid(x, x, 0, height - AXIS))
        parts.append(text(x, height - 8, shown(tick), "tick", anchor))
    middle = axis.at(reference)
    parts.append(
        f'<line class="one" x1="{middle:.1f}" x2="{middle:.1f}" y1="0" y2="{height - AXIS}"/>'
    )
    for number, row in enumerate(rows):
        top = number * ROW
        parts.append(
            f"<g><title>{escape(row.hover)}</title>"
            + text(PAD, top + 14, row.label, "name")
            + text(WIDTH - PAD, top + 14, row.text, "value", "end")
        )
        if row.value is not None:
            x, y = axis.at(row.value), top + 27
            kind = "better" if row.value >= reference else "worse"
            kind = kind if row.real else "same"
            parts.append(
                f'<g class="{kind}"><path class="stroke" d="M{middle:.1f} {y} H{x:.1f}"/>'
                f'<circle class="fill" cx="{x:.1f}" cy="{y}" r="5"/></g>'
            )
        parts.append("</g>")
    return svg(height, label, parts)


def _grid(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
