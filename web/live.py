"""The live page: one HTML file with model, engine and catalogue in it; it needs no server."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ondevice
from ondevice.bench.show.document import STYLE
from ondevice.errors import FileFormatError, MissingDependencyError
from ondevice.odm import OdmFile, open_odm
from ondevice.web.build import WEB, NoCompilerError, build_module
from ondevice.web.drawn import drawn_rows

MARK = "<title>ondevice, live on this device</title>"
SCRIPTS = ("sources.js", "ondevice.js", "signatures.js", "rows.js", "live.js")
GROUPS = 10  # of rows, by how often training read them


def page_of(path: Path) -> str:
    """The page of an .odm file, without catalogue; or a page that was written before, if it is one.

    Raises:
        MissingDependencyError: the engine cannot be compiled here.
        FileFormatError: neither a native model nor a live page, or it cannot be read.
    """
    if path.suffix.lower() != ".html":
        try:
            return live_page(path)
        except NoCompilerError as error:
            raise MissingDependencyError(
                f"{path}: the live page needs {error}; a page that was written elsewhere can be "
                "served instead: ondevice bench --serve live.html"
            ) from error
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: cannot be read: {error}") from error
    if MARK not in text:
        raise FileFormatError(f"{path}: not a live page, which `ondevice demo` writes")
    return text


def live_page(
    model: Path,
    catalogue: Mapping[str, Any] | None = None,
    counts: Mapping[str, npt.NDArray[np.integer]] | None = None,
) -> str:
    """The page as text.

    Args:
        model: an .odm file.
        catalogue: users and items as `ondevice export-android` writes them; without it the page
            ranks rows that are drawn from what the file says of its inputs.
        counts: how often training read each row of a table, by the table's name; without them no
            kept widths are drawn.

    Raises:
        NoCompilerError: the engine cannot be compiled here.
        FileFormatError: not a native model.
    """
    opened = open_odm(model)
    engine, verifier = (_module(name) for name in ("ondevice.wasm", "signatures.wasm"))
    content = model.read_bytes()
    data = {
        "name": model.name,
        "version": ondevice.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": base64.b64encode(content).decode(),
        "engine": base64.b64encode(engine).decode(),
        "verifier": base64.b64encode(verifier).decode(),
        "catalogue": catalogue,
        "drawn": drawn_rows(opened) if catalogue is None else None,
        "widths": _widths(opened, counts or {}),
    }
    parts = {
        "STYLE": STYLE + (WEB / "live.css").read_text(encoding="utf-8"),
        # "<" would end the script element
        "DATA": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        "SCRIPT": "\n".join(_plain(WEB / name) for name in SCRIPTS),
    }
    text = (WEB / "live.html").read_text(encoding="utf-8")
    return re.sub(r"%([A-Z]+)%", lambda match: parts[match[1]], text)


@functools.cache
def _module(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        build_module(name, path)
        return path.read_bytes()


def _plain(path: Path) -> str:
    """A module's code without imports and exports, so that several are one."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^(?:import|export) \{[^}]*\}.*;\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _widths(model: OdmFile, counts: Mapping[str, npt.NDArray[np.integer]]) -> list[dict[str, Any]]:
    """Per table the mean kept width of its rows, from those read most to those read least."""
    tables = model.tables
    listed = []
    for name in sorted(counts.keys() & tables.keys()):
        widths = tables[name].widths()
        order = np.argsort(-np.asarray(counts[name]), kind="stable")
        means = [float(part.mean()) for part in np.array_split(widths[order], GROUPS) if len(part)]
        listed.append({"name": name, "dim": tables[name].layout.dim, "mean": means})
    return listed
