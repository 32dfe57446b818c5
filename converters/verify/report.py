"""The conversion report: what was written, how far each runtime is from torch, as data and text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ondevice.converters.dense.layers import LayerReport
from ondevice.converters.graph import UncompressedTable
from ondevice.converters.phases import Phase
from ondevice.inspection import FileParts, part_rows
from ondevice.text_table import size, table
from ondevice.verify import Parity


@dataclass(frozen=True)
class FittedTable:
    """What became of one embedding module that was compressed after training.

    Attributes:
        path: of the module.
        rows, dim: of the trained table.
        method: how it is stored now, or why it was left as it is.
        new_rows: rows of the new table.
        mean_width: kept dimensions per row.
        bytes_before: the trained table in float32.
        bytes_after: values of the new one in the codec, without scales and widths.
        error: root mean square error relative to that of zeros, weighted by the counts.
        stored_error: the same with the values rounded by the codec.
    """

    path: str
    rows: int
    dim: int
    method: str
    new_rows: int
    mean_width: float
    bytes_before: int
    bytes_after: int
    error: float
    stored_error: float


@dataclass(frozen=True)
class TargetReport:
    """One written file.

    Attributes:
        path: where it lies.
        parts: what its bytes are for, with the external data of an ONNX file.
        parity: one entry for every runtime of this machine that runs the file.
        not_checked: runtimes that claim to run the file but are missing here, with the reason.
        max_change: largest difference, in units of the output's scale, between the file and the
            trained module with its float32 tables and layers, over the probed rows (the example
            rows where tables were fitted after training) and the validation rows, if any.
        layers: how each dense layer is stored.
        auc: of the file on the validation rows; None without them.
        files: size and SHA-256 of each file, by name.
    """

    path: Path
    parts: FileParts
    parity: tuple[Parity, ...]
    not_checked: tuple[str, ...]
    max_change: float
    auc: float | None
    files: dict[str, tuple[int, str]]
    layers: tuple[LayerReport, ...] = ()

    @property
    def bytes(self) -> int:
        """Its size, with the external data of an ONNX file."""
        return self.parts.total

    @property
    def table_bytes(self) -> int:
        """Bytes of its embedding tables."""
        return self.parts.tables

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
            "bytes": self.bytes,
            "table_bytes": self.table_bytes,
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
        float_layers: paths of layers that were kept in float32.
        calibration_rows: rows that fixed the ranges of activations; 0 without.
        quantisation_difference: largest difference between the torch module with its tables and
            with the dequantised ones, over the same rows; where tables came rounded, also from the
            trained module, over its examples.
        weight_bytes: tables and weights of the trained module.
        validation_rows: rows that the AUCs were measured on; 0 without a validation set.
        validation_source: what these rows are.
        source_auc: AUC of the trained module on the validation rows.
        fitted: tables that were compressed after training.
        fitted_auc: AUC of the module with these tables, before they are rounded.
        uncompressed: large constants that IDs select from and that files hold as they are.
        made_by: versions of the packages that wrote the files.
        vector_rows: rows of test vectors in each file.
        probabilities: whether all outputs lie between 0 and 1: differences are then absolute,
            else relative to the output's scale (`ondevice.difference`).
        seconds: of CPU, by phase; no part of the report beside the files, which is the same for
            the same conversion.
    """

    targets: dict[str, TargetReport]
    codec: str
    dense: str
    quantisation_difference: float
    float_layers: tuple[str, ...] = ()
    calibration_rows: int = 0
    weight_bytes: int = 0
    validation_rows: int = 0
    validation_source: str = ""
    source_auc: float | None = None
    fitted: tuple[FittedTable, ...] = ()
    fitted_auc: float | None = None
    uncompressed: tuple[UncompressedTable, ...] = ()
    made_by: dict[str, str] = field(default_factory=dict)
    probabilities: bool = True
    vector_rows: int = 0
    seconds: dict[Phase, float] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        """What `ondevice convert` prints."""
        return report_text(self)

    def to_json(self, *, folder: bool = True) -> dict[str, Any]:
        """A JSON-ready object; without `folder`, bare file names for paths, and no times."""
        targets = {name: item.to_json(folder=folder) for name, item in self.targets.items()}
        report = {**asdict(self), "targets": targets}
        if not folder:
            del report["seconds"]
        return report

    def to_text(self) -> str:
        """JSON text without folders: the same conversion gives the same text anywhere."""
        return json.dumps(self.to_json(folder=False), indent=2) + "\n"


def parity_rows(report: ConversionReport, *, folder: bool = True) -> list[tuple[str, ...]]:
    """The parity table: a line for every file and runtime, header first."""
    rows: list[tuple[str, ...]] = [
        (
            "file",
            "size",
            "runtime",
            "rows",
            "largest difference from torch",
            "of rank from predict",
            "allowed",
        )
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
                    f"{parity.rank_difference:.1e}",
                    f"{parity.tolerance:g}",
                )
            )
    return rows


def report_text(report: ConversionReport) -> str:
    """The report for the terminal: parity, then what rounding does to outputs and AUC."""
    parts = [parity_rows(report), bytes_rows(report)]
    if report.fitted:
        parts.insert(0, fitted_rows(report.fitted))
    tables = [table(header, rows) for header, *rows in parts]
    notes = (*uncompressed_lines(report), *not_checked_lines(report))
    return "\n".join(["\n\n".join(tables), *accuracy_lines(report), *notes])


def bytes_rows(report: ConversionReport) -> list[tuple[str, ...]]:
    """What the bytes of every file are for, header first."""
    return part_rows({item.path.name: item.parts for item in report.targets.values()})


def fitted_rows(fitted: Sequence[FittedTable]) -> list[tuple[str, ...]]:
    """The tables that were compressed after training, header first."""
    rows: list[tuple[str, ...]] = [
        ("table", "trained", "now", "float32", "values", "error", "error rounded")
    ]
    rows += [
        (
            item.path or "(the module)",
            f"{item.rows:,} x {item.dim}",
            item.method,
            size(item.bytes_before),
            size(item.bytes_after),
            f"{item.error:.4f}",
            f"{item.stored_error:.4f}",
        )
        for item in fitted
    ]
    return rows


def accuracy_lines(report: ConversionReport) -> list[str]:
    """What compression does to the model: largest change of an output, AUC before and after."""
    output, unit = ("a probability", "") if report.probabilities else ("an output", " of its scale")
    lines = []
    if any(item.table_bytes for item in report.targets.values()):
        lines.append(
            f"rounding the tables to {report.codec} moves {output} by at most "
            f"{report.quantisation_difference:.1e}{unit}"
        )
    lines += [
        f"{item.path.name}: {output} differs from the trained float32 model's by at most "
        f"{item.max_change:.1e}{unit}"
        for item in report.targets.values()
        if report.dense != "f32" or report.validation_rows or report.fitted
    ]
    if report.source_auc is not None:
        files = ", ".join(
            f"{item.path.name} {item.auc:.4f} ({item.auc - report.source_auc:+.4f})"
            for item in report.targets.values()
            if item.auc is not None
        )
        fitted = ""
        if report.fitted_auc is not None:
            change = report.fitted_auc - report.source_auc
            fitted = f"with fitted tables {report.fitted_auc:.4f} ({change:+.4f}), "
        lines.append(
            f"AUC on {report.validation_rows:,} rows ({report.validation_source}): float32 torch "
            f"{report.source_auc:.4f}, {fitted}{files}"
        )
    return lines


def uncompressed_lines(report: ConversionReport) -> list[str]:
    """Constants that could have been tables, what they take, and why they are not compressed."""
    return [
        f"not compressed: {item.name}, {item.bytes:,} bytes that IDs select from: {item.reason}"
        for item in report.uncompressed
    ]


def not_checked_lines(report: ConversionReport) -> list[str]:
    """Runtimes that a file claims, but that are not on this machine."""
    return [
        f"{item.path.name}: not checked in {name}"
        for item in report.targets.values()
        for name in item.not_checked
    ]


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, header first."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
