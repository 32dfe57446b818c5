"""Compare two reports figure by figure: ratio, interval, and whether the difference is real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ondevice.bench.measure.statistics import Ratio, ratio_of_bursts
from ondevice.bench.report import Latency, Memory, Report, Spread, Start, State
from ondevice.bench.show.tables import request_text
from ondevice.errors import InputError
from ondevice.text_table import table

Key = tuple[str, str, str]  # model, engine, what was measured


@dataclass(frozen=True)
class Compared:
    """One figure in both reports; ratio is b / a.

    Attributes:
        real: whether the difference is more than the measurements' own scatter.
    """

    model: str
    engine: str
    what: str
    unit: str
    a: float
    b: float
    ratio: float
    low: float | None
    high: float | None
    real: bool

    @property
    def name(self) -> str:
        """Model, engine and what was measured, as far as they are needed to tell it apart."""
        return ", ".join(part for part in (self.model, self.engine, self.what) if part)

    def sentence(self) -> str:
        """The result in words."""
        name = self.name
        interval = (
            f"95 % interval {self.low:.3f} to {self.high:.3f}"
            if self.low is not None and self.high is not None
            else "without an interval"
        )
        if not self.real:
            if self.ratio == 1:
                return f"{name}: the same in both."
            return f"{name}: no real difference shown (ratio {self.ratio:.3f}, {interval})."
        verb = {"us": "takes", "bytes": "needs", "faults": "has"}[self.unit]
        as_much = {"us": "as long", "bytes": "as much", "faults": "as many"}[self.unit]
        return (
            f"{name}: b {verb} {self.ratio:.3f} times {as_much} as a ({interval}): "
            "the difference is real."
        )


@dataclass(frozen=True)
class Comparison:
    """All figures that two reports share, what only one of them has, and what differs around."""

    figures: tuple[Compared, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return asdict(self)

    def text(self) -> str:
        """A table, then a sentence for each figure."""
        header = ("measurement", "unit", "a", "b", "b / a", "95 % interval", "real")
        rows = [
            (
                item.name,
                item.unit,
                f"{item.a:.4g}" if item.unit == "us" else f"{item.a:.0f}",
                f"{item.b:.4g}" if item.unit == "us" else f"{item.b:.0f}",
                f"{item.ratio:.3f}",
                "-" if item.low is None else f"{item.low:.3f} to {item.high:.3f}",
                "yes" if item.real else "no",
            )
            for item in self.figures
        ]
        parts = [table(header, rows), ""]
        parts += [item.sentence() for item in self.figures]
        for name, missing in (("a", self.only_a), ("b", self.only_b)):
            if missing:
                parts.append(f"only in {name}: {'; '.join(missing)}")
        parts += [f"note: {note}" for note in self.notes]
        return "\n".join(parts)


def compare(a: Report, b: Report) -> Comparison:
    """Compare what both reports measured: by model name, engine and request.

    Where both reports have a single model, its name need not match; where a model ran in a single
    engine in both, that engine need not.

    Raises:
        InputError: they share no measurement.
    """
    left, right = _by_key(a, b), _by_key(b, a)
    shared = [key for key in left if key in right]
    if not shared:
        raise InputError(
            "the reports share no measurement: "
            f"a has {_list(left) or 'none'}; b has {_list(right) or 'none'}"
        )
    figures = [item for key in shared for item in _compared(key, left[key], right[key])]
    sizes = {key[0] for key in shared}
    figures += [item for item in _sizes(a, b) if item.model in sizes]
    return Comparison(
        figures=tuple(figures),
        only_a=tuple(_text(key) for key in left if key not in right),
        only_b=tuple(_text(key) for key in right if key not in left),
        notes=tuple(_notes(a, b)),
    )


def _list(keys: dict[Key, Any]) -> str:
    return "; ".join(_text(key) for key in list(keys)[:5])


def _text(key: Key) -> str:
    return ", ".join(part for part in key if part)


def _by_key(report: Report, other: Report) -> dict[Key, Latency | Start | Memory]:
    one_model = len(report.models) == len(other.models) == 1
    several = _several_engines(report) | _several_engines(other)
    by_key: dict[Key, Latency | Start | Memory] = {}
    items: tuple[Latency | Start | Memory, ...] = (
        *report.latencies, *report.starts, *report.memories)  # fmt: skip
    for item in items:
        if isinstance(item, Latency):
            context = f" of {', '.join(item.context)}" if item.context else ""
            what = request_text(item) + context
        elif isinstance(item, Start):
            what = f"{'warm' if item.page_cache == 'warm' else 'cold'} start"
        else:
            what = f"memory, requests of {item.rows}"
        model = report.models[item.model].name
        engine = item.engine if (one_model and several) or model in several else ""
        by_key[("" if one_model else model, engine, what)] = item
    return by_key


def _several_engines(report: Report) -> set[str]:
    """Names of models that were run by more than one engine."""
    pairs = {(report.models[item.model].name, item.engine) for item in report.subjects()}
    names = [name for name, _ in pairs]
    return {name for name in names if names.count(name) > 1}


def _compared(
    key: Key, a: Latency | Start | Memory, b: Latency | Start | Memory
) -> Iterator[Compared]:
    if isinstance(a, Latency) and isinstance(b, Latency):
        if a.bursts_us and b.bursts_us and a.latency_us and b.latency_us:
            ratio = ratio_of_bursts(a.bursts_us, b.bursts_us)
            yield _figure(key, "", "us", a.latency_us.p50, b.latency_us.p50, ratio)
        return
    pairs: list[tuple[str, str, Spread | None, Spread | None]] = []
    if isinstance(a, Start) and isinstance(b, Start) and a.page_cache == b.page_cache:
        pairs += [(": to the first score", "us", a.start_us, b.start_us)]
        pairs += [(": load", "us", a.load_us, b.load_us)]
    if isinstance(a, Memory) and isinstance(b, Memory):
        pairs += [(f": {name} added", "bytes", a.growth.get(name), b.growth.get(name))
                  for name in ("rss", "anonymous")]  # fmt: skip
    for suffix, unit, left, right in pairs:
        if left is not None and right is not None and left.p50 > 0 and right.p50 > 0:
            yield _figure(key, suffix, unit, left.p50, right.p50, _ratio(left, right))


def _ratio(a: Spread, b: Spread) -> Ratio:
    """From summaries of a few processes: real only where the ranges do not overlap.

    That two ranges of n observations each do not overlap by chance has the probability
    2 / C(2n, n): 0.8 % for five. The interval is that of the extremes.
    """
    value = b.p50 / a.p50
    if min(a.count, b.count) < 2:
        return Ratio(value, None, None, "measured in one process only")
    if a.min <= 0:
        return Ratio(value, None, None, "nothing to divide by")
    return Ratio(value, b.min / a.max, b.max / a.min)


def _figure(key: Key, suffix: str, unit: str, a: float, b: float, ratio: Ratio) -> Compared:
    model, engine, what = key
    values = (ratio.value, ratio.low, ratio.high, ratio.real)
    return Compared(model, engine, what + suffix, unit, a, b, *values)


def _sizes(a: Report, b: Report) -> Iterator[Compared]:
    one_model = len(a.models) == len(b.models) == 1
    other = {"" if one_model else model.name: model for model in b.models}
    for model in a.models:
        name = "" if one_model else model.name
        if name in other and model.bytes and other[name].bytes:
            ratio = other[name].bytes / model.bytes
            yield Compared(
                *(name, "", "bytes on disk", "bytes", model.bytes, other[name].bytes, ratio),
                *(ratio, ratio, ratio != 1),
            )


def _notes(a: Report, b: Report) -> Iterator[str]:
    """What differs around the figures: devices, versions, files, load, governors."""
    for name in ("name", "cpu", "architecture", "cores"):
        left, right = getattr(a.device, name), getattr(b.device, name)
        if left != right:
            yield f"the devices differ: {name} is {left} in a, {right} in b"
    for name in sorted(set(a.device.versions) & set(b.device.versions)):
        left, right = a.device.versions[name], b.device.versions[name]
        if left != right:
            yield f"{name} is {left} in a, {right} in b"
    for model in a.models:
        for other in b.models:
            if model.name == other.name and model.files != other.files:
                yield f"{model.name} is not the same file in a and b"
    for letter, report in (("a", a), ("b", b)):
        if report.interrupted:
            yield f"{letter} was interrupted"
        if report.device.emulated is not None:
            yield f"{letter} was measured under emulation ({report.device.emulated}): without times"
        loads = [s.load for s in _states(report) if s.load is not None]
        if loads and min(loads) > report.device.cores * 0.75:
            yield f"{letter} was measured on a busy device (load {min(loads):.2g} and more)"
    clocks = [{c.governor for s in _states(r) for c in s.clocks} for r in (a, b)]
    if clocks[0] != clocks[1]:
        texts = [", ".join(sorted(str(g) for g in governors)) or "none" for governors in clocks]
        yield f"the governors differ: {texts[0]} in a, {texts[1]} in b"


def _states(report: Report) -> list[State]:
    return [s for i in report.subjects() for s in (i.conditions.before, i.conditions.after)]
