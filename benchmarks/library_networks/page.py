"""Writes the section of docs/zoo.md on networks of installed libraries from results.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
HEADING = "## Networks of installed libraries"
COLUMNS = {"native": "native, in C", "onnx": "ONNX Runtime", "tflite": "LiteRT"}
TOLERANCE = 1e-5
TEXT = """{heading}

{passing} of {count} networks of {libraries} libraries pass: all three files agree with torch within
1e-5, in units of the output's scale, on fresh random rows in batches of 1, 3 and 50, and the C
engine runs the native file. Each is built by the library's public interface with small random
tables and weights, untrained. In the table: the largest difference, or why there is none.
[benchmarks/library_networks](../benchmarks/library_networks) has the networks, the versions that
they need, and the command that writes this section:
`python benchmarks/library_networks/run.py`.{commits}

{versions}.

| library | network | native, in C | ONNX Runtime | LiteRT | remarks |
| --- | --- | --- | --- | --- | --- |
"""
REASON_LENGTH = 300


def section(stored: Mapping[str, Any]) -> str:
    """The section's text, of what run.py stores."""
    networks = stored["networks"]
    lines, passing = [], 0
    for title, found in networks.items():
        library, name = title.split("/")
        results = found["results"]
        passes = all(result.get("difference", 1.0) <= TOLERANCE for result in results.values())
        passing += passes
        cells = [_cell(results[engine]) for engine in COLUMNS]
        lines.append("| " + " | ".join([library, name, *cells, _remarks(found)]) + " |")
    head = TEXT.format(
        heading=HEADING,
        passing=passing,
        count=len(networks),
        libraries=len({title.split("/")[0] for title in networks}),
        commits=_commits(networks.values()),
        versions=", ".join(f"{name} {version}" for name, version in stored["versions"].items()),
    )
    return head + "\n".join(lines) + "\n"


def _commits(results: Iterable[Mapping[str, Any]]) -> str:
    """Which commits the rows come from, where that is more than one."""
    rows = Counter(found["commit"] for found in results if "commit" in found)
    if len(rows) < 2:
        return ""
    each = ", ".join(f"{count} of {name}" for name, count in rows.items())
    return f" Rows were measured at different commits: {each}."


def _cell(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return "none"
    difference = result["difference"]
    return f"{difference:.0e}" if difference <= TOLERANCE else f"**{difference:.0e}**"


def _remarks(found: Mapping[str, Any]) -> str:
    """What a user has to know of a network, and the reasons of what failed."""
    reasons: dict[str, list[str]] = {}
    for engine, result in found["results"].items():
        if "error" in result:
            reasons.setdefault(result["error"], []).append(COLUMNS[engine])
    texts = [found["note"]] if found["note"] else []
    for reason, engines in reasons.items():
        where = "" if len(engines) == len(COLUMNS) else f"{', '.join(engines)}: "
        texts.append(where + " ".join(reason.split())[:REASON_LENGTH].replace("|", "\\|"))
    return "; ".join(texts)


def kept_section(page: str) -> str:
    """The section that a page already has, with its heading; empty without one."""
    start = page.find(HEADING)
    return page[start:] if start >= 0 else ""


def write_section(results: Path) -> None:
    """Replace the section of docs/zoo.md, its last one."""
    page = PAGE.read_text(encoding="utf-8")
    above = page.removesuffix(kept_section(page)).rstrip()
    stored = json.loads(results.read_text(encoding="utf-8"))
    PAGE.write_text(f"{above}\n\n{section(stored)}", encoding="utf-8")
