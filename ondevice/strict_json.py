"""Reads the JSON of model files strictly, as the C engine does: what it refuses is refused here."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ondevice.limits import MAX_JSON_DEPTH, MAX_JSON_VALUES


def parse_strictly(text: str | bytes) -> Any:
    """Parse JSON (RFC 8259), in UTF-8 if it is bytes.

    Raises:
        ValueError: no JSON, another encoding, a name twice in an object, NaN or Infinity, a number
            beyond the range of a double, more than MAX_JSON_DEPTH levels of nesting or
            MAX_JSON_VALUES values.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(
            decoded,
            object_pairs_hook=unique_keys,
            parse_constant=_no_constant,
            parse_float=_number,
        )
    except RecursionError as error:
        raise ValueError(f"more than {MAX_JSON_DEPTH} levels of nesting") from error
    containers = decoded.count("{") + decoded.count("[")
    if containers > MAX_JSON_DEPTH:
        _check_size(value)
    elif containers + decoded.count(",") > MAX_JSON_VALUES:
        raise ValueError(f"more than {MAX_JSON_VALUES} values")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, for json.loads. Raises ValueError if a key occurs twice."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a name occurs twice")
    return keys


def _check_size(value: Any) -> None:
    """Refuse too many values, or values within too many others. Raises ValueError."""
    level, count = [value] if value.__class__ in (dict, list) else [], 0
    for _ in range(MAX_JSON_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            inner.extend(item.values() if isinstance(item, dict) else item)
        count += len(inner)
        if count > MAX_JSON_VALUES:
            raise ValueError(f"more than {MAX_JSON_VALUES} values")
        types = set(map(type, inner))
        if types.isdisjoint((dict, list)):
            return
        level = inner
        if not types <= {dict, list}:
            level = [item for item in inner if item.__class__ in (dict, list)]
    raise ValueError(f"more than {MAX_JSON_DEPTH} levels of nesting")


def _number(digits: str) -> float:
    """A number. Raises ValueError where a double cannot hold it."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number beyond the range of a double")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
