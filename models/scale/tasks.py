"""The tasks that engines run, each on one fragment of a log."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import DataError, InputError, needs_extra
from ondevice.model import Model, load, model_files, sha256
from ondevice.models.data.builder import Rows
from ondevice.models.data.chunks import BadRows
from ondevice.models.data.description import LogDescription
from ondevice.models.data.log_source import file_source
from ondevice.models.data.parts import LogFile
from ondevice.models.data.row_batches import batch_of
from ondevice.models.data.row_rules import RowRules
from ondevice.models.data.splits import SplitRule
from ondevice.models.scale.batches import score_batches
from ondevice.models.scale.counts import counts_of, numbers_of, summed
from ondevice.requests import columns_of, fields_of

with needs_extra("reading Parquet and Arrow", "train"):
    import pyarrow as pa

BATCH_ROWS = 1 << 14


@dataclass(frozen=True)
class Result:
    """What a task returns.

    Attributes:
        table: a pyarrow Table.
        bad_rows: the rows that were refused.
        texts: of an encoded fragment: see `RowRules.texts`.
    """

    table: Any
    bad_rows: BadRows
    texts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


Task = Callable[[LogFile], Result]


@dataclass(frozen=True)
class LogTask:
    """How a task reads its fragment.

    Attributes:
        description: of the columns.
        split: whose columns are hashed too.
        most_bad: more refused rows in one fragment are an error.
    """

    description: LogDescription
    split: SplitRule | None = None
    most_bad: int = 0

    def rows(
        self, fragment: LogFile, bad_rows: BadRows, rules: RowRules | None = None
    ) -> Iterator[Rows]:
        """The rows of a fragment, chunk by chunk. Raises DataError."""
        rules = rules or RowRules(self.description, self.split)
        for chunk in file_source(fragment, rules, bad_rows):
            yield rules.rows(chunk, bad_rows)


@dataclass(frozen=True)
class EncodeTask(LogTask):
    """Hashes rows: see `ondevice.models.data.row_batches.batch_of`."""

    def __call__(self, fragment: LogFile) -> Result:
        """The hashed rows. Raises DataError."""
        bad_rows, rules = BadRows(self.most_bad), RowRules(self.description, self.split)
        batches = [batch_of(rows) for rows in self.rows(fragment, bad_rows, rules)]
        return Result(pa.Table.from_batches(batches).combine_chunks(), bad_rows, rules.texts)


@dataclass(frozen=True)
class CountTask(LogTask):
    """Counts rows, values, missing values and bins of numbers."""

    def __call__(self, fragment: LogFile) -> Result:
        """The counts. Raises DataError."""
        bad_rows = BadRows(self.most_bad)
        table = summed(counts_of(rows, self.description) for rows in self.rows(fragment, bad_rows))
        return Result(table, bad_rows)


@dataclass(frozen=True)
class NumberTask(LogTask):
    """Counts the numbers in the bins that hold quantiles.

    Attributes:
        bins: by field int64 [m].
    """

    bins: Mapping[str, npt.NDArray[np.int64]] | None = None

    def __call__(self, fragment: LogFile) -> Result:
        """The counts. Raises DataError."""
        bad_rows, bins = BadRows(self.most_bad), self.bins or {}
        table = summed(numbers_of(rows, bins) for rows in self.rows(fragment, bad_rows))
        return Result(table, bad_rows)


@dataclass(frozen=True)
class ScoreTask:
    """Scores the rows of Parquet files; a worker loads the model once.

    Attributes:
        model: its file, which every worker must see.
        digest: of its bytes: see `digest_of`.
        keep: columns of the input to put before the scores.
    """

    model: Path
    digest: str
    keep: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Path, keep: Sequence[str] = ()) -> ScoreTask:
        """The task of a model file. Raises FileFormatError where it is none."""
        load(model)
        return cls(model.absolute(), digest_of(model), tuple(keep))

    def __call__(self, fragment: LogFile) -> Result:
        """The kept columns and the scores.

        Raises:
            InputError: a column is absent, a value is none of its field, or the model another.
            DataError: the file is damaged, or without rows.
        """
        model = _loaded(self.model, self.digest)
        try:
            batches = list(score_batches(_batches(fragment, model, self.keep), model, self.keep))
        except InputError as error:
            raise InputError(f"{fragment.path}: {error}") from error
        if not batches:
            raise DataError(f"{fragment.path}: no rows")
        return Result(pa.Table.from_batches(batches).combine_chunks(), BadRows())


def digest_of(model: Path) -> str:
    """SHA-256 of the files of a model, in hexadecimal."""
    return " ".join(map(sha256, model_files(model)))


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, digest: str) -> Model:
    """The model, loaded once in a process. Raises InputError where the file is another one."""
    model = load(path)
    if digest_of(path) != digest:
        raise InputError(f"{path}: not the file that was given: a worker sees another one")
    return model


def _batches(fragment: LogFile, model: Model, keep: tuple[str, ...]) -> Iterator[Any]:
    """The columns of a Parquet fragment that are read, with its folders' values.

    Raises:
        DataError: the file is damaged.
        InputError: a column is absent.
    """
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(fragment.path, memory_map=True) as file:
            stored = file.schema_arrow.names
            shared = {n: v or None for n, v in fragment.values.items() if n not in stored}
            used = columns_of([*stored, *shared], fields_of(model, ids=False), keep)
            groups = range(*(fragment.groups or (0, file.metadata.num_row_groups)))
            columns = [name for name in stored if name in used]
            for group in groups:  # each with dictionaries of its own
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                    for name in shared.keys() & set(used):
                        values = pa.array([shared[name]] * batch.num_rows, pa.string())
                        batch = batch.append_column(name, values)
                    yield batch
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{fragment.path}: cannot be read as Parquet: {first}") from error
