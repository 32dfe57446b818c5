"""The tables and the plot of docs/evidence/compression.md, from the figures in docs/evidence.

python benchmarks/compression_page.py
"""

import csv
import re
import statistics
from pathlib import Path

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
TABLE_HEAD = (
    "| wanted | method | bytes | smaller | with map | AUC | of full | lift |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def main() -> None:
    """Rewrite the page and the plot."""
    page = DOCS / "evidence" / "compression.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    plot()


def with_tables(text: str) -> str:
    """The page with its tables written anew between `<!-- rows NAME -->` and `<!-- end -->`."""

    def section(match: re.Match[str]) -> str:
        return f"<!-- rows {match[1]} -->\n{table(match[1])}<!-- end -->"

    return re.sub(r"<!-- rows (\w+) -->\n.*?<!-- end -->", section, text, flags=re.DOTALL)


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
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, data in zip(panels, DATA, strict=True):
        rows = read_rows(f"rows_{data}.csv")
        for number, (method, label) in enumerate(METHODS.items()):
            points = []
            for ratio in ("10", "100", "1000"):
                chosen = [r for r in rows if (r["method"], r["wanted_ratio"]) == (method, ratio)]
                if chosen:
                    shares = [100 * float(r["auc_share"]) for r in chosen]
                    size = statistics.mean(float(r["table_bytes"]) for r in chosen)
                    points.append((size, statistics.mean(shares), statistics.stdev(shares)))
            if points:
                sizes, means, spreads = zip(*points, strict=True)
                axes.errorbar(
                    sizes, means, spreads, marker="o", ms=3, lw=1, color=f"C{number}", label=label
                )
        if data == "epinions":
            frontier = [r for r in read_rows("search_epinions.csv") if r["on frontier"] == "yes"]
            axes.plot(
                [float(r["table bytes"]) for r in frontier],
                [float(r["share of AUC"].rstrip("%")) for r in frontier],
                "k*",
                ms=6,
                label="ondevice compress",
            )
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(data)
        axes.set_xlabel("bytes of all tables in the .odm file")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("% of the full model's test AUC")
    panels[0].legend(fontsize=6)
    figure.savefig(DOCS / "evidence" / "compression.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
