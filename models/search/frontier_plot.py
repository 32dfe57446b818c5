"""The plot of a search: share of the full model's AUC, with errors, against bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.errors import needs_extra
from ondevice.models.search.frontier import Frontier, map_words, network_words
from ondevice.models.search.measure import Measure
from ondevice.models.search.trial import TrialResult
from ondevice.text_table import size

with needs_extra("the plot of the frontier", "train"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

CAPTION_SIZE = 8  # points
# Characters that an inch of caption holds, fewer than the average: wide ones fit too.
CAPTION_CHARACTERS = 17
NO_BREAK = "\N{NO-BREAK SPACE}"

LABELS = {"file": "size of the whole .odm file", "tables": "size of its embedding tables"}


def write_plot(
    frontier: Frontier, path: Path, best: TrialResult | None = None, limit: int | None = None
) -> None:
    """Share of the full model's test AUC against bytes, as PNG or SVG by the file's suffix.

    Bars are one standard error over bootstrap samples of the test rows. A search for small tables
    has a second panel with the bytes of tables.

    Args:
        frontier: the results.
        path: of the picture.
        best: the chosen one.
        limit: most bytes of what the goal measures, if it has such a limit.
    """
    measures: list[Measure] = ["file"] if frontier.measure == "file" else ["file", "tables"]
    views = [Frontier(frontier.reference, frontier.results, measure) for measure in measures]
    named = _named(views, best)
    width = 11.0 if len(measures) == 1 else 13.0
    captions = [_caption(views[0], *item, width) for item in enumerate(named, 1)]
    lines = "\n".join(captions)
    figure = Figure(
        figsize=(width, 4.8 + 0.17 * (lines.count("\n") + 1)),
        layout="constrained",
    )
    figure.suptitle("How small can the model get, and how much of the AUC is left?")
    panels = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
    for axes, view in zip(panels, views, strict=True):
        _panel(axes, view, best, named)
        if limit is not None and view.measure == frontier.measure:
            label = f"limit, {size(limit)}"
            axes.axvline(limit, color="tab:green", linewidth=1, linestyle=":", label=label)
    panels[0].set_ylabel("share of the full model's test AUC, %\n(bars: one standard error)")
    handles, labels = panels[-1].get_legend_handles_labels()
    panels[-1].legend(handles, labels, loc="lower right", fontsize=8)
    figure.supxlabel(lines, fontsize=CAPTION_SIZE, ha="left", x=0.04)
    # a matplotlib version or a date in the file would make equal results differ
    kind = path.suffix.lstrip(".")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=120, metadata=metadata)


def _named(views: Sequence[Frontier], best: TrialResult | None) -> list[TrialResult]:
    """The points that get a number: all frontiers' and the chosen one, by bytes of the file."""
    points = [point for view in views for point in view.points]
    if best is not None:
        points.append(best)
    distinct = [point for i, point in enumerate(points) if point not in points[:i]]
    return sorted(
        (point for point in distinct if point != views[0].reference),
        key=lambda point: point.file_bytes,
    )


def _caption(frontier: Frontier, number: int, point: TrialResult, width: float) -> str:
    """What a point is, in lines that fit a figure of this width in inches, cut at semicolons."""
    most = int(0.95 * width * CAPTION_CHARACTERS)
    words = f"{number}  {_words(frontier, point)}".replace(" ", NO_BREAK)
    text = words.replace(f";{NO_BREAK}", "; ")
    lines = textwrap.wrap(text, most, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines).replace(NO_BREAK, " ")


def _words(frontier: Frontier, point: TrialResult) -> str:
    """What a point is, in a line."""
    full = frontier.reference
    width = max(design.dim for design in point.trial.tables.values())
    return (
        f"file {size(point.file_bytes)} ({full.file_bytes / point.file_bytes:.1f}x smaller): "
        f"tables {size(point.table_bytes)} ({full.table_bytes / point.table_bytes:.0f}x), "
        f"{width} dimension{'s' if width > 1 else ''} a value; "
        f"rows found by {map_words(point)}, vocabularies and boundaries {size(point.map_bytes)}; "
        f"network {network_words(point)}, {size(point.network_bytes)}; "
        f"{100 * frontier.share(point):.1f} +- {100 * frontier.share_error(point):.1f} % of AUC"
    )


def _panel(
    axes: Any, frontier: Frontier, best: TrialResult | None, named: Sequence[TrialResult]
) -> None:
    """One plot against the bytes that the frontier measures, with the numbers of named points."""
    full, measure = frontier.reference, frontier.measure
    points = [point for point in frontier.points if point != full]
    marked = [*points, full]
    others = [result for result in frontier.results if result not in marked and result != best]
    _marks(axes, frontier, others, "o", "0.75", "other models tried")
    _marks(axes, frontier, points, "o-", "tab:blue", "best for their size, by validation")
    if best is not None:
        _marks(axes, frontier, [best], "*", "tab:red", "chosen", markersize=15, zorder=4)
    _marks(axes, frontier, [full], "s", "black", "full model, float32")
    axes.axhline(100, color="0.5", linewidth=0.8, linestyle="--")
    for number, point in enumerate(named, 1):
        axes.annotate(
            str(number),
            (point.bytes(measure), 100 * frontier.share(point)),
            xytext=(7, 5 if number % 2 else -11),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold",
        )
    sizes = [result.bytes(measure) for result in frontier.results]
    axes.set_xscale("log")
    steps = (1.0, 2.0, 5.0) if max(sizes) > 10 * min(sizes) else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_size(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{LABELS[measure]} (full model: {size(full.bytes(measure))})")
    axes.grid(alpha=0.3)
    axes.margins(0.08, 0.1)


def _marks(
    axes: Any,
    frontier: Frontier,
    results: Sequence[TrialResult],
    style: str,
    color: str,
    label: str,
    **more: Any,
) -> None:
    if not results:
        return
    axes.errorbar(
        [result.bytes(frontier.measure) for result in results],
        [100 * frontier.share(result) for result in results],
        yerr=[100 * frontier.share_error(result) for result in results],
        fmt=style,
        color=color,
        label=label,
        capsize=2,
        elinewidth=0.8,
        **more,
    )


def _short_size(count: float) -> str:
    """Bytes for a tick, such as "20 kB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:g} {unit}"
        count /= 1000
    return f"{count:g} GB"
