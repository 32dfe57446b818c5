"""Reads the JSON of model files strictly, as the C engine does: what it refuses is refused here."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_strictly(text: str | bytes) -> Any:
    """Parse JSON (RFC 8259), in UTF-8 if it is bytes.

    Raises:
        ValueError: no JSON, another encoding, a name twice in an object, NaN or Infinity.
        RecursionError: nested too deeply.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    return json.loads(decoded, object_pairs_hook=unique_keys, parse_constant=_no_constant)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, for json.loads. Raises ValueError if a key occurs twice."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a name occurs twice")
    return keys


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
