"""The builder that collects a log chunk by chunk, on disk, and orders its rows by their part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import DataError
from ondevice.features import FeatureSpec
from ondevice.models.data.chunks import Chunk
from ondevice.models.data.columns import LabelRule, Rule, hash_column, integer_column, label_column
from ondevice.models.data.hashed import HashedLog, IdArray
from ondevice.models.data.splits import PARTS, PartArray
from ondevice.models.data.spool import Spool
from ondevice.models.data.statistics import CHUNK


@dataclass(frozen=True)
class Rows:
    """Some rows of a log.

    Attributes:
        hashes: per field int64 [m] ([m, length] of a sequence).
        labels: float32 [m], or [m, labels] where a log has several.
        times: int64 [m], or None where the log has none.
        weights: float32 [m], or None where the log has none.
        keys: further columns by name that are no input, int64 [m].
    """

    hashes: Mapping[str, IdArray]
    labels: npt.NDArray[np.float32]
    times: IdArray | None = None
    weights: npt.NDArray[np.float32] | None = None
    keys: Mapping[str, IdArray] = field(default_factory=dict)

    def take(self, rows: IdArray) -> Rows:
        """The rows at these positions, int64 [k]."""
        return Rows(
            {name: values[rows] for name, values in self.hashes.items()},
            self.labels[rows],
            None if self.times is None else self.times[rows],
            None if self.weights is None else self.weights[rows],
            {name: values[rows] for name, values in self.keys.items()},
        )


class LogBuilder:
    """Collects rows chunk by chunk, and builds the log."""

    def __init__(
        self,
        features: FeatureSpec,
        time: str | None = None,
        labels: Sequence[str] = ("label",),
    ) -> None:
        """Rows of these fields; `time` is the column of the rows' times, if there is one."""
        self._features = features
        self._time = time
        self._label_names = tuple(labels)
        self._length = 0
        shapes = {
            item.name: () if item.length is None else (item.length,) for item in features.fields
        }
        self._hashes = {name: Spool(np.int64, shape) for name, shape in shapes.items()}
        self._labels = Spool(np.float32, () if len(labels) == 1 else (len(labels),))
        self._others: dict[str, Spool] = {}

    def __len__(self) -> int:
        """Rows so far."""
        return self._length

    def add(
        self,
        hashes: Mapping[str, IdArray],
        labels: npt.NDArray[np.float32],
        times: IdArray | None = None,
    ) -> None:
        """Append rows: per field int64 [m], labels float32 [m], times int64 [m] always or never."""
        self.add_rows(Rows(hashes, labels, times))

    def add_rows(self, rows: Rows) -> None:
        """Append rows that all have the same columns."""
        for name, spool in self._hashes.items():
            spool.append(rows.hashes[name])
        self._labels.append(rows.labels)
        others: dict[str, npt.NDArray[np.float32] | IdArray | None] = {
            "time": rows.times,
            "weight": rows.weights,
            **{f"key {name}": values for name, values in rows.keys.items()},
        }
        for name, values in others.items():
            if values is not None:
                if name not in self._others:
                    self._others[name] = Spool(values.dtype)
                self._others[name].append(values)
        self._length += len(rows.labels)

    def add_chunk(self, chunk: Chunk, rules: Collection[Rule], label: LabelRule) -> None:
        """Append the rows of a chunk by one rule a field. Raises DataError."""
        labels = label_column(chunk, label)
        hashes = {item.field.name: hash_column(chunk, item) for item in rules}
        self.add(hashes, labels, None if self._time is None else integer_column(chunk, self._time))

    def build(self, name: str, bounds: tuple[int, int] | None = None) -> HashedLog:
        """The log of all rows so far; add nothing after.

        Args:
            name: of the log.
            bounds: see HashedLog; None where its rows are divided at random.
        """
        hashes = {field: spool.array() for field, spool in self._hashes.items()}
        others = {key: spool.array() for key, spool in self._others.items()}
        return HashedLog(
            name,
            self._features,
            hashes,
            self._labels.array(),
            times=others.get("time"),
            weights=others.get("weight"),
            keys={key[4:]: values for key, values in others.items() if key.startswith("key ")},
            label_names=self._label_names,
            bounds=bounds,
        )


def ordered_by_part(log: HashedLog, parts: PartArray) -> HashedLog:
    """The log with its rows ordered by part, and in their order within a part.

    Args:
        log: in any order.
        parts: of each row, uint8 [n]: see ondevice.models.data.splits.

    Raises:
        DataError: a part has no rows.
    """
    counts = np.bincount(parts, minlength=len(PARTS))
    if empty := [part for part, count in zip(PARTS, counts, strict=True) if not count]:
        raise DataError(f"{log.name}: the split leaves no rows for {' and '.join(empty)}")
    bounds = (int(counts[0]), int(counts[0] + counts[1]))
    if bool(np.all(parts[1:] >= parts[:-1])):
        return replace(log, bounds=bounds)

    def ordered(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spool = Spool(values.dtype, values.shape[1:])
        for part in range(len(PARTS)):
            for start in range(0, len(values), CHUNK):
                stop = start + CHUNK
                spool.append(values[start:stop][parts[start:stop] == part])
        return spool.array()

    return replace(log.mapped(ordered), bounds=bounds)
