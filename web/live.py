"""The live page: one HTML file with model, engine and catalogue in it; it needs no server."""

from __future__ import annotations

import base64
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
from ondevice.odm import open_odm
from ondevice.web.build import WEB, build

GROUPS = 10  # of rows, by how often training read them


def live_page(
    model: Path,
    catalogue: Mapping[str, Any],
    counts: Mapping[str, npt.NDArray[np.integer]] | None = None,
) -> str:
    """The page as text.

    Args:
        model: an .odm file.
        catalogue: users and items as `ondevice export-android` writes them.
        counts: how often training read each row of a table, by the table's name; without them no
            kept widths are drawn.

    Raises:
        NoCompilerError: the engine cannot be compiled here.
        FileFormatError: not a native model.
    """
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        engine = Path(folder, "ondevice.wasm").read_bytes()
    content = model.read_bytes()
    data = {
        "name": model.name,
        "version": ondevice.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": base64.b64encode(content).decode(),
        "engine": base64.b64encode(engine).decode(),
        "catalogue": catalogue,
        "widths": _widths(model, counts or {}),
    }
    parts = {
        "STYLE": STYLE + (WEB / "live.css").read_text(encoding="utf-8"),
        # "<" would end the script element
        "DATA": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        "ENGINE": _plain(WEB / "ondevice.js"),
        "PAGE": _plain(WEB / "live.js"),
    }
    text = (WEB / "live.html").read_text(encoding="utf-8")
    return re.sub(r"%([A-Z]+)%", lambda match: parts[match[1]], text)


def _plain(path: Path) -> str:
    """A module's code without exports, so that several make one."""
    return re.sub(r"^export ", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _widths(model: Path, counts: Mapping[str, npt.NDArray[np.integer]]) -> list[dict[str, Any]]:
    """Per table the mean kept width of its rows, from those read most to those read least."""
    tables = open_odm(model).tables
    listed = []
    for name in sorted(counts.keys() & tables.keys()):
        widths = tables[name].widths()
        order = np.argsort(-np.asarray(counts[name]), kind="stable")
        means = [float(part.mean()) for part in np.array_split(widths[order], GROUPS) if len(part)]
        listed.append({"name": name, "dim": tables[name].layout.dim, "mean": means})
    return listed
