"""Requests for files whose IDs are one matrix: named inputs become its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError, InputError

MATRIX_INPUT = "ids"  # int64 [batch, fields]
WORDS_INPUT = "id_words"  # int32 [batch, 2 x fields]: the low word of each ID, then the high one

Arrays = Mapping[str, npt.NDArray[Any]]


class RuntimeEngine(Protocol):
    """An engine over a stock runtime, which knows the inputs of its file."""

    runtime: str

    @property
    def input_names(self) -> Sequence[str]:
        """Of the file."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name."""


class ColumnsEngine:
    """An engine of a file whose int64 inputs [batch] are columns of MATRIX_INPUT or WORDS_INPUT.

    Attributes:
        runtime: that of the engine of the file.
    """

    def __init__(self, engine: RuntimeEngine, columns: Sequence[str]) -> None:
        """Take the engine of the file, and the names of the columns in order."""
        self.runtime = engine.runtime
        self._engine, self._columns = engine, tuple(columns)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name. Raises InputError for a missing input, and as the engine does."""
        if missing := [name for name in self._columns if name not in inputs]:
            raise InputError(f"missing inputs: {', '.join(missing)}")
        rest = {name: array for name, array in inputs.items() if name not in self._columns}
        try:
            matrix = np.stack([inputs[name] for name in self._columns], axis=1)
        except ValueError as error:
            raise InputError(f"the inputs have rows of different number: {error}") from error
        if MATRIX_INPUT in self._engine.input_names:
            return self._engine.run({**rest, MATRIX_INPUT: matrix})
        words = matrix.astype("<i8", order="C", copy=False).view(np.int32)
        return self._engine.run({**rest, WORDS_INPUT: words})


def by_columns(engine: RuntimeEngine, names: Sequence[str]) -> RuntimeEngine | ColumnsEngine:
    """The engine of a file for requests with these inputs.

    Raises:
        FileFormatError: the file lacks some of them, and has no matrix.
    """
    missing = [name for name in names if name not in engine.input_names]
    if not missing:
        return engine
    if not {MATRIX_INPUT, WORDS_INPUT} & set(engine.input_names):
        raise FileFormatError(f"the file has no inputs {', '.join(missing)}, which it describes")
    return ColumnsEngine(engine, missing)
