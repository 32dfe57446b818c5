"""The data sets by name: `open_log`, which the command line and the recipes call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.errors import InputError
from ondevice.models.data.contests import avazu_log, criteo_log
from ondevice.models.data.csv_source import CsvDescription, csv_log
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.movielens import epinions_log, ml1m_log, ml_latest_small_log
from ondevice.models.data.synthetic import DEFAULT_ROWS, synthetic_log

_FROM_PATH = {
    "ml1m": ml1m_log,
    "ml-latest-small": ml_latest_small_log,
    "epinions": epinions_log,
    "criteo": criteo_log,
    "avazu": avazu_log,
}
DATASETS = ("synthetic", *_FROM_PATH, "csv")


def open_log(
    name: str,
    path: Path | None = None,
    *,
    description: CsvDescription | Mapping[str, Any] | Path | None = None,
    seed: int = 0,
    max_rows: int | None = None,
) -> HashedLog:
    """Load a data set by name.

    Args:
        name: one of `DATASETS`.
        path: the file or folder it is read from; "synthetic" takes none.
        description: what the columns are, only for "csv": a description, its dictionary form,
            or the path of a .toml or .json file.
        seed: of "synthetic"; the others are what their files hold.
        max_rows: read only so many rows ("synthetic": draw so many); None for all (its default).

    Raises:
        InputError: an unknown name, or a path or description missing or out of place.
        SpecError: an unsound description.
        DataError: a file is absent or damaged, or a bad row, with line and column.
    """
    known = ", ".join(DATASETS)
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; expected one of {known}")
    if max_rows is not None and max_rows < 1:
        raise InputError(f"max_rows must be at least 1, got {max_rows}")
    if (description is None) == (name == "csv"):
        if name == "csv":
            raise InputError(
                "data set 'csv' needs a description of its columns: give a .toml or .json file "
                "with --columns (docs/data.md shows one)"
            )
        raise InputError(
            f"data set {name!r} takes no description of its columns: --columns goes with --data csv"
        )
    if name == "synthetic":
        if path is not None:
            raise InputError(f"data set 'synthetic' is drawn, not read; got the path {path}")
        return synthetic_log(max_rows or DEFAULT_ROWS, seed=seed)
    if path is None:
        raise InputError(f"data set {name!r} is read from files: give their path (names: {known})")
    if name == "csv":
        return csv_log(path, _described(description), max_rows=max_rows)
    return _FROM_PATH[name](path, max_rows=max_rows)


def _described(description: CsvDescription | Mapping[str, Any] | Path | None) -> CsvDescription:
    if isinstance(description, CsvDescription):
        return description
    if isinstance(description, Path):
        return CsvDescription.from_file(description)
    return CsvDescription.from_dict(description)
