"""Scores as CSV or JSON lines: names for the columns of a model's outputs, one line per request."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import UnsupportedError
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

    def write(self, outputs: Mapping[str, FloatArray], rows: int) -> None:
        """Write one line for each of `rows` requests.

        Args:
            outputs: float32 [rows, ...] by name, in order.
            rows: how many requests were scored.

        Raises:
            UnsupportedError: an output has no row for every request.
            OSError: the sink refuses the text.
        """
        arrays = {name: np.asarray(array) for name, array in outputs.items()}
        for name, array in arrays.items():
            if array.shape[:1] != (rows,):
                raise UnsupportedError(
                    f"output {name!r} has shape {list(array.shape)} for {rows} requests; "
                    "`run` writes outputs with one row per request"
                )
        if len(arrays) == 1 and next(iter(arrays.values())).size == rows:
            arrays = {ONLY_SCORE: next(iter(arrays.values()))}
        if self._text_format == "csv":
            self._write_csv(arrays, rows)
        else:
            self._write_json(arrays, rows)

    def _write_csv(self, arrays: Mapping[str, FloatArray], rows: int) -> None:
        writer = csv.writer(self._sink, lineterminator="\n")
        if not self._has_header:
            self._has_header = True
            writer.writerow([name for item in arrays.items() for name in _columns(*item)])
        flat = np.concatenate([array.reshape(rows, -1) for array in arrays.values()], axis=1)
        writer.writerows([f"{value:.{DIGITS}g}" for value in row] for row in flat.tolist())

    def _write_json(self, arrays: Mapping[str, FloatArray], rows: int) -> None:
        # one value per request is a number, not a list, however many axes of size 1 it has
        columns = {
            name: array.reshape(rows) if array.size == rows else array
            for name, array in arrays.items()
        }
        for values in zip(*(array.tolist() for array in columns.values()), strict=True):
            line = dict(zip(columns, map(_rounded, values), strict=True))
            self._sink.write(json.dumps(line) + "\n")


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
