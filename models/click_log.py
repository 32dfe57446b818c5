"""The encoded click log: what training reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError
from ondevice.features import FeatureSpec


@dataclass(frozen=True)
class ClickLog:
    """Encoded impressions with their clicks.

    Attributes:
        features: the input fields, in order; `ids` has exactly these names.
        ids: per field int64 [n], of a sequence [n, length].
        labels: float32 [n], 0 (no click) or 1 (click).

    Raises:
        InputError: a missing or unknown field, a wrong shape or dtype, or a label other than 0, 1.
    """

    features: FeatureSpec
    ids: dict[str, npt.NDArray[np.int64]]
    labels: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise InputError("click log: " + "; ".join(faults))

    def __len__(self) -> int:
        """Number of impressions."""
        return int(self.labels.shape[0])

    def take(self, rows: npt.NDArray[np.int64]) -> ClickLog:
        """The impressions `rows` (int64 [m] positions), in that order, as a new log."""
        ids = {name: values[rows] for name, values in self.ids.items()}
        return ClickLog(self.features, ids, self.labels[rows])


@dataclass(frozen=True)
class Splits:
    """One data set cut into its three parts."""

    train: ClickLog
    validation: ClickLog
    test: ClickLog


def _faults(log: ClickLog) -> list[str]:
    """What is wrong with a log: labels that are not float32 [n] of 0 and 1, fields without IDs or
    the reverse, IDs that are not int64 [n] ([n, length] for a sequence).
    """
    labels = log.labels
    if labels.dtype != np.float32 or labels.ndim != 1:
        return [f"labels must be float32 [n], got {labels.dtype} {list(labels.shape)}"]
    faults = []
    names = [field.name for field in log.features.fields]
    if missing := [name for name in names if name not in log.ids]:
        faults.append(f"no IDs for {', '.join(map(repr, missing))}")
    if unknown := [name for name in log.ids if name not in names]:
        faults.append(f"IDs for unknown fields {', '.join(map(repr, unknown))}")
    lengths = {field.name: field.length for field in log.features.fields}
    for name, ids in log.ids.items():
        length = lengths.get(name)
        shape = labels.shape if length is None else (len(labels), length)
        if ids.dtype != np.int64 or ids.shape != shape:
            needed = f"int64 {list(shape)}"
            faults.append(f"IDs of {name!r} must be {needed}, got {ids.dtype} {list(ids.shape)}")
    if not np.isin(labels, (0.0, 1.0)).all():
        wrong = int(np.argmin(np.isin(labels, (0.0, 1.0))))
        faults.append(f"labels must be 0 or 1, got {labels[wrong]} in row {wrong}")
    return faults
