"""What a model file holds, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ondevice.text_table import size, table

if TYPE_CHECKING:
    from ondevice.inspection import FileParts, Inspection

PARTS = ("payload", "scales", "widths", "permutation")  # of a table
PART_TITLES = ("tables", "map", "network", "description", "test vectors", "padding")  # of a file


def inspection_text(result: Inspection) -> str:
    """What a file holds: facts, what its bytes are for, its tables part by part, its lookups."""
    header = (
        *("table", "rows", "dim", "kept", "codec", "scale"),
        *("payload B", "scales B", "widths B", "permutation B"),
    )
    sectioned = {item.name for item in result.tables if item.first_row}
    rows = [
        (
            f"{item.name} from row {item.first_row}" if item.name in sectioned else item.name,
            str(item.rows),
            str(item.dim),
            f"{item.kept:.1f}",
            item.codec,
            item.scale_axis or "-",
            *map(str, (item.payload, item.scales, item.widths, item.permutation)),
        )
        for item in result.tables
    ]
    total = [sum(getattr(item, part) for item in result.tables) for part in PARTS]
    rows.append(("all tables", "", "", "", "", "", *map(str, total)))
    inputs = ", ".join(f"{item.name} [{', '.join(map(str, item.shape))}]" for item in result.inputs)
    made_by = ", ".join(f"{name} {version}" for name, version in result.made_by.items())
    return "\n".join(
        (
            f"{result.path}: {size(result.file_bytes)} ({result.file_bytes} bytes)",
            f"  sha256     {result.sha256}",
            f"  inputs     {inputs}",
            f"  made by    {made_by}",
            "",
            _parts(result.parts),
            "",
            table(header, rows),
            *(("", _lookups(result)) if result.lookups else ()),
        )
    )


def _parts(parts: FileParts) -> str:
    """A line for each use of bytes, and for all."""
    counts = (*parts.to_json().values(), parts.total)
    rows = [
        (title, f"{count:,}", f"{count / parts.total:.1%}")
        for title, count in zip((*PART_TITLES, "file"), counts, strict=True)
    ]
    return table(("part", "bytes", "share"), rows)


def _lookups(result: Inspection) -> str:
    """A line for each lookup of a native file."""
    header = (
        "lookup of",
        "scheme",
        "table",
        "rows per ID",
        "own rows",
        "fuse",
        "pooling",
        "padding",
    )
    rows = [
        (
            item.input,
            item.scheme,
            item.table,
            str(item.rows_per_id),
            str(item.head or "-"),
            item.fuse if item.rows_per_id > 1 else "-",
            "-" if item.pooling == "none" else item.pooling,
            "-" if item.padding_id is None else str(item.padding_id),
        )
        for item in result.lookups
    ]
    return table(header, rows)
