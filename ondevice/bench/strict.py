"""Reads JSON and text from outside: every type, range and character checked, none guessed."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ondevice.errors import FileFormatError

T = TypeVar("T")

MAX_ITEMS = 100_000  # of a list or an object; a report needs some hundred
MAX_TEXT = 4096
MAX_NUMBER = 1e18  # 30 years in nanoseconds, an exabyte: more is damage
MIN_NUMBER = 1e-18  # of a number that is not 0: ratios of two of them stay finite
MAX_SHOWN = 40  # characters of a wrong value that an error quotes
MAX_LINE = 300  # characters of a text that another process says


def parse_json(raw: str | bytes, where: str) -> Any:
    """Parse JSON from outside.

    Raises:
        FileFormatError: not JSON in UTF-8; nested too deeply; an integer of thousands of digits;
            NaN or infinity, which JSON lacks; or a member that an object has twice.
    """
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        return json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: not valid JSON: {one_line(str(error))}") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise ValueError(f"member {shown(twice)} comes twice in one object")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def one_line(text: Any, most: int = MAX_LINE) -> str:
    """A text from outside as one printable line: its end, if it is longer than `most` characters.

    Control characters, which could steer a terminal, are written as Python's escapes. Of a value
    that is no text, as `shown` says it.
    """
    if not isinstance(text, str):
        return shown(text)
    lines = [line.strip() for line in text[-8 * most :].splitlines()]
    joined = "; ".join(line for line in lines if line)
    clean = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined
    )
    return clean if len(clean) <= most else f"...{clean[-most:]}"


def shown(data: Any) -> str:
    """A value from outside for an error: quoted and short, whatever its size and depth."""
    if isinstance(data, list | dict):
        return f"{type(data).__name__} of {len(data)}"
    if isinstance(data, int) and abs(data) > MAX_NUMBER:
        return f"int of {data.bit_length()} bits"
    text = data[:MAX_SHOWN] if isinstance(data, str) else data
    return f"{type(data).__name__} {str(text)[:MAX_SHOWN]!r}"


def read(kind: type[T], data: Any, where: str) -> T:
    """Build a dataclass from parsed JSON by its annotations; unknown members are ignored.

    Args:
        kind: a dataclass of bool, int, float, str, None, Literal, tuple[X, ...], dict[str, X] and
            such dataclasses. Its `check`, if it has one, says what else must hold.
        data: parsed JSON.
        where: what to call `data` in errors.

    Raises:
        FileFormatError: says which member, what was expected and what came.
    """
    any_kind: Any = kind  # mypy does not take a type of a type variable for hashable
    value: T = _reader(any_kind)(data, where)
    return value


def _fault(where: str, expected: str, data: Any) -> FileFormatError:
    return FileFormatError(f"{where}: expected {expected}, got {shown(data)}")


@functools.cache
def _reader(kind: Any) -> Callable[[Any, str], Any]:
    if dataclasses.is_dataclass(kind):
        return functools.partial(_object, kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return functools.partial(_choice, arguments)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (item for item in arguments if item is not types.NoneType)
        return functools.partial(_optional, _reader(inner))
    if origin is tuple:
        return functools.partial(_list, _reader(arguments[0]))
    if origin is dict:
        return functools.partial(_mapping, _reader(arguments[1]))
    return {bool: _bool, int: _int, float: _float, str: _text}[kind]


@functools.cache
def _fields(kind: Any) -> dict[str, Callable[[Any, str], Any]]:
    return {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}


@functools.cache
def _optional_of(kind: Any) -> frozenset[str]:
    """Members with a default, which earlier writers leave out."""
    return frozenset(
        item.name
        for item in dataclasses.fields(kind)
        if item.default is not dataclasses.MISSING
        or item.default_factory is not dataclasses.MISSING
    )


def _object(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _fault(where, "an object", data)
    fields = _fields(kind)
    if missing := [name for name in fields if name not in data and name not in _optional_of(kind)]:
        raise FileFormatError(f"{where}: {', '.join(missing)} missing")
    given = {name: read for name, read in fields.items() if name in data}
    value = kind(**{name: read(data[name], f"{where}.{name}") for name, read in given.items()})
    check: Callable[[str], None] | None = getattr(value, "check", None)
    if check is not None:
        check(where)
    return value


def _optional(read: Callable[[Any, str], Any], data: Any, where: str) -> Any:
    return None if data is None else read(data, where)


def _list(read: Callable[[Any, str], Any], data: Any, where: str) -> Any:
    if not isinstance(data, list) or len(data) > MAX_ITEMS:
        raise _fault(where, f"a list of at most {MAX_ITEMS}", data)
    return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(data))


def _mapping(read: Callable[[Any, str], Any], data: Any, where: str) -> Any:
    if not isinstance(data, dict) or len(data) > MAX_ITEMS:
        raise _fault(where, "an object", data)
    return {
        _text(name, where): read(item, f"{where}.{one_line(name, 80)}")
        for name, item in data.items()
    }


def _choice(choices: tuple[Any, ...], data: Any, where: str) -> Any:
    if data not in choices or type(data) not in {type(choice) for choice in choices}:
        raise _fault(where, " or ".join(map(repr, choices)), data)
    return data


def _bool(data: Any, where: str) -> bool:
    if not isinstance(data, bool):
        raise _fault(where, "true or false", data)
    return data


def _int(data: Any, where: str) -> int:
    if isinstance(data, bool) or not isinstance(data, int) or not 0 <= data <= MAX_NUMBER:
        raise _fault(where, "a whole number, 0 or more", data)
    return data


def _float(data: Any, where: str) -> float:
    good = isinstance(data, int | float) and not isinstance(data, bool)
    if not good or not (data == 0 or MIN_NUMBER <= abs(data) <= MAX_NUMBER):  # also for NaN
        raise _fault(where, f"0 or a number of {MIN_NUMBER:g} to {MAX_NUMBER:g}", data)
    return float(data)


def _text(data: Any, where: str) -> str:
    if not isinstance(data, str) or len(data) > MAX_TEXT or not data.isprintable():
        raise _fault(where, f"a line of at most {MAX_TEXT} printable characters", data)
    return data
