"""The functions of record batches that every engine runs: hash, count, score.

Each takes an iterator of pyarrow RecordBatches and yields RecordBatches, as Spark's `mapInArrow`
and other engines ask for (docs/scale.md). They hold no state between calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ondevice.errors import needs_extra
from ondevice.model import Model
from ondevice.models.data.chunks import BadRows
from ondevice.models.data.description import LogDescription
from ondevice.models.data.log_source import table_source
from ondevice.models.data.row_batches import batch_of
from ondevice.models.data.row_rules import RowRules
from ondevice.models.data.splits import SplitRule
from ondevice.models.scale.counts import counts_of, summed
from ondevice.requests import fields_of, requests_of
from ondevice.scores import score_table

with needs_extra("reading Parquet and Arrow", "train"):
    import pyarrow as pa


def encode_batches(
    batches: Iterable[Any], description: LogDescription, split: SplitRule | None = None
) -> Iterator[Any]:
    """Hash the rows of record batches: see `ondevice.models.data.row_batches.batch_of`.

    Raises:
        DataError: a column is absent or not described, or a row cannot be read.
    """
    rules = RowRules(description, split)
    for batch in batches:
        if batch.num_rows:
            for chunk in table_source(batch, "the batch", rules):
                yield batch_of(rules.rows(chunk, BadRows()))


def count_batches(batches: Iterable[Any], description: LogDescription) -> Iterator[Any]:
    """Count what record batches hold: one table of `ondevice.models.scale.counts`, in batches.

    Tables of several calls are added by group-by-sum.

    Raises:
        DataError: a column is absent or not described, or a row cannot be read.
    """
    rules = RowRules(description, None)
    tables = (
        counts_of(rules.rows(chunk, BadRows()), description)
        for batch in batches
        if batch.num_rows
        for chunk in table_source(batch, "the batch", rules)
    )
    yield from summed(tables).to_batches()


def score_batches(batches: Iterable[Any], model: Model, keep: Sequence[str] = ()) -> Iterator[Any]:
    """Score raw values in record batches; a row of the result is a row of the input.

    Args:
        batches: with the model's input columns; others are ignored.
        model: that is read from a converted file.
        keep: columns to put before the scores.

    Raises:
        InputError: a column is absent, or a value is none of its field; names the row.
    """
    fields = fields_of(model, ids=False)
    first = 0
    for batch in batches:
        if batch.num_rows:
            requests = requests_of(batch, fields, keep, first)
            outputs = model.predict(requests.ids)
            named = outputs if isinstance(outputs, dict) else {model.outputs[0]: outputs}
            yield from pa.Table.to_batches(score_table(named, requests.rows, requests.kept))
            first += batch.num_rows
