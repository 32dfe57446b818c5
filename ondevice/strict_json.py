"""Reads the JSON of model files strictly, as the C engine does: what it refuses is refused here."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import numpy as np

from ondevice.limits import MAX_JSON_DEPTH, MAX_JSON_VALUES

_ESCAPE = re.compile(r"\\.", re.DOTALL)  # within strings only


def parse_strictly(text: str | bytes) -> Any:
    """Parse JSON (RFC 8259), in UTF-8 if it is bytes.

    Raises:
        ValueError: no JSON, another encoding, a name twice in an object, NaN or Infinity, a number
            beyond the range of a double, more than MAX_JSON_DEPTH levels of nesting or
            MAX_JSON_VALUES values.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    containers = decoded.count("{") + decoded.count("[")
    if containers > MAX_JSON_DEPTH or containers + decoded.count(",") > MAX_JSON_VALUES:
        _check_size(decoded)
    return json.loads(
        decoded,
        object_pairs_hook=unique_keys,
        parse_constant=_no_constant,
        parse_float=_number,
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, for json.loads. Raises ValueError if a key occurs twice."""
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a name occurs twice")
    return keys


def _check_size(text: str) -> None:
    """Refuse too many values, or values within too many others, before any of them is created.

    Exact for JSON; of other texts it refuses some, and the parser the rest. Raises ValueError.
    """
    if "\\" in text:
        text = _ESCAPE.sub("", text)  # then every quote begins or ends a string
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    quotes = np.cumsum(data == ord('"'), dtype=np.uint8)  # modulo 256: odd within a string
    outside = data[(quotes % 2 == 0) & (data > ord(" "))]
    brackets = outside & ~np.uint8(ord("{") ^ ord("["))  # braces count as square brackets
    opened, closed = brackets == ord("["), brackets == ord("]")
    containers = np.count_nonzero(opened)
    values = containers - np.count_nonzero(opened[:-1] & closed[1:])  # first ones of containers
    values += np.count_nonzero(outside == ord(","))
    if max(values, containers - 1) > MAX_JSON_VALUES:
        raise ValueError(f"more than {MAX_JSON_VALUES} values")
    if np.count_nonzero(closed) > containers:
        raise ValueError("more brackets are closed than opened")
    steps = opened[opened | closed]
    depth = np.cumsum(np.where(steps, 1, -1), dtype=np.int32)
    if depth.max(initial=0) > MAX_JSON_DEPTH:
        raise ValueError(f"more than {MAX_JSON_DEPTH} levels of nesting")


def _number(digits: str) -> float:
    """A number. Raises ValueError where a double cannot hold it."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number beyond the range of a double")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
