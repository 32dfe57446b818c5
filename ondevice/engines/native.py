"""Runs a native file in the compiled C engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.codecs import DenseArithmetic
from ondevice.errors import FileFormatError, LockError, UnsupportedError
from ondevice.held_bytes import copy_of

# Names the kernels to use, for tests and measurements; unset: the fastest of this processor.
KERNELS_VARIABLE = "ONDEVICE_KERNELS"

ValueArray = npt.NDArray[Any]  # int64 or float32
FloatArray = npt.NDArray[np.float32]


class NativeEngine:
    """A model of the C engine; threads share it freely, each request takes its own scratch.

    Attributes:
        runtime: "native", the kernels in use and the arithmetic of dense layers that was asked for,
            such as "native avx2" or "native avx512bf16 bf16".
        description: the file's description.
        predict: the quick way for a dict of int64 arrays: the first output, or None for a
            request that is not plain and must be checked and converted first.
        rank: likewise for a context and its candidates.
    """

    def __init__(
        self,
        path: Path,
        *,
        kernels: str | None = None,
        full_check: bool | None = None,
        sizes: Mapping[str, int] | None = None,
        threads: int = 1,
        dense: DenseArithmetic | None = None,
        lock: bool = False,
    ) -> None:
        """Map and check a native file, or its copy inside `ondevice.held_bytes.held_copies`.

        Args:
            path: the .odm file.
            kernels: see `kernels_available`; by default what ONDEVICE_KERNELS names, or the
                fastest.
            full_check: as in `ondevice.odm.open_odm`.
            sizes: of all free axes beside the rows, by name; requests must have them.
            threads: that share the rows of a request of 256 rows or more; scores do not depend on
                it.
            dense: as in `ondevice.load`.
            lock: run from a copy in memory that the system never pages out.

        Raises:
            FileFormatError: the file is damaged or of another version.
            LockError: the system does not let the copy be locked.
            UnsupportedError: a valid file that this engine cannot run, or unknown kernels.
            InputError: unknown arithmetic of dense layers.
            ImportError: the engine is not compiled.
        """
        from ondevice import _native

        self._path = path
        chosen = kernels or os.environ.get(KERNELS_VARIABLE) or None
        check = -1 if full_check is None else int(full_check)
        try:
            free = tuple((sizes or {}).items())
            if (held := copy_of(path)) is not None:
                self._model: Any = _native.open_bytes(
                    held, chosen, check, free, threads, dense, lock
                )
            else:
                self._model = _native.open(path, chosen, check, free, threads, dense, lock)
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from error
        except LockError as error:
            raise LockError(f"{path}: {error}") from error
        except UnsupportedError as error:
            raise UnsupportedError(f"{path}: {error}") from error
        self._arithmetic = f" {dense}" if dense else ""
        self._describe()

    def _describe(self) -> None:
        self.runtime = f"native {self._model.kernels}{self._arithmetic}"
        self.description: bytes = self._model.description
        self.predict = self._model.predict
        self.rank = self._model.rank
        self._inputs: tuple[str, ...] = self._model.inputs
        self._outputs: tuple[str, ...] = self._model.outputs

    def resized(self, sizes: Mapping[str, int]) -> NativeEngine:
        """The same mapped file with other sizes of its free axes.

        Raises:
            FileFormatError, UnsupportedError: the model cannot be run with these sizes.
        """
        engine = object.__new__(NativeEngine)
        engine._model = self._model.resized(tuple(sizes.items()))
        engine._arithmetic = self._arithmetic
        engine._describe()
        return engine

    def check(self) -> None:
        """Compare every byte in use with the checksums. Raises FileFormatError, MemoryError."""
        try:
            self._model.check()
        except FileFormatError as error:
            raise FileFormatError(f"{self._path}: {error}") from error

    def run(self, inputs: Mapping[str, ValueArray]) -> dict[str, FloatArray]:
        """Outputs by name. Raises InputError for IDs that the model rejects."""
        arrays = tuple(inputs[name] for name in self._inputs)
        return dict(zip(self._outputs, self._model.run(arrays, None), strict=True))

    def run_ranked(
        self, context: Mapping[str, ValueArray], candidates: Mapping[str, ValueArray]
    ) -> dict[str, FloatArray]:
        """Outputs by name for checked IDs: one row for context inputs, N for the others."""
        arrays = tuple(
            context[name] if name in context else candidates[name] for name in self._inputs
        )
        shared = bytes(name in context for name in self._inputs)
        return dict(zip(self._outputs, self._model.run(arrays, shared), strict=True))

    def profile(
        self, context: Mapping[str, ValueArray], candidates: Mapping[str, ValueArray]
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """Run a request, one row for context inputs (there may be none), N for the others.

        Returns what reading the clock takes, in nanoseconds, and for every operator that ran: the
        index of its node in the plan (-1: all lookups, which run together), nanoseconds, and the
        bytes that it read and wrote.
        """
        arrays = tuple(
            context[name] if name in context else candidates[name] for name in self._inputs
        )
        shared = bytes(name in context for name in self._inputs) if context else None
        timed: tuple[int, list[tuple[int, int, int]]] = self._model.profile(arrays, shared)
        return timed


def kernels_available() -> tuple[str, ...]:
    """Kernels that this processor can run, best first. Raises ImportError if not compiled."""
    from ondevice import _native

    return tuple(_native.kernels_available())


def is_compiled() -> bool:
    """Whether the C engine can be imported."""
    try:
        from ondevice import _native  # noqa: F401 - the import is the question
    except ImportError:
        return False
    return True
