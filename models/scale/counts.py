"""Counts of a log as one table that merges by group-by-sum, and the statistics that they give.

A row (column, what, key, count) says how often something occurred; equal (column, what, key) are
added, so any number of parts in any order gives the same table. `what` is

- `rows`: rows of the log, and `refused`: rows that could not be read (column "", key 0);
- `label`: rows with that label (key 0);
- `missing`: rows without a value of that field, and `infinite`: with an infinite number (key 0);
- `value`: the hash `key` of a value of that field;
- `bin`: numbers whose ordered bits begin with the 16 bits `key`;
- `number`: the number whose ordered bits are `key`, in the bins that hold the wanted quantiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import needs_extra
from ondevice.features import PADDING_ID
from ondevice.models.data.builder import Rows
from ondevice.models.data.description import LogDescription
from ondevice.models.data.statistics import BINS, NumberSummary, ValueCounts, counts_within
from ondevice.text_table import table as text_table

with needs_extra("reading Parquet and Arrow", "train"):
    import pyarrow as pa

IdArray = npt.NDArray[np.int64]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PENDING_ROWS = 1 << 20
_KEYS = ("column", "what", "key")
SCHEMA = pa.schema(
    [("column", pa.string()), ("what", pa.string()), ("key", pa.int64()), ("count", pa.int64())]
)
_Entry = tuple[str, str, IdArray | list[int], IdArray | list[int]]


def counts_of(rows: Rows, description: LogDescription) -> Any:
    """The counts of some rows, a pyarrow Table of SCHEMA."""
    entries: list[_Entry] = [("", "rows", [0], [len(rows.labels)])]
    labels = rows.labels.reshape(-1, len(description.labels))
    for name, ones in zip(description.labels, labels.sum(0, dtype=np.float64), strict=True):
        entries.append((name, "label", [0], [int(ones)]))
    for item in description.features:
        values = rows.hashes[item.name]
        if item.encoding == "bucket":
            numbers = values.view(np.float64)
            missing = np.isnan(numbers)
            bins = NumberSummary.of(numbers).bins
            filled = np.flatnonzero(bins)
            entries.append((item.name, "bin", filled, bins[filled]))
            entries.append((item.name, "infinite", [0], [int(np.isinf(numbers).sum())]))
        else:
            missing = values == PADDING_ID
            missing = missing if item.length is None else missing.all(1)
            counts = ValueCounts.of(values)
            entries.append((item.name, "value", counts.values, counts.counts))
        entries.append((item.name, "missing", [0], [int(missing.sum())]))
    return _table(entries)


def refused_count(refused: int) -> Any:
    """The count of rows that could not be read."""
    return _table([("", "refused", [0], [refused])])


def numbers_of(rows: Rows, bins: Mapping[str, IdArray]) -> Any:
    """The counts `number` of some rows: by field the bins that are counted, int64 [m]."""
    entries: list[_Entry] = []
    for name, wanted in bins.items():
        counts = counts_within(rows.hashes[name].view(np.float64), wanted)
        entries.append((name, "number", counts.values, counts.counts))
    return _table(entries)


def summed(tables: Iterable[Any]) -> Any:
    """The sum of tables of counts, ordered by column, what and key; their order does not matter."""
    state, pending, size = SCHEMA.empty_table(), [], 0
    for table in tables:
        pending.append(table)
        size += table.num_rows
        # adding only what is as large as the rest keeps the work near-linear
        if size >= max(state.num_rows, PENDING_ROWS):
            state, pending, size = _grouped([state, *pending]), [], 0
    order = [(name, "ascending") for name in _KEYS]
    return _grouped([state, *pending]).sort_by(order).combine_chunks()


@dataclass(frozen=True)
class FieldStatistics:
    """What a field holds.

    Attributes:
        name: of the field.
        kind: of its values.
        missing: rows without a value.
        infinite: rows with an infinite number.
        distinct: how many values there are; None of numbers.
        once: how many of them occur once; None of numbers.
        quantiles: of the finite numbers at SHARES; None of other fields, and without numbers.
    """

    name: str
    kind: str
    missing: int
    infinite: int = 0
    distinct: int | None = None
    once: int | None = None
    quantiles: tuple[float, ...] | None = None


@dataclass(frozen=True)
class LogStatistics:
    """Exact statistics of a log.

    Attributes:
        rows: that could be read.
        refused: rows that could not.
        labels: by label, how many rows have it.
        fields: in their order.
    """

    rows: int
    refused: int
    labels: dict[str, int]
    fields: tuple[FieldStatistics, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        labels = {n: {"rows": ones, "rate": ones / self.rows} for n, ones in self.labels.items()}
        fields = {}
        for item in self.fields:
            known: dict[str, Any] = {"kind": item.kind, "missing": item.missing}
            known["missing_share"] = item.missing / self.rows
            if item.distinct is None:
                shares = zip(SHARES, item.quantiles or (), strict=False)
                known["infinite"] = item.infinite
                known["quantiles"] = {f"{share:g}": number for share, number in shares}
            else:
                known |= {"distinct": item.distinct, "once": item.once}
            fields[item.name] = known
        return {"rows": self.rows, "refused": self.refused, "labels": labels, "fields": fields}

    def text(self) -> str:
        """One line of the rows and labels, and a table of the fields."""
        rates = ", ".join(f"{name} {ones / self.rows:.2%}" for name, ones in self.labels.items())
        refused = f", {self.refused:,} refused" if self.refused else ""
        lines = []
        for item in self.fields:
            counts = [item.distinct, item.once]
            shown = ["-" if count is None else f"{count:,}" for count in counts]
            numbers = [f"{number:g}" for number in item.quantiles or ()] or ["-"] * len(SHARES)
            missing = f"{item.missing / self.rows:.2%}"
            lines.append((item.name, item.kind, *shown, missing, *numbers))
        header = ("field", "kind", "distinct", "once", "missing", "min", "25%", "50%", "75%", "max")
        return f"{self.rows:,} rows{refused}; {rates}\n\n{text_table(header, lines)}"


def wanted_bins(counts: Any, description: LogDescription) -> dict[str, IdArray]:
    """By field with numbers, the bins that hold its quantiles: what `numbers_of` counts next."""
    counted = _Counts(counts)
    bins = {}
    for item in description.features:
        if item.encoding == "bucket" and (summary := counted.summary(item.name)).count:
            bins[item.name] = summary.bins_of(summary.ranks(np.array(SHARES)))
    return bins


def statistics_of(counts: Any, description: LogDescription) -> LogStatistics:
    """The statistics of summed counts, those of `numbers_of` among them."""
    counted = _Counts(counts)
    fields = []
    for item in description.features:
        missing = counted.single(item.name, "missing")
        if item.encoding == "bucket":
            summary, quantiles = counted.summary(item.name), None
            if summary.count:
                ranks = summary.ranks(np.array(SHARES))
                numbers = summary.numbers_at(ranks, counted.of(item.name, "number"))
                quantiles = tuple(map(float, numbers))
            infinite = counted.single(item.name, "infinite")
            fields.append(
                FieldStatistics(item.name, item.kind, missing, infinite, quantiles=quantiles)
            )
        else:
            occur = counted.of(item.name, "value").counts
            once = int((occur == 1).sum())
            fields.append(
                FieldStatistics(item.name, item.kind, missing, distinct=len(occur), once=once)
            )
    labels = {name: counted.single(name, "label") for name in description.labels}
    rows, refused = counted.single("", "rows"), counted.single("", "refused")
    return LogStatistics(rows, refused, labels, tuple(fields))


class _Counts:
    """Summed counts by column and what."""

    def __init__(self, counts: Any) -> None:
        keys, numbers = (counts.column(name).to_numpy() for name in ("key", "count"))
        names = counts.column("column").combine_chunks().dictionary_encode()
        whats = counts.column("what").combine_chunks().dictionary_encode()
        groups = names.indices.to_numpy().astype(np.int64) * len(whats.dictionary)
        groups += whats.indices.to_numpy()
        starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
        known_names, known_whats = names.dictionary.to_pylist(), whats.dictionary.to_pylist()
        self._parts = {}
        for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
            name, what = divmod(int(groups[start]), len(known_whats))
            part = ValueCounts(keys[start:end], numbers[start:end])
            self._parts[known_names[name], known_whats[what]] = part

    def of(self, column: str, what: str) -> ValueCounts:
        """The keys, ascending, and their counts."""
        return self._parts.get((column, what), ValueCounts())

    def single(self, column: str, what: str) -> int:
        """The count of key 0."""
        return int(self.of(column, what).counts.sum())

    def summary(self, column: str) -> NumberSummary:
        """The bins of a field's numbers."""
        bins = np.zeros(BINS, np.int64)
        filled = self.of(column, "bin")
        bins[filled.values] = filled.counts
        return NumberSummary(bins)


def _table(entries: Sequence[_Entry]) -> Any:
    """Entries as a table of SCHEMA."""
    sizes = [len(keys) for _, _, keys, _ in entries]
    places = pa.array(np.repeat(np.arange(len(entries)), sizes))
    columns = [pa.array([entry[text] for entry in entries], pa.string()) for text in (0, 1)]
    numbers = [
        np.concatenate([np.asarray(entry[number], np.int64) for entry in entries])
        if entries
        else np.empty(0, np.int64)
        for number in (2, 3)
    ]
    return pa.table([*(column.take(places) for column in columns), *numbers], schema=SCHEMA)


def _grouped(tables: Sequence[Any]) -> Any:
    grouped = pa.concat_tables(tables).group_by(_KEYS).aggregate([("count", "sum")])
    return (
        grouped.select([*_KEYS, "count_sum"])
        .cast(SCHEMA.set(3, pa.field("count_sum", pa.int64())))
        .rename_columns(SCHEMA.names)
    )
