"""The state of a search in its folder: which search it is, and whether it has ended."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.errors import PARSE_ERRORS, FileFormatError
from ondevice.publish import is_filled

STATE = "search.json"


@dataclass(frozen=True)
class SearchState:
    """A search and how far it came.

    Attributes:
        settings: what decides its results, JSON-ready: goal, trials, seed, the data's digest.
        complete: whether it ended by itself and its results are written.
        frontier: what `Frontier.to_json` gave; None before it ended.
    """

    settings: dict[str, Any]
    complete: bool = False
    frontier: dict[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write search.json, completely or not at all."""
        with atomic_path(folder / STATE) as temporary:
            temporary.write_text(json.dumps(self.__dict__, indent=1) + "\n", encoding="utf-8")

    def differences(self, settings: dict[str, Any]) -> list[str]:
        """Which settings differ from these, in words."""
        names = dict.fromkeys([*self.settings, *settings])
        return [
            f"{name} was {self.settings.get(name)}, now {settings.get(name)}"
            for name in names
            if self.settings.get(name) != settings.get(name)
        ]


@dataclass(frozen=True)
class SearchFolder:
    """The folder of one search among those in an output folder.

    Attributes:
        path: of this search's results.
        before: its state, if it ran before.
        others: of searches with this goal and other settings: their folder, and what differs.
    """

    path: Path
    before: SearchState | None
    others: tuple[str, ...]


def folder_of_search(out: Path, name: str, settings: dict[str, Any]) -> SearchFolder:
    """The folder of the search with these settings: `name`, or `name`-2 and so on.

    A folder that holds anything else is left alone.

    Raises:
        FileFormatError: the state of an earlier search is damaged.
    """
    others: list[str] = []
    for number in itertools.count(1):
        path = out / (name if number == 1 else f"{name}-{number}")
        before = read_state(path)
        if before is None:
            if is_filled(path):
                continue
            return SearchFolder(path, None, tuple(others))
        if differences := before.differences(settings):
            others.append(f"{path} ({'; '.join(differences)})")
        else:
            return SearchFolder(path, before, tuple(others))
    raise AssertionError("unreachable")


def read_state(folder: Path) -> SearchState | None:
    """The state of a folder, None where there is none. Raises FileFormatError if damaged."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        state = SearchState(data["settings"], data["complete"], data["frontier"])
        if not isinstance(state.settings, dict) or not isinstance(state.complete, bool):
            raise TypeError("settings must be an object, complete true or false")
    except PARSE_ERRORS as error:
        raise FileFormatError(f"{path}: not the state of a search: {error}") from error
    return state
