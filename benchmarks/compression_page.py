"""The tables and the plots of docs/evidence/compression.md, from the figures in docs/evidence.

python benchmarks/compression_page.py
"""

import csv
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

DOCS = Path(__file__).resolve().parent.parent / "docs"
METHODS = {
    "hash": "hashing",
    "multi_hash": "multi-hash",
    "quotient_remainder": "quotient-remainder",
    "binary_code": "binary code (BH)",
    "full": "frequent values own a row",
    "hybrid_hash": "hybrid hash",
    "hybrid_binary_code": "hybrid BH",
}


DATA = ("epinions", "ml1m", "synthetic")
HASHED_RATIOS = ("10", "100", "1000")
HASHED_HEAD = (
    "| wanted | form | bytes | rows read | values apart | AUC | of full | seeds |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
TABLE_HEAD = (
    "| wanted | method | bytes | smaller | with map | AUC | of full | lift |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def main() -> None:
    """Rewrite the page and the plot."""
    page = DOCS / "evidence" / "compression.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    plot()
    plot_hashed()


def with_tables(text: str) -> str:
    """The page with its tables written anew between `<!-- KIND NAME -->` and `<!-- end -->`."""
    kinds: dict[str, Callable[[str], str]] = {
        "rows": table,
        "hashed": hashed_table,
        "capacity": capacity_table,
        "standing": standing_table,
        "small": small_table,
    }

    def section(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} {match[2]} -->\n{kinds[match[1]](match[2])}<!-- end -->"

    pattern = rf"<!-- ({'|'.join(kinds)}) (\w+) -->\n.*?<!-- end -->"
    return re.sub(pattern, section, text, flags=re.DOTALL)


def hashed_table(name: str) -> str:
    """Markdown: every form on hashed IDs, mean and standard deviation over the seeds it has."""
    rows = read_rows(f"hashed_{name}.csv")
    lines = [HASHED_HEAD]
    for ratio in ("1", *HASHED_RATIOS):
        at_ratio = [row for row in rows if row["wanted_ratio"] == ratio]
        forms = dict.fromkeys(row["form"] for row in at_ratio)
        for form in sorted(forms, key=lambda form: -mean_auc(at_ratio, form)):
            chosen = [row for row in at_ratio if row["form"] == form]
            size = statistics.mean(float(row["table_bytes"]) for row in chosen)
            auc, share = spread(chosen, "test_auc"), spread(chosen, "auc_share")
            apart = statistics.mean(float(row["values_apart"]) for row in chosen)
            error = f" ± {auc[1]:.4f}" if len(chosen) > 1 else ""
            lines.append(
                f"| {ratio}x | {form} | {size:,.0f} | {chosen[0]['rows_per_id']} "
                f"| {100 * apart:.1f}% | {auc[0]:.4f}{error} | {100 * share[0]:.2f}% "
                f"| {len(chosen)} |\n"
            )
    return "".join(lines) + cost(rows)


SHIPPED = "BH as shipped: 2 to 4 overlapping blocks, mul"


def standing_table(_: str) -> str:
    """Markdown: the shipped form beside the best form of each log and size on hashed IDs."""
    lines = ["| log | wanted | first | AUC | as shipped | behind by | standard deviation |\n"]
    lines.append("|---|---|---|---|---|---|---|\n")
    for name in hashed_logs():
        rows = read_rows(f"hashed_{name}.csv")
        for ratio in HASHED_RATIOS:
            at_ratio = [row for row in rows if row["wanted_ratio"] == ratio]
            forms = {
                form: spread([row for row in at_ratio if row["form"] == form], "test_auc")
                for form in dict.fromkeys(row["form"] for row in at_ratio)
            }
            if SHIPPED not in forms:
                continue
            shipped = forms[SHIPPED]
            best = max(forms, key=lambda form: (forms[form][0], form == SHIPPED))
            first = "as shipped" if best == SHIPPED else best
            larger = max(shipped[1], forms[best][1])
            seeds = len({row["seed"] for row in at_ratio if row["form"] in (best, SHIPPED)})
            error = f"{larger:.4f}" if seeds > 1 else "one seed"
            lines.append(
                f"| {name} | {ratio}x | {first} | {forms[best][0]:.4f} | {shipped[0]:.4f} "
                f"| {forms[best][0] - shipped[0]:.4f} | {error} |\n"
            )
    return "".join(lines)


def cost(rows: list[dict[str, str]]) -> str:
    """A sentence on the trainings and processor hours behind these rows."""
    keys = ("seed", "wanted_ratio", "table_bytes", "test_auc", "cpu_seconds")
    trainings = {tuple(row[key] for key in keys) for row in rows}  # two names of one design: once
    hours = sum(float(training[-1]) for training in trainings) / 3600
    return f"\n{len(trainings)} trainings, {hours:.2f} hours of one core.\n"


def mean_auc(rows: list[dict[str, str]], form: str) -> float:
    """The mean test AUC of a form."""
    return statistics.mean(float(row["test_auc"]) for row in rows if row["form"] == form)


def capacity_table(name: str) -> str:
    """Markdown: the share of the variance of values' log-odds that each form expresses, at each
    ratio after the most steps and after fewer, and the values apart at the ratio in the middle.
    """
    rows = read_rows(f"capacity_{name}.csv")
    most = max(int(row["steps"]) for row in rows)
    columns = list(dict.fromkeys((row["ratio"], int(row["steps"])) for row in rows))
    middle = columns[len(columns) // 2][0]
    heads = [f"{ratio}x" + f", {steps} steps" * (steps < most) for ratio, steps in columns]
    lines = [f"| form | {' | '.join(heads)} | apart at {middle}x |\n"]
    lines.append("|---|" + "---|" * (len(columns) + 1) + "\n")
    for form in dict.fromkeys(row["form"] for row in rows):
        chosen = {(row["ratio"], int(row["steps"])): row for row in rows if row["form"] == form}
        shares = " | ".join(f"{100 * float(chosen[key]['fitted']):.1f}%" for key in columns)
        apart = next(row["values_apart"] for key, row in chosen.items() if key[0] == middle)
        lines.append(f"| {form} | {shares} | {100 * float(apart):.1f}% |\n")
    return "".join(lines)


def small_table(name: str) -> str:
    """Markdown: the models of benchmarks/small_tables.py beside the full one of the same seed."""
    rows = read_rows(f"small_{name}.csv")
    full = {row["seed"]: float(row["test_auc"]) for row in rows if row["model"] == "full"}
    lines = ["| model | bytes of tables | smaller | validation AUC | AUC | of full | seeds |\n"]
    lines.append("|---|---|---|---|---|---|---|\n")
    for model, size in dict.fromkeys((row["model"], row["table_bytes"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["table_bytes"]) == (model, size)]
        shares = [
            float(row["test_auc"]) / full[row["seed"]] for row in chosen if row["seed"] in full
        ]
        share = f"{100 * statistics.mean(shares):.2f} %" if shares else "-"
        cells = [spread(chosen, key) for key in ("validation_auc", "test_auc")]
        aucs = " | ".join(
            f"{mean:.4f}" + f" ± {error:.4f}" * (len(chosen) > 1) for mean, error in cells
        )
        lines.append(
            f"| {model} | {int(size):,} | {float(chosen[0]['ratio']):,.0f} | {aucs} "
            f"| {share} | {len(chosen)} |\n"
        )
    return "".join(lines)


def table(name: str) -> str:
    """Markdown: mean and standard deviation over the seeds of every method and size."""
    rows = read_rows(f"rows_{name}.csv")
    full = float(next(row["table_bytes"] for row in rows if row["method"] == "none"))
    lines = [TABLE_HEAD]
    for ratio in ("1", "10", "100", "1000"):
        for method, label in {"none": "full, float32", **METHODS}.items():
            chosen = [r for r in rows if (r["method"], r["wanted_ratio"]) == (method, ratio)]
            if not chosen:
                continue
            size = statistics.mean(float(row["table_bytes"]) for row in chosen)
            mapped = size + statistics.mean(float(row["map_bytes"]) for row in chosen)
            auc, share = spread(chosen, "test_auc"), spread(chosen, "auc_share")
            lift = statistics.mean(float(row["lift_ratio"]) for row in chosen)
            lines.append(
                f"| {ratio}x | {label} | {size:,.0f} | {full / size:,.1f} | {full / mapped:,.1f} "
                f"| {auc[0]:.4f} ± {auc[1]:.4f} | {100 * share[0]:.2f} ± {100 * share[1]:.2f}% "
                f"| {100 * lift:.1f}% |\n"
            )
    return "".join(lines)


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file in docs/evidence."""
    with (DOCS / "evidence" / name).open() as file:
        return list(csv.DictReader(file))


def spread(rows: list[dict[str, str]], key: str) -> tuple[float, float]:
    """Mean and standard deviation of a column; the latter is 0 for a single row."""
    values = [float(row[key]) for row in rows]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def plot() -> None:
    """Draw share of AUC against bytes, one panel for each data set, into compression.png."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, data in zip(panels, DATA, strict=True):
        plot_methods(axes, data)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(data)
        axes.set_xlabel("bytes of all tables in the .odm file")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("% of the full model's test AUC")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, ncols=5, loc="outside lower center")
    figure.savefig(DOCS / "evidence" / "compression.png", dpi=110, metadata={"Software": None})


def plot_methods(axes: Any, data: str) -> None:
    """All that was measured on one data set, as shares of its full model, trained the usual way."""
    rows = read_rows(f"rows_{data}.csv")
    full = statistics.mean(float(row["test_auc"]) for row in rows if row["method"] == "none")
    for number, (method, label) in enumerate(METHODS.items()):
        chosen = [row for row in rows if row["method"] == method]
        plot_sizes(
            *(axes, chosen, "wanted_ratio", full),
            fmt="-o",
            ms=3,
            lw=1,
            color=f"C{number}",
            label=label,
        )
    if data == "epinions":
        frontier = [row for row in read_rows("search_epinions.csv") if row["on frontier"] == "yes"]
        axes.plot(
            [float(row["table bytes"]) for row in frontier],
            [100 * float(row["test AUC"]) / full for row in frontier],
            "k*",
            ms=6,
            label="ondevice compress, an earlier version",
        )
    small = [row for row in read_rows(f"small_{data}.csv") if row["model"].startswith("small")]
    label = "bits by frequency (ml1m: codes of places)"
    plot_sizes(axes, small, "table_bytes", full, fmt="D", ms=5, color="0.3", label=label)


def plot_sizes(axes: Any, rows: list[dict[str, str]], by: str, full: float, **style: Any) -> None:
    """A point for each value of column `by`: mean bytes and AUC, and the latter's deviation."""
    points = []
    for value in dict.fromkeys(row[by] for row in rows):
        chosen = [row for row in rows if row[by] == value]
        mean, error = spread(chosen, "test_auc")
        size = statistics.mean(float(row["table_bytes"]) for row in chosen)
        points.append((size, 100 * mean / full, 100 * error / full))
    axes.errorbar(*zip(*sorted(points), strict=True), **style)


def plot_hashed() -> None:
    """Draw share of AUC against bytes of the forms on hashed IDs, a panel a log."""
    rows = {name: read_rows(f"hashed_{name}.csv") for name in hashed_logs()}
    forms = dict.fromkeys(row["form"] for log in rows.values() for row in log)
    forms.pop("full")
    figure = Figure(figsize=(3.4 * len(rows), 4.6), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (name, log) in zip(panels, rows.items(), strict=True):
        for number, form in enumerate(forms):
            if any(row["form"] == form for row in log):
                style = "-" if form.endswith("mul") else "--"
                colour = f"C{number % 10}"
                axes.errorbar(
                    *points(log, form), marker="o", ms=3, lw=1, ls=style, c=colour, label=form
                )
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"hashed IDs, {name}")
        axes.set_xlabel("bytes of all tables in the .odm file")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("% of the full model's test AUC")
    known = {}
    for axes in panels:
        known |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(known.values(), known.keys(), fontsize=7, ncols=3, loc="outside lower center")
    figure.savefig(DOCS / "evidence" / "hashed_rows.png", dpi=110, metadata={"Software": None})


def hashed_logs() -> list[str]:
    """Names of the logs on which forms of hashed rows were compared at several sizes."""
    names = [path.stem.removeprefix("hashed_") for path in (DOCS / "evidence").glob("hashed_*.csv")]
    return sorted(name for name in names if name != "screen")


def points(rows: list[dict[str, str]], form: str) -> tuple[list[float], list[float], list[float]]:
    """A form's sizes, and the means and standard deviations of its shares of AUC in per cent."""
    sizes, means, errors = [], [], []
    for ratio in HASHED_RATIOS:
        chosen = [row for row in rows if (row["form"], row["wanted_ratio"]) == (form, ratio)]
        if chosen:
            mean, error = spread(chosen, "auc_share")
            sizes.append(statistics.mean(float(row["table_bytes"]) for row in chosen))
            means.append(100 * mean)
            errors.append(100 * error)
    return sizes, means, errors


if __name__ == "__main__":
    main()
