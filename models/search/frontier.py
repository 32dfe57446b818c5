"""The curve of AUC against bytes: the results that no other beats, as text, CSV and a plot."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.errors import needs_extra
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import TrialResult
from ondevice.text_table import table

with needs_extra("the plot of the frontier", "train"):
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Frontier:
    """Measured results beside the reference.

    Attributes:
        reference: what the others are compared with.
        results: all of them.
    """

    reference: TrialResult
    results: tuple[TrialResult, ...]

    @property
    def points(self) -> list[TrialResult]:
        """Those that no other beats in bytes and validation AUC, by ascending bytes."""
        best: list[TrialResult] = []
        for result in sorted(self.results, key=lambda r: (r.table_bytes, -r.validation_auc)):
            if not best or result.validation_auc > best[-1].validation_auc:
                best.append(result)
        return best

    def cells(self, point: TrialResult) -> dict[str, str]:
        """One line of the table."""
        full = self.reference
        return {
            "table bytes": str(point.table_bytes),
            "times smaller": f"{full.table_bytes / point.table_bytes:.1f}",
            "vocabulary bytes": str(point.map_bytes),
            "validation AUC": f"{point.validation_auc:.5f}",
            "test AUC": f"{point.test_auc:.5f}",
            "share of AUC": f"{100 * point.test_auc / full.test_auc:.2f}%",
            "lift ratio": f"{100 * (point.test_auc - 0.5) / (full.test_auc - 0.5):.1f}%",
            "tables": described(point.trial.tables),
        }

    def text(self) -> str:
        """The frontier as a table."""
        rows = [self.cells(point) for point in self.points]
        return table(tuple(rows[0]), [tuple(row.values()) for row in rows])

    def write_csv(self, path: Path) -> None:
        """All results by ascending bytes, and whether they are on the frontier."""
        points = self.points
        rows = [
            {"on frontier": "yes" if result in points else "no", **self.cells(result)}
            for result in sorted(self.results, key=lambda r: (r.table_bytes, -r.validation_auc))
        ]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def to_json(self, best: TrialResult | None) -> dict[str, Any]:
        """The frontier and the chosen point with every setting, as a JSON-ready object."""
        return {
            "reference": self.reference.to_json(),
            "frontier": [point.to_json() for point in self.points],
            "best": None if best is None else best.to_json(),
        }

    def write_json(self, path: Path, best: TrialResult | None) -> None:
        """Write what `to_json` gives."""
        with atomic_path(path) as temporary:
            text = json.dumps(self.to_json(best), indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")

    def write_plot(self, path: Path, best: TrialResult | None = None) -> None:
        """Test AUC against table bytes, as PNG or SVG by the file's suffix."""
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        others = [result for result in self.results if result not in self.points]
        if others:
            _marks(axes, others, "o", "0.7", "other trials")
        _marks(axes, self.points, "o-", "tab:blue", "frontier")
        if best is not None:
            _marks(axes, [best], "*", "tab:red", "chosen", markersize=14)
        axes.axhline(self.reference.test_auc, color="0.5", linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlabel("bytes of all tables in the .odm file")
        axes.set_ylabel("test AUC")
        axes.legend()
        axes.grid(alpha=0.3)
        # a matplotlib version or a date in the file would make equal results differ
        kind = path.suffix.lstrip(".")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=120, metadata=metadata)


def described(tables: Mapping[str, TableDesign]) -> str:
    """Designs in words, such as "user 20,964 x 1 q4, item 6,116 x 1 q4 + 512 hash"."""
    return ", ".join(f"{name} {_words(design)}" for name, design in tables.items())


def _words(design: TableDesign) -> str:
    head = "all" if design.head is None else str(design.head)
    tail = "" if design.tail == "shared" else f" + {design.tail} {design.size}"
    return f"{head} x {design.dim} {design.codec}{tail}"


def _marks(
    axes: Any, results: Sequence[TrialResult], style: str, color: str, label: str, **more: Any
) -> None:
    sizes = [result.table_bytes for result in results]
    axes.plot(
        sizes, [result.test_auc for result in results], style, color=color, label=label, **more
    )
