"""A model that serves while its file is replaced: requests go on, new ones take the new file."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ondevice.errors import FileFormatError, OnDeviceError
from ondevice.model import Model, Values, load, model_files
from ondevice.model_path import model_path

Identity = tuple[tuple[int, int, int, int], ...]


class Live:
    """The model of a file, which may be replaced at any time by a rename; safe to use from threads.

    A request computes with one model from begin to end. The memory of an old model is released when
    its last request ends. A new file that cannot be opened, or that takes other inputs or gives
    other outputs, leaves the old model in place: `error` says why.

    Attributes:
        path: the file.
        error: why the file that is there now does not serve, or None.
    """

    def __init__(
        self, path: str | Path, *, check_seconds: float | None = 1.0, **options: Any
    ) -> None:
        """Open a model file.

        Args:
            path: an .odm, .onnx or .tflite file.
            options: of `ondevice.load`, for every model that serves.
            check_seconds: a request looks for a new file if none did for so long, and opens it; the
                others go on. None: only `refresh` looks.

        Raises:
            FileFormatError, MissingDependencyError, InputError: as `ondevice.load` does.
        """
        self.path = model_path(path)
        self.error: OnDeviceError | None = None
        self._options = options
        self._check_seconds = check_seconds
        self._lock = threading.Lock()  # of whoever looks for a new file
        self._seen = _identity(self.path)
        self._model = self._open()
        self._next_check = time.monotonic() + (check_seconds or 0)

    @property
    def model(self) -> Model:
        """The model that serves now; whoever holds it keeps its memory."""
        return self._model

    def predict(self, inputs: Mapping[str, Values], *, raw: bool = False) -> Any:
        """`Model.predict` of the model that serves now."""
        return self._checked().predict(inputs, raw=raw)

    def rank(
        self, context: Mapping[str, Values], candidates: Mapping[str, Values], *, raw: bool = False
    ) -> Any:
        """`Model.rank` of the model that serves now."""
        return self._checked().rank(context, candidates, raw=raw)

    def refresh(self) -> bool:
        """Open the file if it is another one than the last that was opened.

        Returns whether another model serves now.

        Raises:
            OnDeviceError: the file cannot serve; the old model goes on. The next call raises it
                too, until the file changes.
        """
        with self._lock:
            changed = self._look()
        if self.error is not None:
            raise self.error
        return changed

    def _checked(self) -> Model:
        """The model for a request, after a look at the file if it is time for one."""
        if self._check_seconds is None or time.monotonic() < self._next_check:
            return self._model
        if self._lock.acquire(blocking=False):  # else another request looks
            try:
                self._look()
                self._next_check = time.monotonic() + self._check_seconds
            finally:
                self._lock.release()
        return self._model

    def _look(self) -> bool:
        """Replace the model if the file is another one; note why if that fails."""
        seen = _identity(self.path)
        if seen == self._seen:
            return False
        self._seen = seen  # before it is opened: a file that comes meanwhile is opened too
        try:
            model = self._open()
            _check_same(self._model, model)
        except (OnDeviceError, OSError, MemoryError) as error:
            fault = error if isinstance(error, OnDeviceError) else FileFormatError(str(error))
            self.error = fault
            warnings.warn(f"the model in use stays: {fault}", RuntimeWarning, stacklevel=4)
            return False
        self._model, self.error = model, None
        return True

    def _open(self) -> Model:
        return load(self.path, **self._options)


def _identity(path: Path) -> Identity:
    """What changes when a file of the model is replaced; empty while one is missing."""
    try:
        stats = [file.stat() for file in model_files(path)]
    except OSError:
        return ()
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)


def _check_same(old: Model, new: Model) -> None:
    """Refuse a model whose requests or results differ. Raises FileFormatError."""
    before, after = (
        ([(item.name, item.shape, item.dtype) for item in model.inputs], model.outputs)
        for model in (old, new)
    )
    if before != after:
        raise FileFormatError(
            f"{new.path}: the new file takes {after[0]} and gives {after[1]}, "
            f"the one in use {before[0]} and {before[1]}"
        )
