"""Which rows of a log are for training, for validation and for the test, as functions of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.errors import DataError, SpecError
from ondevice.hashing import hash_int64
from ondevice.times import seconds_of_text

SplitKind = Literal["random", "hash", "time", "folders"]
SPLITS: tuple[SplitKind, ...] = get_args(SplitKind)
IdArray = npt.NDArray[np.int64]
PartArray = npt.NDArray[np.uint8]

TRAIN, VALIDATION, TEST = range(3)
PARTS = ("training", "validation", "test")
DEFAULT_SHARES = (0.8, 0.1, 0.1)
# Names of files and folders that say which part they are; a name counts as a whole, or up to a
# character that is no letter (train.csv, train_1.parquet, dt=valid).
_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "valid": VALIDATION,
    "val": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class SplitRule:
    """How rows are divided.

    Attributes:
        by: "random": by a hash of the whole row, so equal rows share a part; "hash": by a hash of
            `columns`, so equal values share a part; "time": the earliest rows train, the latest
            test, and rows of one moment share a part; "folders": files and folders are named
            train, validation (valid, val, dev) and test.
        columns: of "hash".
        shares: of the three parts.
        validation_from, test_from: of "time": dates or times (ISO 8601) in place of shares.

    Raises:
        SpecError: the settings contradict one another.
    """

    by: SplitKind = "random"
    columns: tuple[str, ...] = ()
    shares: tuple[float, ...] = DEFAULT_SHARES
    validation_from: str | None = None
    test_from: str | None = None

    def __post_init__(self) -> None:
        """Check the settings together. Raises SpecError."""
        faults = []
        if self.by not in SPLITS:
            faults.append(f"by must be one of {', '.join(SPLITS)}, got {self.by!r}")
        if (self.by == "hash") != bool(self.columns):
            faults.append("a split by hash needs columns, and no other has them")
        if len(self.shares) != 3 or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            faults.append(f"three positive shares that add up to 1 needed, got {self.shares}")
        dates = (self.validation_from, self.test_from)
        if dates != (None, None):
            if self.by != "time" or None in dates:
                faults.append("a split by time takes both validation_from and test_from")
            elif not self.moments()[0] < self.moments()[1]:
                faults.append("validation_from must be earlier than test_from")
        if faults:
            raise SpecError("split: " + "; ".join(faults))

    def moments(self) -> tuple[int, int]:
        """The first moments of validation and test, seconds since 1970. Raises SpecError."""
        try:
            return (
                seconds_of_text(self.validation_from or "", "iso"),
                seconds_of_text(self.test_from or "", "iso"),
            )
        except ValueError as error:
            raise SpecError(f"split: validation_from and test_from: expected {error}") from error

    @classmethod
    def from_text(cls, text: str) -> SplitRule:
        """The rule of a command line: random, time, folders, or hash:COLUMN,COLUMN.

        Raises:
            SpecError: another text.
        """
        by, _, columns = text.partition(":")
        if by not in SPLITS or (columns and by != "hash"):
            raise SpecError(f"split: expected {', '.join(SPLITS)} or hash:COLUMN, got {text!r}")
        return cls(by, tuple(filter(None, columns.split(","))))

    @classmethod
    def from_dict(cls, data: object) -> SplitRule:
        """Read decoded TOML or JSON, an object of this class's attributes, or only `by`.

        As a text `by` is what a command line takes, so "hash:user" names the columns too.

        Raises:
            SpecError: an unknown key or a wrong type.
        """
        if isinstance(data, str):
            return cls.from_text(data)
        known = {"by", "columns", "shares", "validation_from", "test_from"}
        if not isinstance(data, Mapping) or set(data) - known:
            raise SpecError(f"split: expected an object of {', '.join(sorted(known))}; got {data}")
        settings: dict[str, Any] = dict(data)
        if isinstance(by := settings.get("by"), str) and ":" in by and "columns" not in settings:
            rule = cls.from_text(by)  # as on the command line
            settings |= {"by": rule.by, "columns": list(rule.columns)}
        columns, shares = settings.get("columns", []), settings.get("shares", list(DEFAULT_SHARES))
        if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
            raise SpecError(f"split: columns must be a list of strings, got {columns!r}")
        if not isinstance(shares, list) or not all(isinstance(n, int | float) for n in shares):
            raise SpecError(f"split: shares must be a list of numbers, got {shares!r}")
        for key in ("validation_from", "test_from"):
            if key in settings:
                settings[key] = str(settings[key])  # TOML has dates of its own
        return cls(**{**settings, "columns": tuple(columns), "shares": tuple(map(float, shares))})


def part_of_hash(hashes: npt.NDArray[np.uint64], shares: Sequence[float]) -> PartArray:
    """Parts uint8 [n] of rows by their hashes: equal hashes share a part."""
    share = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (share >= shares[0]).astype(np.uint8) + (share >= shares[0] + shares[1])


def mixed_hash(columns: Sequence[IdArray]) -> npt.NDArray[np.uint64]:
    """One hash uint64 [n] of several columns of hashes int64 [n]; their order counts."""
    mixed = np.zeros(len(columns[0]), np.int64)
    for values in columns:
        mixed = hash_int64(mixed ^ hash_int64(values), 1)
    return mixed.view(np.uint64)


def part_of_time(times: IdArray, rule: SplitRule, name: str) -> PartArray:
    """Parts uint8 [n] of rows by their times int64 [n].

    The boundaries are exact quantiles of the times, moved so that rows of one moment share a part.

    Raises:
        DataError: there are fewer than three moments, so that a part would be empty.
    """
    if rule.validation_from is not None:
        first, second = rule.moments()
    else:
        ordered = np.sort(times)
        places = [int(len(times) * share) for share in np.cumsum(rule.shares[:2])]
        first, second = (int(ordered[min(place, len(ordered) - 1)]) for place in places)
        if not int(ordered[0]) < first < second:
            raise DataError(
                f"{name}: a split by time needs different moments for its three parts; the times "
                f"{ordered[0]} to {ordered[-1]} would give the boundaries {first} and {second}"
            )
    return (times >= first).astype(np.uint8) + (times >= second)


def part_of_name(names: Sequence[str]) -> int | None:
    """The part that a file's name or one of its folders says, the innermost first; None: none.

    Args:
        names: folders below the log's path, then the file.
    """
    for name in reversed(names):
        words = _WORD.findall(name.lower())
        for word in words[:2]:  # train_1.csv; split=train
            if word in _NAMES:
                return _NAMES[word]
    return None
