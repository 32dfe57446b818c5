"""Statistics, encoding and scoring of a whole log by any engine; results do not depend on it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ondevice.errors import DataError
from ondevice.models.data.cache import cache_key, cached_log
from ondevice.models.data.chunks import BadRows
from ondevice.models.data.collected_rows import CollectedRows
from ondevice.models.data.description import LogDescription
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.log_source import part_of_file
from ondevice.models.data.parts import LogFile
from ondevice.models.data.row_batches import rows_of
from ondevice.models.data.splits import SplitRule
from ondevice.models.scale.counts import (
    LogStatistics,
    refused_count,
    statistics_of,
    summed,
    wanted_bins,
)
from ondevice.models.scale.engines import Engine
from ondevice.models.scale.fragments import fragments_of
from ondevice.models.scale.tasks import CountTask, EncodeTask, NumberTask, Result, ScoreTask, Task


def statistics(
    files: Sequence[LogFile], description: LogDescription, most_bad: int, engine: Engine
) -> LogStatistics:
    """Exact statistics of a log.

    Args:
        files: of the log.
        description: of the columns.
        most_bad: more rows that cannot be read are an error.
        engine: runs the tasks.

    Raises:
        DataError: a file or too many rows cannot be read.
        WorkerError: see `RayEngine`.
    """
    fragments = fragments_of(files)
    bad_rows = BadRows(most_bad)
    task = CountTask(description, most_bad=most_bad)
    counts = summed(item.table for item in _results(engine, task, fragments, bad_rows))
    counts = summed([counts, refused_count(bad_rows.count)])
    if bins := wanted_bins(counts, description):
        again = description
        if not bad_rows.count:  # no row to be refused for another field's sake
            chosen = {
                name: item
                for name, item in description.fields.items()
                if any(feature.name in bins for feature in item.features(name, ()))
            }
            again = replace(description, fields=chosen, keys=(), ignore=("*",))
        numbers = NumberTask(again, most_bad=most_bad, bins=bins)
        results = _results(engine, numbers, fragments, BadRows(most_bad))
        counts = summed([counts, *(item.table for item in results)])
    counted = statistics_of(counts, description)
    if not counted.rows:
        raise DataError("no row of the log can be read")
    return counted


def encoded_log(
    name: str,
    files: Sequence[LogFile],
    description: LogDescription,
    split: SplitRule | None,
    most_bad: int,
    engine: Engine,
) -> HashedLog:
    """The hashed log of files, equal to what `read_log` makes of them.

    Args:
        name: of the log.
        files: of the log.
        description: of the columns.
        split: divides the rows.
        most_bad: more rows that cannot be read are an error.
        engine: runs the tasks.

    Raises:
        DataError: see `read_log`.
        WorkerError: see `RayEngine`.
    """
    fragments = fragments_of(files)
    parts = [part_of_file(fragment, split) for fragment in fragments]
    task = EncodeTask(description, split, most_bad)
    collected, bad_rows = CollectedRows(description, split), BadRows(most_bad)
    results = _results(engine, task, fragments, bad_rows)
    texts: dict[str, dict[int, str]] = {key: {} for key in description.keys}
    for part, result in zip(parts, results, strict=True):
        for key, known in result.texts.items():
            texts[key] |= known
        for batch in result.table.to_batches():
            collected.add(rows_of(batch), part)
    return collected.log(name, bad_rows.count, texts)


def cache_encoded_log(
    folder: Path,
    name: str,
    files: Sequence[LogFile],
    description: LogDescription,
    split: SplitRule | None,
    most_bad: int,
    engine: Engine,
) -> HashedLog:
    """The encoded log in a cache folder, where `read_log` finds it; see `encoded_log`."""
    key = cache_key(files, description, split, (None, most_bad))
    return cached_log(
        folder, key, lambda: encoded_log(name, files, description, split, most_bad, engine)
    )


def write_scores(files: Sequence[LogFile], task: ScoreTask, folder: Path, engine: Engine) -> int:
    """Write part-00000.parquet and so on, one file for each fragment; the number of rows.

    Args:
        files: Parquet files.
        task: the model, and what is kept.
        folder: an existing, empty one.
        engine: runs the tasks.

    Raises:
        DataError: another file than Parquet, or one that cannot be read.
        InputError: a column is absent, or a value is none of its field.
        WorkerError: see `RayEngine`.
    """
    parquet: Any = importlib.import_module("pyarrow.parquet")
    if wrong := [str(file.path) for file in files if file.format != "parquet"]:
        raise DataError(
            f"{wrong[0]}: only Parquet files are scored by several workers; "
            "`ondevice run` scores others"
        )
    rows = 0
    for number, result in enumerate(engine(task, fragments_of(files))):
        parquet.write_table(result.table, folder / f"part-{number:05}.parquet")
        rows += result.table.num_rows
    return rows


def _results(
    engine: Engine, task: Task, fragments: Sequence[LogFile], bad_rows: BadRows
) -> Iterator[Result]:
    """The results of a task, whose refused rows are counted together. Raises DataError."""
    for result in engine(task, fragments):
        bad_rows.count += result.bad_rows.count
        bad_rows.faults += result.bad_rows.faults
        if bad_rows.count > bad_rows.most:
            raise DataError(f"more than {bad_rows.most} bad rows: {bad_rows.faults[0]}")
        yield result
