"""The model card: `model.md`, one page that says what the files of a conversion are."""

from __future__ import annotations

from collections.abc import Mapping

from ondevice.converters.graph import PackedModel
from ondevice.converters.verify.report import (
    ConversionReport,
    accuracy_lines,
    bytes_rows,
    fitted_rows,
    markdown_table,
    not_checked_lines,
    parity_rows,
    uncompressed_lines,
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
    missing = not_checked_lines(report)
    left = uncompressed_lines(report)
    sections = [
        _front_matter(report),
        f"# {_escaped(name)}",
        f"Written by ondevice-ctr {report.made_by['ondevice-ctr']}.",
        markdown_table(_summary_rows(report)),
        "\n".join(_limits(report)),
        "## Files",
        markdown_table(_file_rows(report)),
        markdown_table(bytes_rows(report)),
        "The map makes IDs of raw values: vocabularies and bucket boundaries.",
        "## Methods",
        "\n".join(_methods(report)),
        *([markdown_table(_table_rows(packed))] if packed.tables else []),
        *(["\n".join(f"- {_escaped(line)}" for line in left)] if left else []),
        *([markdown_table(fitted_rows(report.fitted))] if report.fitted else []),
        markdown_table(_layer_rows(report)),
        "## Data and accuracy",
        "\n".join(f"- {line}" for line in _accuracy(report, about)),
        "## Parity",
        "The torch module, computing with the tables as the files store them, beside every file: "
        f"largest difference of {_output(report)} over ordinary, unseen, padding and extreme IDs. "
        + _vectors(report),
        markdown_table(parity_rows(report, folder=False)),
        *(["\n".join(f"- {line}" for line in missing)] if missing else []),
        "## Versions",
        markdown_table([("package", "version"), *report.made_by.items()]),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(report: ConversionReport) -> str:
    """Metadata as the Hugging Face Hub reads it; only words of this module, so none is escaped."""
    tags = ["click-through-rate", "recommendation", *report.targets]
    lines = ["library_name: ondevice", "pipeline_tag: tabular-classification", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    if report.source_auc is not None:
        lines += ["metrics:", "- roc_auc"]
    return "\n".join(["---", *lines, "---"])


def _summary_rows(report: ConversionReport) -> list[tuple[str, ...]]:
    """The figures to decide by: a column for the trained model and for every file."""
    files = report.targets.values()
    rows: list[tuple[str, ...]] = [
        ("", "trained, float32", *(item.path.name for item in files)),
        ("bytes", f"{report.weight_bytes:,}", *(f"{item.bytes:,}" for item in files)),
        ("times smaller", "", *(f"{report.weight_bytes / item.bytes:.1f}" for item in files)),
        ("bytes of tables", "", *(f"{item.parts.tables:,}" for item in files)),
        ("bytes of the map", "", *(f"{item.parts.map:,}" for item in files)),
        ("bytes of the network", "", *(f"{item.parts.network:,}" for item in files)),
    ]
    if report.source_auc is not None:
        rows.append(("AUC", f"{report.source_auc:.4f}", *(f"{item.auc:.4f}" for item in files)))
        lost = [(item.auc or 0) - report.source_auc for item in files]
        rows.append(("change of the AUC", "", *(f"{change:+.4f}" for change in lost)))
    changes = [f"{item.max_change:.1e}" for item in files]
    differences = [f"{item.max_difference:.1e}" for item in files]
    return [
        *rows,
        (f"largest change of {_output(report)}".rstrip(","), "", *changes),
        ("largest difference from torch with the same tables", "", *differences),
    ]


def _output(report: ConversionReport) -> str:
    return "a probability" if report.probabilities else "an output, in units of its scale,"


def _vectors(report: ConversionReport) -> str:
    """What of the comparison `ondevice verify` can repeat."""
    if not report.vector_rows:
        return "No test vectors travel inside the files."
    return (
        f"{report.vector_rows} such rows and torch's answers travel inside each file: "
        "`ondevice verify FILE` repeats the check wherever it runs."
    )


def _limits(report: ConversionReport) -> list[str]:
    """What the figures of the summary do not cover."""
    lines = [
        "- Bytes of the trained model are its parameters; those of a file are all there is, "
        "features and test vectors included."
    ]
    if report.source_auc is None:
        lines.append("- No AUC: the conversion was given no validation rows.")
    return lines


def _file_rows(report: ConversionReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("file", "bytes", "SHA-256")]
    for item in report.targets.values():
        rows += [
            (f"`{name}`", f"{count:,}", f"`{digest}`")
            for name, (count, digest) in item.files.items()
        ]
    return rows


def _methods(report: ConversionReport) -> list[str]:
    tables = any(item.table_bytes for item in report.targets.values())
    lines = [
        f"- Embedding tables: {report.codec if tables else 'none'}.",
        f"- Dense layers: {report.dense}.",
    ]
    if report.float_layers:
        paths = ", ".join(f"`{path}`" for path in report.float_layers)
        lines.append(f"- Kept in float32: {paths}.")
    if report.calibration_rows:
        lines.append(f"- Ranges of activations fixed by {report.calibration_rows:,} rows.")
    return lines


def _table_rows(packed: PackedModel) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("table", "rows x dimensions", "kept dimensions", "values", "lookup")
    ]
    seen: dict[str, list[str]] = {}
    for lookup in packed.lookups:
        method = _method(lookup.spec)
        if method not in seen.setdefault(lookup.table, []):
            seen[lookup.table].append(method)
    for name, methods in seen.items():
        for stored in packed.tables[name].sections:
            dimensions = stored.dim if stored.widths is None else float(stored.widths.mean())
            shape = f"{stored.rows:,} x {stored.dim}"
            rows.append((f"`{name}`", shape, f"{dimensions:.1f}", stored.codec, "; ".join(methods)))
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
    if spec.retrieval is not None:
        size = spec.retrieval.fingerprints * spec.retrieval.bits
        parts.append(f"{spec.cells} cells, {size} bits of fingerprint")
    elif spec.rows_per_id > 1:
        parts.append(spec.fuse)
    if spec.pooling != "none":
        parts.append(f"{spec.pooling} over a sequence")
    return ", ".join(parts)


def _accuracy(report: ConversionReport, about: Mapping[str, str]) -> list[str]:
    lines = [f"{_escaped(label)}: {_escaped(text)}" for label, text in about.items()]
    return [*lines, *map(_escaped, accuracy_lines(report))]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    for sign in "\\`*_<>[]|#":
        line = line.replace(sign, f"\\{sign}")
    return line
