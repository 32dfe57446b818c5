"""The path of a model that somebody names: what is no path of a file is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ondevice.errors import InputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C: is a drive


def model_path(value: str | os.PathLike[str]) -> Path:
    """The path of a model file.

    Raises:
        InputError: neither a text nor a path, or an address: a model runs from a file on disk.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        raise InputError(
            f"expected the path of a model file, got {type(value).__name__}; "
            "write bytes to a file first: a model runs from a file on disk"
        )
    if _ADDRESS.match(text):
        raise InputError(f"{text}: addresses are not read; expected the path of a file on disk")
    return Path(value)
