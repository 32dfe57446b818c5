"""The curve of AUC against bytes: the results that no other beats, as text, CSV and JSON."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.models.search.bootstrap import share_error
from ondevice.models.search.measure import Measure
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import TrialResult
from ondevice.sections import codec_text
from ondevice.text_table import size, table


@dataclass(frozen=True)
class Frontier:
    """Measured results beside the reference.

    Attributes:
        reference: what the others are compared with.
        results: all of them.
        measure: what bytes are counted of.
    """

    reference: TrialResult
    results: tuple[TrialResult, ...]
    measure: Measure = "tables"

    @property
    def ordered(self) -> list[TrialResult]:
        """All results by ascending bytes."""
        return sorted(self.results, key=lambda r: (r.bytes(self.measure), -r.validation_auc))

    @property
    def points(self) -> list[TrialResult]:
        """Those that no other beats in bytes and validation AUC, by ascending bytes."""
        best: list[TrialResult] = []
        for result in self.ordered:
            if not best or result.validation_auc > best[-1].validation_auc:
                best.append(result)
        return best

    def share(self, point: TrialResult) -> float:
        """The share of the reference's test AUC: of 0, which a few rows may give, 0 is all."""
        full = self.reference.test_auc
        if full == 0:
            return 1.0 if point.test_auc == 0 else math.inf
        return point.test_auc / full

    def share_error(self, point: TrialResult) -> float:
        """The standard error of `share`, over bootstrap samples of the test rows."""
        return share_error(point.resampled, self.reference.resampled)

    def cells(self, point: TrialResult) -> dict[str, str]:
        """One line of the CSV file."""
        full = self.reference
        lift = (point.test_auc - 0.5) / (full.test_auc - 0.5) if full.test_auc != 0.5 else 0.0
        return {
            "file bytes": str(point.file_bytes),
            "table bytes": str(point.table_bytes),
            "map bytes": str(point.map_bytes),
            "network bytes": str(point.network_bytes),
            "times smaller": f"{full.table_bytes / point.table_bytes:.1f}",
            "file times smaller": f"{full.file_bytes / point.file_bytes:.1f}",
            "validation AUC": f"{point.validation_auc:.5f}",
            "test AUC": f"{point.test_auc:.5f}",
            "test AUC error": f"{point.test_error:.5f}",
            "share of AUC": f"{100 * self.share(point):.2f}%",
            "share of AUC error": f"{100 * self.share_error(point):.2f}%",
            "lift ratio": f"{100 * lift:.1f}%",
            "network": network_words(point),
            "rows found by": map_words(point),
            "distilled": "no" if point.trial.distillation is None else "yes",
            "tables": described(point.trial.tables),
        }

    def text(self, best: TrialResult | None = None) -> str:
        """The reference and the frontier as a table; `best` is marked."""
        full = self.reference
        smaller = "file smaller" if self.measure == "file" else "tables smaller"
        header = (
            "",
            "file",
            "tables",
            "map",
            "network",
            smaller,
            "dim",
            "rows by",
            "units",
            "dense",
        )
        rows = []
        for point in [*(point for point in self.points if point != full), full]:
            mark = "full model" if point == full else "chosen" if point == best else ""
            share = f"{100 * self.share(point):.2f}%"
            if point != full:
                share += f" +- {100 * self.share_error(point):.2f}"
            parts = (point.file_bytes, point.table_bytes, point.map_bytes, point.network_bytes)
            rows.append(
                (
                    mark,
                    *map(size, parts),
                    f"{full.bytes(self.measure) / point.bytes(self.measure):.1f}x",
                    str(max(design.dim for design in point.trial.tables.values())),
                    "cells" if point.trial.map == "retrieval" else "map",
                    "-".join(map(str, point.trial.hidden)) or "none",
                    point.trial.dense,
                    f"{point.validation_auc:.4f}",
                    f"{point.test_auc:.4f}",
                    share,
                )
            )
        return table((*header, "validation AUC", "test AUC", "share of full AUC"), rows)

    def write_csv(self, path: Path) -> None:
        """All results by ascending bytes, and whether they are on the frontier."""
        points = self.points
        rows = [
            {"on frontier": "yes" if result in points else "no", **self.cells(result)}
            for result in self.ordered
        ]
        with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def to_json(self, best: TrialResult | None) -> dict[str, Any]:
        """The frontier and the chosen point with every setting, as a JSON-ready object."""
        return {
            "measure": self.measure,
            "reference": self.reference.to_json(),
            "frontier": [point.to_json() for point in self.points],
            "best": None if best is None else best.to_json(),
        }


def described(tables: Mapping[str, TableDesign]) -> str:
    """Designs in words, such as "user 20,964 x 1 q4, item 6,116 x 1 q4 + 512 hash"."""
    return ", ".join(f"{name} {_words(design)}" for name, design in tables.items())


def network_words(point: TrialResult) -> str:
    """A network in words, such as "128-64 f32"."""
    units = "-".join(map(str, point.trial.hidden)) or "linear"
    return f"{units} {point.trial.dense}"


def map_words(point: TrialResult) -> str:
    """How values find their rows, in a word or two."""
    return "hashed cells" if point.trial.map == "retrieval" else "vocabulary"


def _words(design: TableDesign) -> str:
    if design.lookup is not None:
        rows, dim = design.lookup.rows, design.lookup.row_dim
        return f"{rows} shared x {dim} {codec_text(design.stored)} ({design.lookup.kind})"
    head = "all" if design.head is None else str(design.head)
    tail = "" if design.tail == "shared" else f" + {design.tail} {design.size}"
    return f"{head} x {design.dim} {codec_text(design.stored)}{tail}"
