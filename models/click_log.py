"""The encoded click log: what training reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ondevice.errors import InputError
from ondevice.features import FeatureSpec

CHUNK = 1 << 20  # rows checked at once, so that a mapped log is never in memory as a whole


@dataclass(frozen=True)
class ClickLog:
    """Encoded impressions with their clicks.

    Attributes:
        features: the input fields, in order; `ids` has exactly these names.
        ids: per field int64 [n], of a sequence [n, length].
        labels: float32 [n], 0 (no click) or 1 (click); [n, labels] where there are several.
        weights: float32 [n], what a row counts for, above 0; None: every row counts 1.
        label_names: of the labels.
        keys: further columns by name, int64 [n], that are no input.
        negative_sampling: the share of the rows without a click (whose first label is 0) that the
            log holds, above 0 and at most 1.

    Raises:
        InputError: a missing or unknown field, a wrong shape or dtype, a label other than 0, 1, a
            weight that is not above 0, or a share out of range.
    """

    features: FeatureSpec
    ids: dict[str, npt.NDArray[np.int64]]
    labels: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None = None
    label_names: tuple[str, ...] = ("label",)
    keys: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    negative_sampling: float = 1.0

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise InputError("click log: " + "; ".join(faults))

    def __len__(self) -> int:
        """Number of impressions."""
        return int(self.labels.shape[0])

    def take(self, rows: npt.NDArray[np.int64]) -> ClickLog:
        """The impressions `rows` (int64 [m] positions), in that order, as a new log."""
        return replace(
            self,
            ids={name: values[rows] for name, values in self.ids.items()},
            labels=self.labels[rows],
            weights=None if self.weights is None else self.weights[rows],
            keys={name: values[rows] for name, values in self.keys.items()},
        )


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
    names = log.label_names
    expected = "[n]" if len(names) == 1 else f"[n, {len(names)}]"
    if labels.dtype != np.float32 or labels.shape[1:] != (() if len(names) == 1 else (len(names),)):
        return [f"labels must be float32 {expected}, got {labels.dtype} {list(labels.shape)}"]
    faults = []
    fields = {item.name: item.length for item in log.features.fields}
    if missing := [name for name in fields if name not in log.ids]:
        faults.append(f"no IDs for {', '.join(map(repr, missing))}")
    if unknown := [name for name in log.ids if name not in fields]:
        faults.append(f"IDs for unknown fields {', '.join(map(repr, unknown))}")
    for name, ids in log.ids.items():
        length = fields.get(name)
        shape = (len(labels),) if length is None else (len(labels), length)
        if ids.dtype != np.int64 or ids.shape != shape:
            needed = f"int64 {list(shape)}"
            faults.append(f"IDs of {name!r} must be {needed}, got {ids.dtype} {list(ids.shape)}")
    if (wrong := _first(labels, lambda part: ~np.isin(part, (0.0, 1.0)))) is not None:
        faults.append(f"labels must be 0 or 1, got {labels[wrong]} in row {wrong}")
    if not 0 < log.negative_sampling <= 1:
        share = log.negative_sampling
        faults.append(f"negative_sampling must be above 0 and at most 1, got {share}")
    weights = log.weights
    if weights is not None:
        if weights.dtype != np.float32 or weights.shape != (len(labels),):
            faults.append(f"weights must be float32 [{len(labels)}]")
        elif (row := _first(weights, lambda part: ~((part > 0) & np.isfinite(part)))) is not None:
            faults.append(f"weights must be finite and above 0, got {weights[row]} in row {row}")
    return faults


def _first(
    values: npt.NDArray[np.float32],
    is_wrong: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.bool_]],
) -> int | None:
    """The first row with a wrong value, looked for chunk by chunk; None if there is none."""
    for start in range(0, len(values), CHUNK):
        wrong = is_wrong(values[start : start + CHUNK]).reshape(
            len(values[start : start + CHUNK]), -1
        )
        if wrong.any():
            return start + int(np.argmax(wrong.any(axis=1)))
    return None
