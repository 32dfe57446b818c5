"""Reports as one HTML page that needs no network and no script: charts, tables, device, notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ondevice.bench.report import Latency, Memory, ModelEntry, Profile, Report, Spread, Start
from ondevice.bench.show.charts import (
    Bar,
    Box,
    Interval,
    Point,
    bars,
    boxes,
    cumulative,
    intervals,
    microseconds,
    scatter,
)
from ondevice.bench.show.compare import compare
from ondevice.bench.show.document import card, document, folded
from ondevice.bench.show.tables import device_text, notes, request_text, sections
from ondevice.errors import InputError
from ondevice.text_table import size

MAX_OPERATORS = 10  # in a chart, slowest first; the table below has more


@dataclass(frozen=True)
class _Series:
    """A model in an engine of one report: what has a colour of its own."""

    report: int
    model: int
    engine: str


def page(reports: Sequence[Report]) -> str:
    """The page of one report, or of several side by side; the first is what others compare with."""
    view = _View(reports)
    body = [_header(reports), _keys(view), *_comparisons(reports), *_latencies(view)]
    body += _sizes(view)
    body += _profiles(reports)
    body += [_device(report, _letter(number, reports)) for number, report in enumerate(reports)]
    body += [_tables(report, _letter(number, reports)) for number, report in enumerate(reports)]
    return document(_title(reports), body)


class _View:
    """Which colour and which label each model, engine and report has."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = reports
        self.series = list(
            dict.fromkeys(
                _Series(number, item.model, item.engine)
                for number, report in enumerate(reports)
                for item in report.subjects()
            )
        )

    def number(self, report: int, item: Latency | Memory | Start) -> int:
        return self.series.index(_Series(report, item.model, item.engine))

    def label(self, series: _Series) -> str:
        name = self.reports[series.report].models[series.model].name
        same = [s for s in self.series if (s.report, s.model) == (series.report, series.model)]
        engine = f", {series.engine}" if len(same) > 1 else ""
        letter = _letter(series.report, self.reports)
        return f"{letter}{name}{engine}"

    def of(self, report: int, item: Latency | Memory | Start) -> str:
        return self.label(_Series(report, item.model, item.engine))

    def each(
        self, pick: Callable[[Report], Iterable[Latency | Memory | Start]]
    ) -> list[tuple[int, Latency | Memory | Start]]:
        return [(number, item) for number, report in enumerate(self.reports)
                for item in pick(report)]  # fmt: skip


def _letter(number: int, reports: Sequence[Report]) -> str:
    return f"{chr(ord('a') + number % 26)}: " if len(reports) > 1 else ""


def _title(reports: Sequence[Report]) -> str:
    names = dict.fromkeys(report.device.name or report.device.cpu for report in reports)
    return f"ondevice bench: {', '.join(names)}"


def _header(reports: Sequence[Report]) -> str:
    lines = []
    for number, report in enumerate(reports):
        stopped = ", interrupted" if report.interrupted else ""
        lines.append(
            f"<p><b>{_letter(number, reports)}{escape(device_text(report.device))}</b><br>"
            f"{escape(report.created)} by {escape(report.tool)}{stopped}</p>"
        )
        if report.device.emulated is not None:
            lines.append(
                '<p class="warning">This processor was emulated '
                f"({escape(report.device.emulated)}): its times say nothing of a device and are "
                "not shown.</p>"
            )
    return f"<header><h1>Measured on the device</h1>{''.join(lines)}</header>"


def _keys(view: _View) -> str:
    """A card of main figures for each model and engine."""
    cards = []
    for number, series in enumerate(view.series):
        report = view.reports[series.report]
        model = report.models[series.model]
        facts = [("on disk", size(model.bytes))]
        latencies = [
            i for i in report.latencies if (i.model, i.engine) == (series.model, series.engine)
        ]
        for item in latencies:
            if item.latency_us is not None and item.workers == 1 and item.threads == 1:
                facts.append((request_text(item), microseconds(item.latency_us.p50)))
        for memory in report.memories:
            if (memory.model, memory.engine) == (series.model, series.engine):
                rss = memory.growth.get("rss")
                facts += [("memory added", size(rss.p50))] if rss else []
        facts += [(name, f"{value:.4g}") for name, value in model.accuracy.items()]
        runtime = next(
            (i.runtime for i in report.subjects()
             if (i.model, i.engine) == (series.model, series.engine)), series.engine
        )  # fmt: skip
        rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
        cards.append(
            f'<section class="card key s{number % 8}"><h3><i></i>{escape(view.label(series))}</h3>'
            f"<p>{escape(runtime)}</p><dl>{rows}</dl></section>"
        )
    if not cards:
        return ""
    return f'<div class="grid">{"".join(cards)}</div><p class="note">Times are medians.</p>'


def _comparisons(reports: Sequence[Report]) -> Iterable[str]:
    """Ratios and sentences of every report against the first one."""
    for number in range(1, len(reports)):
        letter = chr(ord("a") + number % 26)
        try:
            result = compare(reports[0], reports[number])
        except InputError as error:
            yield f"<h2>Comparison of a and {letter}</h2><p>{escape(str(error))}</p>"
            continue
        rows = [
            Interval(
                item.name,
                *(item.ratio, item.low, item.high, item.real, item.sentence()),
            )
            for item in result.figures
        ]
        sentences = "".join(
            f"<li>{escape(item.sentence())}</li>" for item in result.figures
        ) + "".join(f"<li>Note: {escape(note)}.</li>" for note in result.notes)
        yield (
            f"<h2>{letter} compared with a</h2>"
            '<p class="note">Ratios, with 95 % intervals. Right of 1: more than a.</p>'
            f'<div class="grid wide"><section class="card">{intervals(rows, "ratios")}</section>'
            f'<section class="card"><ul>{sentences.replace(" b ", f" {letter} ")}</ul></section>'
            "</div>"
        )


def _latencies(view: _View) -> Iterable[str]:
    """A distribution card and a curve card for each kind of request."""
    groups: dict[str, list[tuple[int, Latency]]] = {}
    for number, item in view.each(lambda report: report.latencies):
        if isinstance(item, Latency) and item.percentiles_us is not None:
            threads = f", {item.threads} threads" if item.threads > 1 else ""
            several = f", {item.workers} {item.worker_kind}s" if item.workers > 1 else ""
            key = f"{item.call} {item.rows}{threads}{several}"
            groups.setdefault(key.replace("processs", "processes"), []).append((number, item))
    if not groups:
        return
    yield (
        "<h2>Latency</h2>"
        '<p class="note">Line: 1st to 99th percentile, with marks at the 95th and 99th. Bar: the '
        "middle half. White mark: the median, given on the right. Pale: with pauses between "
        "requests, as an app sends them.</p>"
    )
    cards = []
    for name, members in groups.items():
        rows = [
            Box(
                view.of(number, item) + (f", every {item.gap_ms:g} ms" if item.gap_ms else ""),
                view.number(number, item),
                item.percentiles_us or (),
                _hover(item),
                dashed=bool(item.gap_ms),
            )
            for number, item in members
        ]
        title = f"{name} row{'s' if not name.endswith(' 1') else ''}"
        title = title.replace(" rows", " candidates") if name.startswith("rank") else title
        charts = boxes(rows, f"latency of {name}") + "<h4>Answered within</h4>"
        cards.append(card(title, charts + cumulative(rows, f"shares of {name}")))
    yield f'<div class="grid">{"".join(cards)}</div>'


def _hover(item: Latency) -> str:
    latency = item.latency_us
    if latency is None:
        return request_text(item)
    names = ("min", "p50", "p90", "p95", "p99", "max", "mean", "sd")
    values = ", ".join(f"{name} {microseconds(getattr(latency, name))}" for name in names)
    return f"{request_text(item)}: {values}; {item.requests} requests"


def _sizes(view: _View) -> Iterable[str]:
    cards = [_size_card(view), *_memory_cards(view), *_start_cards(view), *_frontier_cards(view)]
    shown = [card for card in cards if card]
    if shown:
        yield "<h2>Size, memory, starts</h2>"
        yield f'<div class="grid">{"".join(shown)}</div>'


def _size_card(view: _View) -> str:
    rows, seen = [], set()
    for number, series in enumerate(view.series):
        model = view.reports[series.report].models[series.model]
        if (series.report, series.model) not in seen:
            seen.add((series.report, series.model))
            files = ", ".join(f"{file.name} {size(file.bytes)}" for file in model.files)
            name = _letter(series.report, view.reports) + model.name
            rows.append(Bar(name, [(f"s{number % 8}", model.bytes)], size(model.bytes), files))
    return card("On disk", bars(rows, "bytes on disk")) if rows else ""


def _memory_cards(view: _View) -> Iterable[str]:
    """Resident memory: what is anonymous in full colour, mapped files in pale."""
    for title, group in (("Memory that engine and model add", "growth"),
                         ("Memory of the whole process", "process")):  # fmt: skip
        rows = []
        for number, item in view.each(lambda report: report.memories):
            if not isinstance(item, Memory):
                continue
            spreads: dict[str, Spread] = getattr(item, group)
            if "rss" not in spreads:
                continue
            kind = f"s{view.number(number, item) % 8}"
            private = spreads.get("anonymous")
            anonymous = private.p50 if private else spreads["rss"].p50
            rest = max(spreads["rss"].p50 - anonymous, 0.0)
            hover = ", ".join(f"{name} {size(value.p50)}" for name, value in spreads.items())
            whisker = (spreads["rss"].min, spreads["rss"].max)
            rows.append(
                Bar(
                    view.of(number, item),
                    [(kind, anonymous), (f"{kind} light", rest)],
                    size(spreads["rss"].p50),
                    hover,
                    whisker,
                )
            )
        if rows:
            note = "Full colour: anonymous memory. Pale: mapped files, which the system can drop."
            yield card(title, bars(rows, title), note)


def _start_cards(view: _View) -> Iterable[str]:
    """Times of starts, a card for each kind; what is not known is left out."""
    picks = {
        "Process start to first score": "start_us",
        "Opening the model": "load_us",
        "First request": "first_us",
    }
    for title, pick in picks.items():
        rows = []
        for number, item in view.each(lambda report: report.starts):
            spread = getattr(item, pick)
            if not isinstance(item, Start) or spread is None:
                continue
            cache = {"dropped": "cold", "warm": "warm", "unknown": "cache unknown"}[item.page_cache]
            kind = f"s{view.number(number, item) % 8}" + (" light" if item.is_warm else "")
            hover = f"median of {spread.count}: {microseconds(spread.p50)}, {microseconds(spread.min)} to {microseconds(spread.max)}"  # noqa: E501
            rows.append(
                Bar(
                    f"{view.of(number, item)}, {cache}",
                    [(kind, spread.p50)],
                    microseconds(spread.p50),
                    hover,
                    (spread.min, spread.max),
                )
            )
        if rows:
            yield card(title, bars(rows, title), "Cold: the file's pages were dropped from memory.")


def _frontier_cards(view: _View) -> Iterable[str]:
    places: dict[str, dict[tuple[int, int], Point]] = {}
    for number, series in enumerate(view.series):
        model: ModelEntry = view.reports[series.report].models[series.model]
        for name, value in model.accuracy.items():
            label = _letter(series.report, view.reports) + model.name
            point = Point(label, number, float(model.bytes), value)
            places.setdefault(name, {}).setdefault((series.report, series.model), point)
    for name, points in places.items():
        compared = list(points.values())
        if len(compared) < 2:
            continue
        spread = max(p.y for p in compared) - min(p.y for p in compared)
        digits = min(6, max(2, 2 - math.floor(math.log10(spread)))) if spread else 4
        chart = scatter(compared, f"{name} by size", size, lambda y, d=digits: f"{y:.{d}f}")  # type: ignore[misc]
        note = "The line joins files that no other one beats in both size and accuracy."
        yield card(f"{name} by size on disk", chart, note)


def _profiles(reports: Sequence[Report]) -> Iterable[str]:
    cards = [
        _profile(report, item, _letter(number, reports))
        for number, report in enumerate(reports)
        for item in report.profiles
    ]
    if any(cards):
        yield f'<h2>Time by operator</h2><div class="grid">{"".join(cards)}</div>'


def _profile(report: Report, item: Profile, letter: str) -> str:
    timed = [operator for operator in item.operators if operator.us is not None]
    total = sum(operator.us.mean for operator in timed if operator.us is not None)
    if not timed or not total:
        return ""
    order = sorted(timed, key=lambda o: -o.us.mean if o.us else 0.0)
    rows = []
    for operator in order[:MAX_OPERATORS]:
        mean = operator.us.mean if operator.us else 0.0
        text = f"{microseconds(mean)}, {mean / total:.0%}"
        hover = f"{operator.op} {operator.name}: {text}, {operator.bytes:,} bytes touched"
        rows.append(Bar(f"{operator.name} ({operator.op})", [("s0", mean)], text, hover))
    name = report.models[item.model].name
    clock = (f" Reading the clock adds {microseconds(item.overhead_us.p50)} to each."
             if item.overhead_us else "")  # fmt: skip
    title = f"{letter}{name}: {item.call} {item.rows}"
    return card(title, bars(rows, title), f"Mean times.{clock}")


def _device(report: Report, letter: str) -> str:
    device = report.device
    facts = [
        ("board", device.name or "unknown"), ("processor", device.cpu),
        ("cores", f"{device.cores}, {device.architecture}"),
        ("memory", size(device.memory_bytes) if device.memory_bytes else "unknown"),
        ("system", f"{device.system}, {device.kernel}"),
        ("software", ", ".join(f"{k} {v}" for k, v in device.versions.items())),
    ]  # fmt: skip
    facts += [(f"SHA-256 of {file.name}", file.sha256) for m in report.models for file in m.files]
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    remarks = "".join(f"<li>{escape(note)}</li>" for note in notes(report))
    return (
        f'<h2>{letter}Device and conditions</h2><div class="grid wide"><section class="card">'
        f'<dl class="facts">{rows}</dl></section><section class="card"><ul>{remarks}</ul>'
        f"</section></div>{_conditions(report)}"
    )


def _conditions(report: Report) -> str:
    """The device before and after each measurement, folded away."""
    header = ("measurement", "clock before", "after", "temperature before", "after", "load", "CPUs")
    rows = []
    for item in report.subjects():
        before, after = item.conditions.before, item.conditions.after
        what = type(item).__name__.lower()
        if isinstance(item, Latency):
            what = request_text(item)
        clocks, heats = [], []
        for state in (before, after):
            clocks.append(", ".join(
                f"{c.mhz:.0f} MHz" + (f" ({c.governor})" if c.governor else "")
                for c in state.clocks if c.mhz is not None) or "unknown")  # fmt: skip
            heats.append(", ".join(f"{t.celsius:g} °C" for t in state.temperatures) or "unknown")
        loads = [s.load for s in (before, after) if s.load is not None]
        cpus = "unknown" if item.conditions.affinity is None else str(len(item.conditions.affinity))
        rows.append((f"{report.models[item.model].name}, {item.engine}: {what}", *clocks, *heats,
                     " to ".join(f"{load:g}" for load in loads) or "unknown", cpus))  # fmt: skip
    return folded("Device before and after each measurement", [("", header, rows)])


def _tables(report: Report, letter: str) -> str:
    tables = [(section.title, section.header, section.rows) for section in sections(report)]
    return folded(f"{letter}All figures as tables", tables)
