"""The conversion report: what was written, how far each runtime is from torch, as data and text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ondevice.converters.dense_layers import LayerReport
from ondevice.text_table import size, table


@dataclass(frozen=True)
class Parity:
    """One file compared with the torch module in one runtime.

    Attributes:
        runtime: name and version.
        rows: how many rows were compared.
        max_difference: largest |probability difference| from the module, which computes with the
            tables as the file stores them.
        tolerance: what that difference may be.
    """

    runtime: str
    rows: int
    max_difference: float
    tolerance: float


@dataclass(frozen=True)
class TargetReport:
    """One written file.

    Attributes:
        path: where it lies.
        bytes: its size, with the external data of an ONNX file.
        table_bytes: of these the embedding tables.
        parity: one entry for every runtime of this machine that runs the file.
        not_checked: runtimes that claim to run the file but are missing here, with the reason.
        max_change: largest |probability difference| between the file and the module with its
            own float32 tables and layers, over the probed rows (and the validation rows, if any).
        layers: how each dense layer is stored.
        auc: of the file on the validation rows; None without them.
        files: size and SHA-256 of each file, by name.
    """

    path: Path
    bytes: int
    table_bytes: int
    parity: tuple[Parity, ...]
    not_checked: tuple[str, ...]
    max_change: float
    auc: float | None
    files: dict[str, tuple[int, str]]
    layers: tuple[LayerReport, ...] = ()

    @property
    def runtime(self) -> str:
        """What it was verified in."""
        return ", ".join(item.runtime for item in self.parity)

    @property
    def max_difference(self) -> float:
        """The largest difference of all runtimes."""
        return max(item.max_difference for item in self.parity)

    @property
    def checked_rows(self) -> int:
        """Rows compared in each runtime."""
        return self.parity[0].rows

    def to_json(self, *, folder: bool = True) -> dict[str, Any]:
        """A JSON-ready object; without `folder` the path is a bare file name."""
        return {
            **asdict(self),
            "path": str(self.path) if folder else self.path.name,
            "runtime": self.runtime,
            "max_difference": self.max_difference,
            "checked_rows": self.checked_rows,
        }


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote.

    Attributes:
        targets: a report for every target.
        codec: how table values are stored.
        dense: how weights of dense layers are stored.
        quantisation_difference: largest |probability difference| between the torch module with
            its own tables and with the dequantised ones, over the same rows.
        validation_rows: rows that the AUCs were measured on; 0 without a validation set.
        source_auc: AUC of the torch module as it came, on the validation rows.
        made_by: versions of the packages that wrote the files.
    """

    targets: dict[str, TargetReport]
    codec: str
    dense: str
    quantisation_difference: float
    validation_rows: int = 0
    source_auc: float | None = None
    made_by: dict[str, str] = field(default_factory=dict)

    def to_json(self, *, folder: bool = True) -> dict[str, Any]:
        """A JSON-ready object; without `folder` paths are bare file names."""
        targets = {name: item.to_json(folder=folder) for name, item in self.targets.items()}
        return {**asdict(self), "targets": targets}

    def to_text(self) -> str:
        """JSON text without folders: the same conversion gives the same text anywhere."""
        return json.dumps(self.to_json(folder=False), indent=2) + "\n"


def parity_rows(report: ConversionReport, *, folder: bool = True) -> list[tuple[str, ...]]:
    """The parity table: a line for every file and runtime, header first."""
    rows: list[tuple[str, ...]] = [
        ("file", "size", "runtime", "rows", "largest difference from torch", "allowed")
    ]
    for item in report.targets.values():
        name = str(item.path) if folder else item.path.name
        for number, parity in enumerate(item.parity):
            rows.append(
                (
                    name if number == 0 else "",
                    size(item.bytes) if number == 0 else "",
                    parity.runtime,
                    str(parity.rows),
                    f"{parity.max_difference:.1e}",
                    f"{parity.tolerance:g}",
                )
            )
    return rows


def report_text(report: ConversionReport) -> str:
    """The report for the terminal: parity, then what rounding does to probabilities and AUC."""
    header, *rows = parity_rows(report)
    return "\n".join([table(header, rows), *accuracy_lines(report)])


def accuracy_lines(report: ConversionReport) -> list[str]:
    """What rounding does to the model: largest probability change, AUC before and after."""
    lines = [
        f"rounding the tables to {report.codec} moves a probability by at most "
        f"{report.quantisation_difference:.1e}"
    ]
    lines += [
        f"{item.path.name}: a probability differs from the float32 model's by at most "
        f"{item.max_change:.1e}"
        for item in report.targets.values()
        if report.dense != "f32" or report.validation_rows
    ]
    if report.source_auc is not None:
        files = ", ".join(
            f"{item.path.name} {item.auc:.4f} ({item.auc - report.source_auc:+.4f})"
            for item in report.targets.values()
            if item.auc is not None
        )
        lines.append(
            f"AUC on {report.validation_rows:,} validation rows: float32 torch "
            f"{report.source_auc:.4f}, {files}"
        )
    lines += [
        f"{item.path.name}: not checked in {name}"
        for item in report.targets.values()
        for name in item.not_checked
    ]
    return lines


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, header first."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
