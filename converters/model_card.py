"""The model card: `model.md`, one page that says what the files of a conversion are."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.converters.graph import PackedModel
from ondevice.converters.report import (
    ConversionReport,
    accuracy_lines,
    markdown_table,
    parity_rows,
)
from ondevice.spec import LookupSpec


def model_card(
    name: str, packed: PackedModel, report: ConversionReport, about: Mapping[str, str]
) -> str:
    """Markdown text; no times and no folders, so that equal conversions give equal cards.

    Args:
        name: of the model.
        packed: what was written.
        report: how it was written and verified.
        about: further lines on the model and its data, text by label.
    """
    sections = [
        f"# {_escaped(name)}",
        f"Written by ondevice-ctr {report.made_by['ondevice-ctr']}. `ondevice verify FILE` repeats "
        "the check against the test vectors inside a file.",
        "## Files",
        markdown_table(_file_rows(report)),
        "## Methods",
        "\n".join(_methods(report)),
        markdown_table(_table_rows(packed)),
        markdown_table(_layer_rows(report)),
        "## Data and accuracy",
        "\n".join(f"- {line}" for line in _accuracy(report, about)),
        "## Parity",
        "The torch module, computing with the tables as the files store them, beside every file: "
        "largest difference of a probability over ordinary, unseen, padding and extreme IDs.",
        markdown_table(parity_rows(report, folder=False)),
        "## Versions",
        markdown_table([("package", "version"), *report.made_by.items()]),
    ]
    return "\n\n".join(sections) + "\n"


def _file_rows(report: ConversionReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("file", "bytes", "tables", "SHA-256")]
    for item in report.targets.values():
        for number, (name, (count, digest)) in enumerate(item.files.items()):
            tables = f"{item.table_bytes:,}" if number == 0 else ""
            rows.append((f"`{name}`", f"{count:,}", tables, f"`{digest}`"))
    return rows


def _methods(report: ConversionReport) -> list[str]:
    return [
        f"- Embedding tables: {report.codec}.",
        f"- Dense layers: {report.dense}.",
    ]


def _table_rows(packed: PackedModel) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("table", "rows x dimensions", "lookup")]
    seen: dict[str, list[str]] = {}
    shapes: dict[str, str] = {}
    for lookup in packed.lookups:
        spec = lookup.spec
        shapes[lookup.table] = f"{spec.rows:,} x {spec.row_dim}"
        method = _method(spec)
        if method not in seen.setdefault(lookup.table, []):
            seen[lookup.table].append(method)
    rows += [(f"`{name}`", shapes[name], "; ".join(methods)) for name, methods in seen.items()]
    return rows


def _layer_rows(report: ConversionReport) -> list[tuple[str, ...]]:
    """Dense layers by target: codec, and how their inputs become int8."""
    rows: list[tuple[str, ...]] = [("file", "dense layer", "features x units", "weights", "input")]
    rows += [
        (
            item.path.name,
            f"`{layer.path}`",
            f"{layer.features} x {layer.units}",
            layer.codec,
            layer.activations,
        )
        for item in report.targets.values()
        for layer in item.layers
    ]
    return rows


def _method(spec: LookupSpec) -> str:
    if spec.scheme == "full":
        return "one row per ID"
    parts = [spec.kind]
    if spec.head:
        parts.append(f"{spec.head} IDs with rows of their own")
    if spec.blocks:
        bits = ", ".join(str(block.bits) for block in spec.blocks)
        parts.append(f"{spec.code_bits} bits in blocks of {bits}")
    if spec.residues:
        parts.append(f"{', '.join(str(residue.rows) for residue in spec.residues)} rows")
    if spec.rows_per_id > 1:
        parts.append(spec.fuse)
    if spec.pooling != "none":
        parts.append(f"{spec.pooling} over a sequence")
    return ", ".join(parts)


def _accuracy(report: ConversionReport, about: Mapping[str, str]) -> list[str]:
    lines = [f"{_escaped(label)}: {_escaped(text)}" for label, text in about.items()]
    lines += accuracy_lines(report)
    if report.source_auc is None:
        lines.append("AUC of the files: not measured, no validation rows were given.")
    return lines


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    for sign in "\\`*_<>[]|#":
        line = line.replace(sign, f"\\{sign}")
    return line
