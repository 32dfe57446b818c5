"""Behaviour histories: what a user liked before each impression, only from training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ondevice.errors import InputError
from ondevice.features import PADDING_ID
from ondevice.limits import MAX_LENGTH
from ondevice.models.data.hashed import HashedLog, IdArray


@dataclass(frozen=True)
class History:
    """A sequence field computed from the log itself.

    Attributes:
        user: the field whose rows belong together.
        item: the field whose values are remembered; the history shares its table.
        length: how many items the sequence holds at most, the latest clicks.
        name: of the new field.

    Raises:
        InputError: a length out of range, or no name.
    """

    user: str
    item: str
    length: int = 20
    name: str = "history"

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MAX_LENGTH or not self.name:
            raise InputError(f"history: a name and a length of 1..{MAX_LENGTH} needed, got {self}")


def add_history(
    parts: tuple[HashedLog, HashedLog, HashedLog], history: History
) -> tuple[HashedLog, HashedLog, HashedLog]:
    """The training, validation and test parts with the field `history.name` added to each.

    A row's history holds the items of the last `length` clicks of its user in the **training**
    part that are strictly earlier than the row, oldest first. Neither the row itself, nor a row
    of the same moment, nor any row of the other parts can enter it, so no label leaks.

    Raises:
        InputError: an unknown field, a name that is taken, or a log without times.
    """
    train = parts[0]
    owner, item = train.features[history.user], train.features[history.item]
    for field in (owner, item):
        if field.encoding != "hash" or field.length is not None:
            raise InputError(f"a history needs single hashed fields, and {field.name!r} is none")
    if history.name in train.hashes:
        raise InputError(f"the log has a field {history.name!r} already; name the history anew")
    times = [part.times for part in parts if part.times is not None]
    if len(times) < len(parts):
        raise InputError(
            f"{train.name}: a history needs the time of each row, and this log has none"
        )
    users = np.unique(np.concatenate([part.hashes[history.user] for part in parts]))
    moments = np.unique(np.concatenate(times))
    keys = [
        _keys(part.hashes[history.user], moment, users, moments)
        for part, moment in zip(parts, times, strict=True)
    ]
    clicked = train.labels.reshape(len(train), -1)[:, 0] == 1
    clicks = np.flatnonzero(clicked & (train.hashes[history.user] != PADDING_ID))
    clicks = clicks[np.argsort(keys[0][clicks], kind="stable")]
    # its values are read as the item's are; the log itself has no column of them
    cells = None if item.cells is None else replace(item.cells, column=None)
    sequence = replace(item, name=history.name, length=history.length, cells=cells)
    features = replace(train.features, fields=(*train.features.fields, sequence))
    events = keys[0][clicks]
    items = train.hashes[history.item][clicks]
    extended = [
        replace(
            part,
            features=features,
            hashes={**part.hashes, history.name: _before(key, events, items, moments, history)},
        )
        for part, key in zip(parts, keys, strict=True)
    ]
    return extended[0], extended[1], extended[2]


def _keys(owners: IdArray, times: IdArray, users: IdArray, moments: IdArray) -> IdArray:
    """One number a row that orders by user, then by time, int64 [rows]."""
    owner = np.searchsorted(users, owners).astype(np.int64)
    return owner * len(moments) + np.searchsorted(moments, times).astype(np.int64)


def _before(
    keys: IdArray, events: IdArray, items: IdArray, moments: IdArray, history: History
) -> IdArray:
    """Items int64 [rows, length] of the events before each key and of its user."""
    begin = np.searchsorted(events, keys - keys % len(moments))
    end = np.searchsorted(events, keys)  # the first event that is not earlier
    begin = np.maximum(begin, end - history.length)
    out = np.full((len(keys), history.length), PADDING_ID, dtype=np.int64)
    for place in range(history.length):
        rows = np.flatnonzero(begin + place < end)
        out[rows, place] = items[begin[rows] + place]
    return out
