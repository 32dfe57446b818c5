"""What the columns of a chunk of rows become: hashes, labels, times, weights and keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ondevice.cells import Cells
from ondevice.errors import InputError
from ondevice.features import PADDING_ID, Field
from ondevice.hashing import hash_texts
from ondevice.models.data.builder import Rows
from ondevice.models.data.chunks import BadRows, Chunk
from ondevice.models.data.columns import (
    Faults,
    LabelParser,
    LabelRule,
    Rule,
    at_least,
    either,
    encoded_column,
    hash_column,
    label_column,
    number_column,
    rule_of,
    zero_one,
)
from ondevice.models.data.description import LogDescription, LogLabel
from ondevice.models.data.hashed import IdArray
from ondevice.models.data.splits import (
    SplitRule,
    mixed_hash,
)

SPLIT_HASH = "split hash"  # a key that decides the part of a row, dropped afterwards
MAX_TEXTS = 1000  # the texts of a key with more distinct values are not kept


def _parser(label: LogLabel) -> LabelParser:
    """How the label's column is read."""
    if label.values is not None:
        return either(*label.values)
    return zero_one if label.at_least is None else at_least(label.at_least)


class RowRules:
    """What the columns of a chunk become.

    Attributes:
        description: of the columns.
        split: whose columns are hashed too.
        columns: that are read.
        texts: by key, the texts of the hashes so far, until they are more than MAX_TEXTS.
    """

    def __init__(self, description: LogDescription, split: SplitRule | None) -> None:
        self.description = description
        self.split = split
        self.rules = [rule_of(field) for field in description.features]
        self.labels = [
            LabelRule(label.column, _parser(label)) for label in description.labels.values()
        ]
        self.texts: dict[str, dict[int, str]] = {key: {} for key in description.keys}
        self.columns = tuple(dict.fromkeys([*description.used, *(split.columns if split else ())]))

    def rows(self, chunk: Chunk, bad_rows: BadRows) -> Rows:
        """The chunk's rows without those that cannot be read. Raises DataError."""
        faults, description = Faults(chunk), self.description
        labels = [label_column(chunk, label, faults) for label in self.labels]
        hashes = {item.field.name: hash_column(chunk, item, faults) for item in self.rules}
        times = self._times(chunk, faults)
        weights = self._weights(chunk, faults)
        keys = {
            key: _text_hashes(chunk, column, faults, description.missing, self.texts[key])
            for key, column in description.key_columns.items()
        }
        if self.split is not None and self.split.by == "hash":
            keys[SPLIT_HASH] = mixed_hash(
                [_text_hashes(chunk, column, faults) for column in self.split.columns]
            ).view(np.int64)
        together = labels[0] if len(labels) == 1 else np.stack(labels, axis=1)
        rows = Rows(hashes, together, times, weights, keys)
        if not faults.rows.any():
            return rows
        faults.refuse(bad_rows)
        return rows.take(np.flatnonzero(~faults.rows))

    def _times(self, chunk: Chunk, faults: Faults) -> IdArray | None:
        column = self.description.time
        if column is None:
            return None
        form = self.description.time_format
        values = chunk.values(column).values
        if form is None and isinstance(values, np.ndarray) and values.dtype.kind == "M":
            form = "iso"  # any form but none: these are times already
        field = Field(column, "integer", "id", cells=Cells((), form=form))
        return encoded_column(chunk, Rule(field, column), faults)

    def _weights(self, chunk: Chunk, faults: Faults) -> npt.NDArray[np.float32] | None:
        column = self.description.weight
        if column is None:
            return None
        field = Field(column, "number", "bucket", cells=Cells(()))
        weights = number_column(chunk, Rule(field, column), faults).astype(np.float32)
        wrong = ~((weights > 0) & np.isfinite(weights)) & ~faults.rows
        if wrong.any():
            faults.add(column, wrong, "expected a weight above 0, and finite")
        return weights


def _text_hashes(
    chunk: Chunk,
    column: str,
    faults: Faults,
    missing: Sequence[str] = (),
    known: dict[int, str] | None = None,
) -> IdArray:
    """Hashes of a column's values as texts, so that 5 and "5" are equal in every kind of file.

    Args:
        chunk: the rows.
        column: its name.
        faults: of texts that are none.
        missing: texts that mean "no value": PADDING_ID.
        known: takes the other texts by hash, up to about MAX_TEXTS.
    """
    found = chunk.values(column)
    texts = ["" if value is None else str(value) for value in found.values]
    try:
        hashes = hash_texts(texts)
        hashes[[text in missing for text in texts]] = PADDING_ID
        if known is not None and len(known) <= MAX_TEXTS:
            known.update(zip(hashes.tolist(), texts, strict=True))
            known.pop(PADDING_ID, None)
        return found.spread(hashes)
    except InputError:
        faults.add(column, np.ones(len(chunk), dtype=bool), "expected text in the file's encoding")
        return np.zeros(len(chunk), np.int64)
