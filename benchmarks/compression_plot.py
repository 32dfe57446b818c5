"""The plot of docs/compression.md: share of the full model's AUC against bytes, from docs/evidence.

python benchmarks/compression_plot.py
"""

import csv
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


def main() -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, data in zip(panels, ("epinions", "ml1m", "synthetic"), strict=True):
        with (DOCS / "evidence" / f"rows_{data}.csv").open() as file:
            rows = list(csv.DictReader(file))
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
            with (DOCS / "evidence" / "search_epinions.csv").open() as file:
                found = [r for r in csv.DictReader(file) if r["on frontier"] == "yes"]
            axes.plot(
                [float(r["table bytes"]) for r in found],
                [float(r["share of AUC"].rstrip("%")) for r in found],
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
    figure.savefig(DOCS / "compression.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
