"""Runs a native file of free axes, such as the length of a history, in the compiled C engine."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.engines.native import NativeEngine
from ondevice.engines.options import Options
from ondevice.errors import FileFormatError, InputError, UnsupportedError
from ondevice.info import ModelInfo

MOST_OPEN = 16  # sizes that are ready at a time; others are opened again, which reads the plan
PROBED_SIZE = 8  # of a free axis, where the file has no test vectors

ValueArray = npt.NDArray[Any]  # int64 or float32
FloatArray = npt.NDArray[np.float32]
Sizes = tuple[tuple[str, int], ...]


class SizedNativeEngine:
    """A model whose plan the C engine reads once for each set of sizes; threads share it freely.

    Attributes:
        runtime: as of NativeEngine.
        description: the file's description.
    """

    def __init__(self, path: Path, info: ModelInfo, options: Options) -> None:
        """Map and check a native file, and read its plan with sizes that it surely takes.

        Args:
            path: the .odm file.
            info: its description.
            options: threads, arithmetic and locking, as of NativeEngine.

        Raises:
            FileFormatError, LockError, UnsupportedError, ImportError: as of NativeEngine.
        """
        self._axes = {
            item.name: {axis: size for axis, size in enumerate(item.shape[1:], 1)
                        if isinstance(size, str)}
            for item in info.inputs
        }  # fmt: skip
        sizes = _known_sizes(info)
        self._first = NativeEngine(
            path,
            sizes=sizes,
            threads=options.threads,
            dense=options.dense,
            lock=options.lock,
        )
        self.runtime = self._first.runtime
        self.description = self._first.description
        self._open: OrderedDict[Sizes, NativeEngine] = OrderedDict(
            {tuple(sorted(sizes.items())): self._first}
        )
        self._lock = threading.Lock()

    def check(self) -> None:
        """As `NativeEngine.check`."""
        self._first.check()

    def run(self, inputs: Mapping[str, ValueArray]) -> dict[str, FloatArray]:
        """Outputs by name. Raises InputError as `NativeEngine.run`, also for sizes it refuses."""
        return self._of(inputs).run(inputs)

    def run_ranked(
        self, context: Mapping[str, ValueArray], candidates: Mapping[str, ValueArray]
    ) -> dict[str, FloatArray]:
        """As `NativeEngine.run_ranked`. Raises InputError as `run`."""
        return self._of({**candidates, **context}).run_ranked(context, candidates)

    def profile(
        self, context: Mapping[str, ValueArray], candidates: Mapping[str, ValueArray]
    ) -> tuple[int, list[tuple[int, int, int]]]:
        """As `NativeEngine.profile`. Raises InputError as `run`."""
        return self._of({**candidates, **context}).profile(context, candidates)

    def _of(self, inputs: Mapping[str, ValueArray]) -> NativeEngine:
        """The engine for the sizes of a checked request; the one used longest ago makes room."""
        sizes = {
            size: inputs[name].shape[axis]
            for name, axes in self._axes.items()
            for axis, size in axes.items()
        }
        key = tuple(sorted(sizes.items()))
        with self._lock:
            engine = self._open.get(key)
            if engine is None:
                engine = self._resized(sizes)
                self._open[key] = engine
                if len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(key)
        return engine

    def _resized(self, sizes: Mapping[str, int]) -> NativeEngine:
        try:
            return self._first.resized(sizes)
        except (FileFormatError, UnsupportedError) as error:
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise InputError(f"the model does not take the sizes {given}: {error}") from error


def has_free_axes(info: ModelInfo) -> bool:
    """Whether an input has an axis of free size beside the rows."""
    return any(isinstance(size, str) for item in info.inputs for size in item.shape[1:])


def _known_sizes(info: ModelInfo) -> dict[str, int]:
    """Sizes of the free axes by name: those of the test vectors, which the source model took."""
    sizes: dict[str, int] = {}
    for item in info.inputs:
        given = info.vectors.inputs.get(item.name) if info.vectors is not None else None
        for axis, size in enumerate(item.shape[1:], 1):
            if isinstance(size, str):
                fits = given is not None and given.ndim == len(item.shape)
                sizes[size] = given.shape[axis] if given is not None and fits else PROBED_SIZE
    return sizes
