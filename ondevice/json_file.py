"""Results as JSON, which other programs can read: numbers that are not finite become null."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path


def json_text(data: Any) -> str:
    """The data as JSON; null stands for NaN and infinities, which JSON cannot say."""
    return json.dumps(_finite(data), indent=1, allow_nan=False) + "\n"


def write_json_file(data: Any, path: Path) -> None:
    """Write a JSON file, whole or not at all. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(data), encoding="utf-8")


def _finite(data: Any) -> Any:
    """The same data with null for NaN and infinities."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
