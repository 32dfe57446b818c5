"""Reads JSON from outside into frozen dataclasses: every type and range checked, none guessed."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from ondevice.errors import FileFormatError

T = TypeVar("T")

MAX_ITEMS = 100_000  # of a list or an object; a report needs some hundred
MAX_TEXT = 4096
MAX_NUMBER = 1e18  # 11 days in nanoseconds, an exabyte: more is damage


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
    got = f"{type(data).__name__} {str(data)[:40]!r}"
    return FileFormatError(f"{where}: expected {expected}, got {got}")


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


def _object(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _fault(where, "an object", data)
    fields = _fields(kind)
    if missing := [name for name in fields if name not in data]:
        raise FileFormatError(f"{where}: {', '.join(missing)} missing")
    value = kind(**{name: read(data[name], f"{where}.{name}") for name, read in fields.items()})
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
    return {_text(name, where): read(item, f"{where}.{name[:80]}") for name, item in data.items()}


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
    if not good or not math.isfinite(data) or abs(data) > MAX_NUMBER:
        raise _fault(where, "a finite number", data)
    return float(data)


def _text(data: Any, where: str) -> str:
    if not isinstance(data, str) or len(data) > MAX_TEXT or not data.isprintable():
        raise _fault(where, f"a line of at most {MAX_TEXT} printable characters", data)
    return data
