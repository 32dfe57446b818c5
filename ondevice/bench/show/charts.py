"""Charts as SVG text, drawn for a width of 360 units so that a phone shows them unshrunk.

Made by hand because the report is also written on devices, where numpy is the only library.
Colours are the page's classes s0, s1, ...; every mark has a title, which browsers show on hover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
ROW = 38  # a label line and its mark
AXIS = 26
PAD = 8  # left and right, so that marks and labels at the ends are not cut
SERIES = 8  # colours of the page
TICK_LETTER = 6.5  # width of a letter of an axis label, on the generous side

Format = Callable[[float], str]


@dataclass(frozen=True)
class Box:
    """One row of a distribution chart: label, colour, and the 101 percentiles."""

    label: str
    series: int
    percentiles: Sequence[float]
    hover: str
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart: label, parts (colour class, length), text at the end, whisker."""

    label: str
    parts: Sequence[tuple[str, float]]
    text: str
    hover: str
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True)
class Point:
    """A point of a scatter chart."""

    label: str
    series: int
    x: float
    y: float


@dataclass(frozen=True)
class Interval:
    """One row of a comparison: a ratio and its interval."""

    label: str
    ratio: float
    low: float | None
    high: float | None
    real: bool
    hover: str


def microseconds(value: float) -> str:
    """A time with its unit, three digits."""
    unit, scale = ("µs", 1.0) if value < 999.5 else ("ms", 1e3) if value < 999.5e3 else ("s", 1e6)
    shown = value / scale
    return f"{shown:.{2 if shown < 9.995 else 1 if shown < 99.95 else 0}f} {unit}"


def round_microseconds(value: float) -> str:
    """A round time with its unit, as an axis shows it."""
    unit, scale = ("µs", 1.0) if value < 1e3 else ("ms", 1e3) if value < 1e6 else ("s", 1e6)
    return f"{value / scale:g} {unit}"


def boxes(rows: Sequence[Box], label: str) -> str:
    """Distributions on one logarithmic axis: 1st to 99th percentile, middle half, median."""
    low = min(row.percentiles[1] for row in rows)
    high = max(row.percentiles[99] for row in rows)
    axis = _LogAxis(low, high)
    height = ROW * len(rows) + AXIS
    parts = [axis.grid(height - AXIS), axis.labels(height, round_microseconds)]
    for number, row in enumerate(rows):
        top = number * ROW
        p = row.percentiles
        middle = top + 27
        x1, x25, x50, x75, x95, x99 = (axis.at(p[i]) for i in (1, 25, 50, 75, 95, 99))
        wide = max(x75 - x25, 3)
        light = " light" if row.dashed else ""
        parts.append(
            f'<g class="s{row.series % SERIES}{light}"><title>{escape(row.hover)}</title>'
            + text(PAD, top + 14, row.label, "name")
            + text(WIDTH - PAD, top + 14, microseconds(p[50]), "value", "end")
            + f'<line class="stroke" x1="{x1:.1f}" x2="{x99:.1f}" y1="{middle}" y2="{middle}"/>'
            + f'<rect class="fill" x="{x25:.1f}" y="{middle - 6}" width="{wide:.1f}" height="12" '
            'rx="3"/>'
            + "".join(
                f'<line class="stroke" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 4}" '
                f'y2="{middle + 4}"/>'
                for x in (x95, x99)
            )
            + f'<line class="median" x1="{x50:.1f}" x2="{x50:.1f}" y1="{middle - 6}" '
            f'y2="{middle + 6}"/></g>'
        )
    return svg(height, label, parts)


def cumulative(rows: Sequence[Box], label: str) -> str:
    """The share of requests that are answered within a time, on a logarithmic axis."""
    low = min(row.percentiles[0] for row in rows)
    high = max(row.percentiles[99] for row in rows)
    left, top, bottom = 38, 8, 158
    axis = _LogAxis(low, high, left)
    parts = [axis.grid(bottom, top), axis.labels(bottom + AXIS, round_microseconds)]
    for percent in (0, 25, 50, 75, 95):
        y = bottom - (bottom - top) * percent / 100
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - PAD}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(text(left - 5, y + 4, f"{percent} %", "tick", "end"))
    for row in rows:
        places = [
            f"{axis.at(value):.1f} {bottom - (bottom - top) * percent / 100:.1f}"
            for percent, value in enumerate(row.percentiles[:100])
        ]
        dash = " light" if row.dashed else ""
        parts.append(
            f'<g class="s{row.series % SERIES}{dash}"><title>{escape(row.hover)}</title>'
            f'<path class="curve" d="M{" L".join(places)}"/></g>'
        )
    return svg(bottom + AXIS, label, parts)


def bars(rows: Sequence[Bar], label: str) -> str:
    """Horizontal bars from zero, in parts; a whisker shows the least and the most."""
    most = max(
        (max(sum(size for _, size in row.parts), *(row.whisker or (0.0, 0.0))) for row in rows),
        default=0.0,
    )
    scale = (WIDTH - 2 * PAD) / (most or 1)
    parts = []
    for number, row in enumerate(rows):
        top, x = number * ROW, float(PAD)
        marks = [
            f"<g><title>{escape(row.hover)}</title>",
            text(PAD, top + 14, row.label, "name"),
            text(WIDTH - PAD, top + 14, row.text, "value", "end"),
            f'<rect class="track" x="{PAD}" y="{top + 20}" width="{WIDTH - 2 * PAD}" height="11" '
            'rx="3"/>',
        ]
        for kind, size in row.parts:
            width = max(size * scale, 1.5)
            marks.append(
                f'<g class="{kind}"><rect class="fill" x="{x:.1f}" y="{top + 20}" '
                f'width="{width:.1f}" height="11" rx="2"/></g>'
            )
            x += width
        if row.whisker is not None:
            low, high = (PAD + value * scale for value in row.whisker)
            y = top + 25.5
            marks.append(
                f'<path class="whisker" d="M{low:.1f} {y} H{high:.1f} M{low:.1f} {y - 3} v6 '
                f'M{high:.1f} {y - 3} v6"/>'
            )
        parts.append("".join(marks) + "</g>")
    return svg(ROW * len(rows) + 2, label, parts)


def scatter(points: Sequence[Point], label: str, x_format: Format, y_format: Format) -> str:
    """Points over a logarithmic x axis; a line joins those that no other point beats."""
    texts = [y_format(point.y) for point in points]
    left, top, bottom = 16 + 6 * max(map(len, texts)), 24, 190
    axis = _LogAxis(min(p.x for p in points) / 1.3, max(p.x for p in points) * 1.3, left)
    ys = [point.y for point in points]
    room = max((max(ys) - min(ys)) * 0.25, abs(max(ys)) * 1e-4, 1e-9)
    low, high = min(ys) - room, max(ys) + room

    def at(y: float) -> float:
        return bottom - (bottom - top) * (y - low) / (high - low)

    parts = [axis.grid(bottom, top), axis.labels(bottom + AXIS, x_format)]
    for value in dict.fromkeys((min(ys), (min(ys) + max(ys)) / 2, max(ys))):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - PAD}" y1="{at(value):.1f}" '
            f'y2="{at(value):.1f}"/>'
        )
        parts.append(text(left - 5, at(value) + 4, y_format(value), "tick", "end"))
    best = list(frontier(points))
    path = " L".join(f"{axis.at(p.x):.1f} {at(p.y):.1f}" for p in best)
    parts.append(f'<path class="frontier" d="M{path}"/>')
    used: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: at(p.y)):
        x, y = axis.at(point.x), at(point.y)
        end = x > WIDTH * 0.6
        text_y = next(
            y + shift
            for shift in (-9, 18, -23, 32, -37, 46, 0)
            if not shift
            or all(abs(y + shift - other) > 12 or abs(x - place) > 150 for place, other in used)
        )
        used.append((x, text_y))
        hover = f"{point.label}: {x_format(point.x)}, {y_format(point.y)}"
        parts.append(
            f'<g class="s{point.series % SERIES}"><title>{escape(hover)}</title>'
            f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
            + text(x + (-9 if end else 9), text_y, point.label, "name", "end" if end else "start")
            + "</g>"
        )
    return svg(bottom + AXIS, label, parts)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points with a higher y than all that have a smaller or equal x, by x."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def intervals(rows: Sequence[Interval], label: str) -> str:
    """Ratios with their intervals on a logarithmic axis around 1."""
    ends = [value for row in rows for value in (row.ratio, row.low, row.high) if value]
    axis = _LogAxis(min(*ends, 0.9), max(*ends, 1.1))
    height = ROW * len(rows) + AXIS
    parts = [axis.grid(height - AXIS), axis.labels(height, lambda value: f"{value:g}x")]
    unity = axis.at(1.0)
    parts.append(
        f'<line class="one" x1="{unity:.1f}" x2="{unity:.1f}" y1="0" y2="{height - AXIS}"/>'
    )
    for number, row in enumerate(rows):
        top = number * ROW
        middle = top + 27
        kind = "same" if not row.real else ("worse" if row.ratio > 1 else "better")
        line = ""
        if row.low and row.high:
            low, high = axis.at(row.low), axis.at(row.high)
            line = (f'<path class="stroke" d="M{low:.1f} {middle} H{high:.1f} M{low:.1f} '
                    f'{middle - 4} v8 M{high:.1f} {middle - 4} v8"/>')  # fmt: skip
        parts.append(
            f'<g class="{kind}"><title>{escape(row.hover)}</title>'
            + text(PAD, top + 14, row.label, "name")
            + text(WIDTH - PAD, top + 14, f"{row.ratio:.2f}x", "value", "end")
            + line
            + f'<circle class="fill" cx="{axis.at(row.ratio):.1f}" cy="{middle}" r="5"/></g>'
        )
    return svg(height, label, parts)


class _LogAxis:
    """A logarithmic x axis: where a value lies, its grid lines and their labels."""

    def __init__(self, low: float, high: float, left: float = PAD) -> None:
        low, high = max(low, 1e-12), max(high, 1e-12)
        middle = math.sqrt(low * high)
        self.low = math.log(min(low, middle / 1.5) * 0.95)
        self.high = math.log(max(high, middle * 1.5) * 1.05)
        self.left = left

    def at(self, value: float) -> float:
        """The place of a value; beyond the ends, the end."""
        share = (math.log(max(value, 1e-12)) - self.low) / (self.high - self.low)
        return self.left + min(max(share, 0.0), 1.0) * (WIDTH - PAD - self.left)

    def ticks(self) -> list[float]:
        """At most six round values."""
        first, last = math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10))
        for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [
                step * 10.0**power for power in range(first, last + 1) for step in steps
                if self.low <= math.log(step * 10.0**power) <= self.high
            ]  # fmt: skip
            if len(ticks) <= 6:
                return ticks
        return ticks[:: -(-len(ticks) // 6)]

    def grid(self, bottom: float, top: float = 0) -> str:
        """Vertical lines."""
        return "".join(
            f'<line class="grid" x1="{self.at(t):.1f}" x2="{self.at(t):.1f}" y1="{top}" '
            f'y2="{bottom}"/>'
            for t in self.ticks()
        )

    def labels(self, bottom: float, format_value: Format) -> str:
        """Labels under the lines, less those that would touch the one before."""
        parts: list[str] = []
        free = -math.inf  # where the last label ends
        for tick in self.ticks():
            x, content = self.at(tick), format_value(tick)
            anchor = "start" if x < self.left + 14 else "end" if x > WIDTH - PAD - 18 else "middle"
            wide = TICK_LETTER * len(content)
            begin = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            if begin >= free:
                parts.append(text(x, bottom - 8, content, "tick", anchor))
                free = begin + wide + TICK_LETTER
        return "".join(parts)


def text(x: float, y: float, content: str, kind: str, anchor: str = "start") -> str:
    """Text of a class at a place; long names are cut."""
    if kind == "name" and len(content) > 40:
        content = content[:39] + "…"
    return (f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(content)}</text>")  # fmt: skip


def svg(height: float, label: str, parts: Sequence[str]) -> str:
    """A chart of these parts, WIDTH units wide."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
