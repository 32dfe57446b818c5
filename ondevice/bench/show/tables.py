"""A report as text, Markdown and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from ondevice.bench.report import Device, Latency, Profile, Report, Spread, State, Subject
from ondevice.inspection import FileParts
from ondevice.inspection_text import PART_TITLES
from ondevice.text_table import size, table

SPREAD_COLUMNS = ("count", "mean", "sd", "min", "p50", "p90", "p95", "p99", "max")
MAX_OPERATORS = 30  # of a profile, slowest first; all of them are in the JSON and CSV


@dataclass(frozen=True)
class Section:
    """One table of a report."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text(report: Report) -> str:
    """The report for a terminal."""
    parts = [device_text(report.device), *(_note for _note in notes(report))]
    parts += [f"\n{item.title}\n\n{table(item.header, item.rows)}" for item in sections(report)]
    return "\n".join(parts)


def markdown(report: Report) -> str:
    """The report as Markdown: a heading and a table for each section."""
    parts = [f"**{_escaped(device_text(report.device))}**", ""]
    parts += [f"- {_escaped(note)}" for note in notes(report)]
    for section in sections(report):
        parts += ["", f"### {section.title}", "", _markdown_row(section.header)]
        parts.append(_markdown_row(["---", *["---:"] * (len(section.header) - 1)]))
        parts += [_markdown_row(row) for row in section.rows]
    return "\n".join(parts) + "\n"


def csv_text(report: Report) -> str:
    """Every figure of the report, one line each with its whole spread."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ("model", "engine", "runtime", "threads", "measurement", "figure", "unit")
    writer.writerow((*columns, *SPREAD_COLUMNS))
    for model in report.models:
        line = (model.name, "", "", "", "files", "size", "bytes", 1, model.bytes, 0)
        writer.writerow((*map(_cell, line), *[model.bytes] * 6))
    for item, measurement, figure, unit, spread in figures(report):
        model_name = report.models[item.model].name
        head = (model_name, item.engine, item.runtime, item.threads, measurement, figure, unit)
        values = asdict(spread)
        writer.writerow((*map(_cell, head), *(f"{values[name]:.7g}" for name in SPREAD_COLUMNS)))
    return out.getvalue()


def figures(report: Report) -> Iterable[tuple[Subject, str, str, str, Spread]]:
    """Every figure: its measurement, that in words, the figure's name, its unit, the spread."""
    rows: list[tuple[Subject, str, str, str, Spread | None]] = []
    for start in report.starts:
        what = f"start, page cache {start.page_cache}"
        rows.append((start, what, "start to first score", "us", start.start_us))
        rows.append((start, what, "load", "us", start.load_us))
        rows.append((start, what, "first request", "us", start.first_us))
    for memory in report.memories:
        what = f"memory, requests of {memory.rows}"
        for group, spreads in (("process", memory.process), ("growth", memory.growth)):
            rows += [(memory, what, f"{group} {k}", "bytes", v) for k, v in spreads.items()]
        rows += [(memory, what, f"{k} page faults", "faults", v) for k, v in memory.faults.items()]
    for item in report.latencies:
        what = request_text(item)
        rows.append((item, what, "latency", "us", item.latency_us))
        rows.append((item, what, "throughput", "rows/s", item.rows_per_s))
        rows.append((item, what, "CPU time a request", "us", item.cpu_us))
        rows.append((item, what, "energy a request", "uJ", item.energy_uj))
        rows.append((item, what, "harness overhead", "us", item.overhead_us))
    for profile in report.profiles:
        what = f"{profile.call} {profile.rows}, by operator"
        rows += [(profile, what, f"{o.op} {o.name}", "us", o.us) for o in profile.operators]
    for subject, what, figure, unit, value in rows:
        if value is not None:
            yield subject, what, figure, unit, value


def sections(report: Report) -> list[Section]:
    """The tables of a report; those without rows are left out."""
    tables = [_latency(report), _starts(report), _memory(report), _bytes(report)]
    tables += [_profile(report, profile) for profile in report.profiles]
    return [section for section in tables if section.rows]


def request_text(item: Latency) -> str:
    """What was asked, such as "predict 1 every 100 ms" or "rank 100, 2 processes"."""
    pause = f" every {item.gap_ms:g} ms" if item.gap_ms else ""
    threads = f", {item.threads} threads" if item.threads > 1 else ""
    kind = {"thread": "threads", "process": "processes"}[item.worker_kind]
    workers = f", {item.workers} {kind} at once" if item.workers > 1 else ""
    return f"{item.call} {item.rows}{pause}{threads}{workers}"


def device_text(device: Device) -> str:
    """The device in one line."""
    memory = f", {size(device.memory_bytes)} memory" if device.memory_bytes else ""
    cores = f"{device.cores} core{'s' if device.cores > 1 else ''}"
    name = f"{device.name}: " if device.name else ""
    return f"{name}{device.cpu} ({device.architecture}, {cores}{memory}), {device.system}, " \
           f"{device.kernel}"  # fmt: skip


def notes(report: Report) -> list[str]:
    """What a reader of the figures must know."""
    lines = []
    if report.interrupted:
        lines.append("interrupted: fewer processes or measurements than asked for")
    if report.device.emulated is not None:
        lines.append(f"the processor is emulated ({report.device.emulated}): its times say nothing "
                     "of a device and are not shown")  # fmt: skip
    overheads = [item.overhead_us.p50 for item in report.latencies if item.overhead_us is not None]
    if overheads:
        lines.append(f"every latency contains {_range(overheads, 'us')} of timing itself")
    for start in report.starts:
        if start.page_cache == "unknown":
            name = report.models[start.model].name
            lines.append(f"{name}: starts are not cold: {start.page_cache_note}")
    contexts = {item.context for item in report.latencies if item.call == "rank"}
    lines += [
        f"rank: the context is {', '.join(inputs) or 'the first input'}"
        for inputs in sorted(contexts)
    ]
    lines += _state_notes(report)
    meters = {item.energy_meter for item in report.latencies if item.energy_meter}
    lines += [f"energy is measured by {meter}" for meter in sorted(meters)]
    return list(dict.fromkeys(lines))


def _state_notes(report: Report) -> list[str]:
    states = [s for i in report.subjects() for s in (i.conditions.before, i.conditions.after)]
    lines = []
    clocks = [(clock.governor, clock.mhz) for state in states for clock in state.clocks]
    governors = sorted({governor for governor, _ in clocks if governor})
    mhz = [value for _, value in clocks if value is not None]
    if mhz:
        by = f", governor {', '.join(governors)}" if governors else ", governor unknown"
        lines.append(f"clock {_range(mhz, 'MHz')}{by}")
    celsius = [t.celsius for state in states for t in state.temperatures]
    lines.append(f"temperature {_range(celsius, 'C')}" if celsius else "temperature unknown")
    lines.append(_throttling(states))
    loads = [state.load for state in states if state.load is not None]
    if loads:
        cores = report.device.cores
        busy = ": other work disturbs the figures" if min(loads) > cores * 0.75 else ""
        lines.append(f"load {_range(loads)} on {cores} cores{busy}")
    return lines


def _throttling(states: Sequence[State]) -> str:
    told = [state.throttled for state in states if state.throttled is not None]
    if not told:
        return "throttling unknown"
    flags = sorted({flag for flags in told for flag in flags})
    return f"throttling: {', '.join(flags)}" if flags else "no throttling"


def _latency(report: Report) -> Section:
    """Requests; columns that no request fills are left out."""
    header = (
        *("request", "file", "engine", "min", "p50", "p90", "p95", "p99", "max", "mean", "sd"),
        *("bursts' p50", "rows/s", "CPU us", "uJ", "requests"),
    )
    rows = []
    for item in report.latencies:
        latency = item.latency_us
        times = ["-"] * 8
        if latency is not None:
            names = ("min", "p50", "p90", "p95", "p99", "max", "mean", "sd")
            times = [microseconds(getattr(latency, name)) for name in names]
        bursts = [value for process in item.bursts_us or () for value in process]
        rows.append((
            request_text(item), report.models[item.model].name, item.engine, *times,
            _range(bursts) if bursts else "-",
            "-" if item.rows_per_s is None else f"{item.rows_per_s.p50:,.0f}",
            "-" if item.cpu_us is None else microseconds(item.cpu_us.p50),
            "-" if item.energy_uj is None else microseconds(item.energy_uj.p50),
            str(item.requests),
        ))  # fmt: skip
    used = [i for i in range(len(header)) if i < 11 or any(row[i] != "-" for row in rows)]
    return Section(
        "Latency, microseconds",
        tuple(header[i] for i in used),
        tuple(tuple(row[i] for i in used) for row in rows),
    )


def _starts(report: Report) -> Section:
    """Starts, in milliseconds."""
    rows = []
    for item in report.starts:
        spreads = (item.start_us, item.load_us, item.first_us)
        rows.append((
            report.models[item.model].name, item.engine,
            {"dropped": "cold", "warm": "warm", "unknown": "unknown"}[item.page_cache],
            *(_with_range(spread, 1000) for spread in spreads),
            "-" if item.start_us is None else str(item.start_us.count),
        ))  # fmt: skip
    return Section(
        "Starts, milliseconds: median (least to most)",
        (
            "file",
            "engine",
            "file cache",
            "process to first score",
            "load",
            "first request",
            "starts",
        ),
        tuple(rows),
    )


def _bytes(report: Report) -> Section:
    """What the bytes of the files are for; models whose writer did not say so are left out."""
    names = [item.name for item in dataclasses.fields(FileParts)]
    rows = [
        (model.name, *(f"{model.parts.get(name, 0):,}" for name in names), f"{model.bytes:,}")
        for model in report.models
        if model.parts
    ]
    return Section("Bytes on disk: what they are for", ("file", *PART_TITLES, "all"), tuple(rows))


def _memory(report: Report) -> Section:
    rows = []
    for item in report.memories:
        model = report.models[item.model]
        cells = [_size(item.growth.get(name)) for name in ("rss", "pss", "anonymous", "file")]
        cells += [_size(item.process.get(name)) for name in ("rss", "peak")]
        faults = [item.faults.get(name) for name in ("minor", "major")]
        cells.append(
            " + ".join("-" if spread is None else f"{spread.p50:.0f}" for spread in faults)
        )
        rows.append((model.name, item.runtime, size(model.bytes), *cells))
    return Section(
        "Size and memory: on disk, what the engine and the model add, the whole process",
        ("file", "engine", "on disk", "+ rss", "+ pss", "+ anonymous", "+ file", "rss", "peak",
         "faults minor + major"),
        tuple(rows),
    )  # fmt: skip


def _profile(report: Report, item: Profile) -> Section:
    """Operators, slowest first, with their share of the sum."""
    total = sum(o.us.mean for o in item.operators if o.us is not None)
    order = sorted(item.operators, key=lambda o: 0.0 if o.us is None else -o.us.mean)
    rows = []
    for operator in order[:MAX_OPERATORS]:
        spread = operator.us
        times = ["-"] * 4
        if spread is not None:
            times = [*map(microseconds, (spread.mean, spread.sd, spread.p50)),
                     f"{spread.mean / total:.1%}" if total else "-"]  # fmt: skip
        rows.append((operator.name, operator.op, *times, f"{operator.bytes:,}"))
    if item.overhead_us is not None:
        overhead = item.overhead_us
        cells = map(microseconds, (overhead.mean, overhead.sd, overhead.p50))
        rows.append(("(reading the clock, in each)", "", *cells, "", ""))
    name = report.models[item.model].name
    return Section(
        f"Operators of {name}, {item.call} {item.rows}, {item.requests} requests",
        ("operator", "op", "mean us", "sd", "p50", "share", "bytes touched"),
        tuple(rows),
    )


def microseconds(value: float) -> str:
    """A time with as many digits as it is likely to mean."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _with_range(spread: Spread | None, scale: float) -> str:
    if spread is None:
        return "-"
    low, mid, high = (value / scale for value in (spread.min, spread.p50, spread.max))
    return f"{mid:.3g} ({low:.3g} to {high:.3g})"


def _range(values: Sequence[float], unit: str = "") -> str:
    low, high = (f"{value:.3g}" if value < 1000 else f"{value:.0f}"
                 for value in (min(values), max(values)))  # fmt: skip
    return f"{low if low == high else f'{low} to {high}'} {unit}".strip()


def _size(spread: Spread | None) -> str:
    return "-" if spread is None else size(spread.p50)


def _cell(value: object) -> str:
    """A CSV cell that no spreadsheet takes for a formula."""
    content = str(value)
    return f"'{content}" if content.startswith(("=", "+", "-", "@")) else content


def _escaped(content: str) -> str:
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>#|" else char for char in content)


def _markdown_row(cells: Sequence[str]) -> str:
    return (
        "| "
        + " | ".join(cell if set(cell) <= set("-:") else _escaped(cell) for cell in cells)
        + " |"
    )
