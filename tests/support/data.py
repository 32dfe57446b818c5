"""Helpers of the data tests: small files, and the folders of real data when they are there."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest


def write(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    """Write a file, compressed after its suffix, and return its path."""
    data = text.encode(encoding) if isinstance(text, str) else text
    if path.suffix == ".xz":
        data = lzma.compress(data)
    elif path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(data)
    return path


def real_data(folder: str) -> Path:
    """The folder of real data, or skip the test with the reason."""
    root = os.environ.get("ONDEVICE_DATA")
    if not root:
        pytest.skip("real data: set ONDEVICE_DATA to the folder that holds them")
    path = Path(root) / folder
    if not path.is_dir():
        pytest.skip(f"real data: ONDEVICE_DATA has no folder {folder!r}")
    return path


def provenance(folder: Path) -> dict[str, Any]:
    """What provenance.json says of the real data in `folder`."""
    loaded: dict[str, Any] = json.loads((folder / "provenance.json").read_text("utf-8"))
    return loaded
