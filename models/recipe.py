"""Recipes: one TOML file says which network to train on which data, and how."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from ondevice.errors import PARSE_ERRORS, InputError, SpecError
from ondevice.models.data import DATASETS
from ondevice.models.designs import Design, Sharing
from ondevice.models.layers.rounding import Rounding
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.experiment import Experiment, HistorySource
from ondevice.models.training.refit import Refit

DEFAULT = "dnn"
MAX_BYTES = 1_000_000

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Source:
    """The log to train on; see `ondevice.models.data.open_log`.

    Attributes:
        name: one of DATASETS.
        path: files, folders or globs. columns: description of a log's columns. Both count from
            the recipe's folder.
        where: a condition on the values of a log's folders, as "dt >= 2026-10-01".
        split: how a log is divided: random, time, folders, or hash:COLUMN.
        bad_rows: how many rows of a log may be refused, as "skip:100".
        cache: folder that keeps the encoded log for the next run.
        max_rows: use only so many rows.
        keys: fields or other columns that metrics group rows by.
    """

    name: str = "synthetic"
    path: tuple[str, ...] = ()
    columns: str | None = None
    where: str | None = None
    split: str | None = None
    bad_rows: str | None = None
    cache: str | None = None
    max_rows: int | None = None
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            raise SpecError(f"unknown data set {self.name!r}; expected one of {DATASETS}")


@dataclass(frozen=True)
class Tables:
    """The embedding tables: Design's settings, and whether they are compressed."""

    dim: int = Design.dim
    small: int = Design.small
    ratio: float = Design.ratio
    scheme: str = Design.scheme
    compress: bool = True


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says.

    Attributes:
        name: of the file, without suffix.
        about: one line for `ondevice train --list`.
        experiment: network, tables and training.
        compress: whether to train compressed tables, or the uncompressed reference.
        source: the data.
    """

    name: str
    about: str = ""
    experiment: Experiment = field(default_factory=Experiment)
    compress: bool = True
    source: Source = field(default_factory=Source)


def shipped_recipes() -> dict[str, Recipe]:
    """The recipes that come with ondevice, by name."""
    folder = resources.files("ondevice.models.recipes")
    texts = {
        item.name.removesuffix(".toml"): item.read_text(encoding="utf-8")
        for item in folder.iterdir()
        if item.name.endswith(".toml")
    }
    return {name: parse_recipe(text, name, Path()) for name, text in sorted(texts.items())}


def open_recipe(name: str) -> Recipe:
    """The shipped recipe of that name, or the one in the file of that path.

    Raises:
        InputError: neither a shipped name nor a readable file.
        SpecError: the file is not TOML, or names a wrong key or value.
    """
    path = Path(name)
    if path.suffix != ".toml":
        shipped = shipped_recipes()
        if name in shipped:
            return shipped[name]
        known = ", ".join(shipped)
        raise InputError(f"no recipe {name!r}; the shipped ones are {known}, or give a .toml file")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: a recipe has at most {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the recipe: {error}") from error
    return parse_recipe(text, str(path), path.parent)


def parse_recipe(text: str, name: str, folder: Path) -> Recipe:
    """Read a recipe's TOML text; paths in it count from `folder`. Raises SpecError."""
    try:
        data = tomllib.loads(text)
        return _recipe(data, Path(name).stem, folder)
    except (SpecError, InputError) as error:
        raise SpecError(f"recipe {name}: {error}") from error
    except PARSE_ERRORS as error:
        raise SpecError(f"recipe {name}: not valid TOML: {error}") from error


def _recipe(data: dict[str, Any], name: str, folder: Path) -> Recipe:
    """A recipe of decoded TOML; absent settings are those of `Experiment`.

    A section that turns something on (refit, rounding, distillation, history) does so by being
    there.

    Args:
        data: the file's content.
        name: of the recipe.
        folder: what relative paths of the data section count from.

    Raises:
        SpecError, InputError: an unknown key, a value of a wrong type or out of range.
    """
    sections = (
        *("network", "tables", "widths", "refit", "rounding", "distillation"),
        *("training", "numeric", "history", "data"),
    )
    _check_keys("", data, ("about", *sections))
    about = _typed("about", data.get("about", ""), str)
    base = Experiment()
    tables = _section(data, "tables", Tables())
    history = None
    if "history" in data:
        history = _section(data, "history", HistorySource())
    experiment = Experiment(
        design=Design(tables.dim, tables.small, tables.ratio, cast(Sharing, tables.scheme)),
        network=_section(data, "network", base.network),
        training=_section(
            data,
            "training",
            base.training,
            without=("width_penalty", "width_tolerance", "mask_speed", "row_penalty"),
        ),
        widths=_section(data, "widths", base.widths),
        refit=_section(data, "refit", Refit()) if "refit" in data else None,
        rounding=_section(data, "rounding", Rounding()) if "rounding" in data else None,
        distillation=(
            _section(data, "distillation", Distillation()) if "distillation" in data else None
        ),
        numeric=_section(data, "numeric", base.numeric),
        history=history,
    )
    source = _section(data, "data", Source())
    located = replace(
        source,
        path=tuple(str(folder / path) for path in source.path),
        columns=None if source.columns is None else str(folder / source.columns),
    )
    return Recipe(name, about, experiment, tables.compress, located)


def _section(
    data: Mapping[str, Any], name: str, base: _Settings, without: tuple[str, ...] = ()
) -> _Settings:
    """`base` with the settings that section `name` gives."""
    given = data.get(name, {})
    if not isinstance(given, dict):
        raise SpecError(f"[{name}] must be a section of settings, got {given!r}")
    hints = get_type_hints(type(base))
    allowed = tuple(item.name for item in fields(base) if item.name not in without)  # type: ignore[arg-type]
    _check_keys(name, given, allowed)
    settings = {key: _typed(f"{name}.{key}", value, hints[key]) for key, value in given.items()}
    return replace(base, **settings)  # type: ignore[type-var]


def _check_keys(section: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    if unknown := sorted(set(given) - set(allowed)):
        where = f" in [{section}]" if section else ""
        raise SpecError(
            f"unknown key {', '.join(map(repr, unknown))}{where}; allowed: {', '.join(allowed)}"
        )


def _typed(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type that the setting has; a list of its items as a tuple."""
    text = str(hint)
    if text.startswith("tuple["):
        item = hint.__args__[0]
        listed = value if isinstance(value, list) else [value]
        return tuple(_typed(key, element, item) for element in listed)
    if hint is bool or isinstance(value, bool):
        fits, wanted = hint is bool and isinstance(value, bool), _WANTED.get(hint, text)
    elif hint is float:
        fits, wanted, value = isinstance(value, int | float), _WANTED[float], value
    elif hint in (int, int | None):
        fits, wanted = isinstance(value, int), "an integer"
    else:  # text, a choice of texts, or none
        fits, wanted = isinstance(value, str), "a text"
    if not fits:
        raise SpecError(f"{key} must be {wanted}, got {value!r}")
    return value


_WANTED = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
