"""Scores as CSV, JSON lines or Parquet: names for the columns of outputs, one row per request."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ondevice.arrow_columns import pyarrow
from ondevice.errors import InputError, UnsupportedError
from ondevice.requests import TextFormat

FloatArray = npt.NDArray[np.float32]

ONLY_SCORE = "score"  # the name of the value of a model that has one per request
DIGITS = 6  # what a float32 probability carries beyond rounding


class ScoreWriter:
    """Writes the outputs of batch after batch; a CSV header precedes the first.

    A model whose only output has one value per request ([batch], [batch, 1], ...) gets the column
    or key "score". Otherwise an output called NAME is the column NAME where it has one value per
    request, NAME[0], NAME[1], ... in row-major order where it has several; in JSON lines it is the
    key NAME with a number or a list (nested where the output has more axes).
    """

    def __init__(self, sink: IO[str], text_format: TextFormat) -> None:
        """Write to `sink`."""
        self._sink = sink
        self._text_format = text_format
        self._has_header = False

    def write(
        self, outputs: Mapping[str, FloatArray], rows: int, kept: Mapping[str, Any] | None = None
    ) -> None:
        """Write one line for each of `rows` requests.

        Args:
            outputs: float32 [rows, ...] by name, in order.
            rows: how many requests were scored.
            kept: columns that precede the scores: texts, Python's values, or pyarrow Arrays.

        Raises:
            UnsupportedError: an output has no row for every request.
            InputError: a kept column has the name of a score's.
            OSError: the sink refuses the text.
        """
        arrays = named_scores(outputs, rows)
        columns = {name: _listed(values) for name, values in (kept or {}).items()}
        if self._text_format == "csv":
            self._write_csv(arrays, rows, columns)
        else:
            _refuse_doubled(columns, arrays)
            self._write_json(arrays, rows, columns)

    def _write_csv(
        self, arrays: Mapping[str, FloatArray], rows: int, kept: Mapping[str, list[Any]]
    ) -> None:
        writer = csv.writer(self._sink, lineterminator="\n")
        names = [name for item in arrays.items() for name in _columns(*item)]
        if not self._has_header:
            _refuse_doubled(kept, names)
            self._has_header = True
            writer.writerow([*kept, *names])
        flat = np.concatenate([array.reshape(rows, -1) for array in arrays.values()], axis=1)
        scores = [[f"{value:.{DIGITS}g}" for value in row] for row in flat.tolist()]
        if not kept:
            writer.writerows(scores)
            return
        texts = [[_text(value) for value in values] for values in kept.values()]
        writer.writerows([*row, *values] for *row, values in zip(*texts, scores, strict=True))

    def _write_json(
        self, arrays: Mapping[str, FloatArray], rows: int, kept: Mapping[str, list[Any]]
    ) -> None:
        # one value per request is a number, not a list, however many axes of size 1 it has
        scores = {
            name: (array.reshape(rows) if array.size == rows else array).tolist()
            for name, array in arrays.items()
        }
        for number in range(rows):
            line = {name: _json_value(values[number]) for name, values in kept.items()}
            line |= {name: _rounded(values[number]) for name, values in scores.items()}
            self._sink.write(json.dumps(line) + "\n")


class ParquetScores:
    """Writes the outputs of batch after batch into a Parquet file, at full precision."""

    def __init__(self, path: Path) -> None:
        """Write to `path`; use as a context. Raises MissingDependencyError."""
        self._pa = pyarrow()
        self._parquet = pyarrow("pyarrow.parquet")
        self._path = path
        self._writer: Any = None

    def __enter__(self) -> ParquetScores:
        """Itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish the file. Raises InputError: no batch came, so nothing tells its columns."""
        if self._writer is not None:
            self._writer.close()
        elif kind is None:
            raise InputError("there are no requests, so that Parquet scores would have no columns")

    def write(
        self, outputs: Mapping[str, FloatArray], rows: int, kept: Mapping[str, Any] | None = None
    ) -> None:
        """Write one row for each of `rows` requests; see ScoreWriter.write.

        Raises:
            UnsupportedError: an output has no row for every request.
            InputError: a kept column has the name of a score's, or values of several types.
            OSError: the disk refuses.
        """
        pa = self._pa
        try:
            table = score_table(outputs, rows, kept)
            if self._writer is None:
                self._writer = self._parquet.ParquetWriter(self._path, table.schema)
            self._writer.write_table(table.cast(self._writer.schema))
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"--keep: a column has no single type for Parquet: {error}") from error


def score_table(
    outputs: Mapping[str, FloatArray], rows: int, kept: Mapping[str, Any] | None = None
) -> Any:
    """A pyarrow Table of kept columns and scores; see `ScoreWriter.write`.

    Raises:
        UnsupportedError: an output has no row for every request.
        InputError: a kept column has the name of a score's.
        pyarrow.ArrowException, ValueError: a kept column has values of several types.
    """
    pa = pyarrow()
    arrays = named_scores(outputs, rows)
    columns = dict(kept or {})
    _refuse_doubled(columns, arrays)
    for name, array in arrays.items():
        flat = pa.array(np.ascontiguousarray(array, np.float32).reshape(-1))
        size = array.size // max(rows, 1)
        columns[name] = flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)
    return pa.table(columns)


def named_scores(outputs: Mapping[str, FloatArray], rows: int) -> dict[str, FloatArray]:
    """The outputs by the name that is written. Raises UnsupportedError; see ScoreWriter."""
    arrays = {name: np.asarray(array) for name, array in outputs.items()}
    for name, array in arrays.items():
        if array.shape[:1] != (rows,):
            raise UnsupportedError(
                f"output {name!r} has shape {list(array.shape)} for {rows} requests; "
                "`run` writes outputs with one row per request"
            )
    if len(arrays) == 1 and next(iter(arrays.values())).size == rows:
        return {ONLY_SCORE: next(iter(arrays.values()))}
    return arrays


def _refuse_doubled(kept: Collection[str], scores: Collection[str]) -> None:
    if doubled := sorted(set(kept) & set(scores)):
        raise InputError(f"--keep {','.join(doubled)}: the scores have that name already")


def _listed(values: Any) -> list[Any]:
    """A column as a list; a pyarrow Array's values are Python's."""
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)


def _text(value: Any) -> str:
    """A kept value as a CSV cell."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)


def _json_value(value: Any) -> Any:
    """A kept value as JSON has it: times and bytes as texts, NaN as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    is_plain = value is None or isinstance(value, str | int | float | list | dict)
    return value if is_plain else str(value)


def _columns(name: str, array: FloatArray) -> list[str]:
    """CSV columns of an output [rows, ...]."""
    sizes = array.shape[1:]
    if math.prod(sizes) == 1:
        return [name]
    places = itertools.product(*map(range, sizes))
    return [name + "".join(f"[{place}]" for place in index) for index in places]


def _rounded(value: Any) -> Any:
    """A number, or nested lists of numbers, for JSON: which has neither NaN nor infinity."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
