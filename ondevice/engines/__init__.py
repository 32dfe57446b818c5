"""The engines: one interface over the runtimes that execute model files."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ondevice.engines.columns import by_columns
from ondevice.engines.options import ENGINES, ENGINES_OF_SUFFIX, Options
from ondevice.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    OnDeviceError,
    UnsupportedError,
)
from ondevice.info import ModelInfo
from ondevice.publish import finish

__all__ = [
    "CLOSED",
    "ENGINES",
    "ENGINES_OF_SUFFIX",
    "Checkable",
    "Engine",
    "Refusing",
    "open_engine",
]


class Engine(Protocol):
    """Executes one model file; safe to use from several threads."""

    runtime: str

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name for checked IDs by input name."""


@runtime_checkable
class Checkable(Protocol):
    """An engine that may have left bytes of its file unchecked when it opened it."""

    def check(self) -> None:
        """Compare every byte in use with the checksums. Raises FileFormatError."""


class Refusing:
    """What a model that is closed or damaged has instead of an engine."""

    runtime = "closed"

    def __init__(self, error: OnDeviceError) -> None:
        """Take what every request raises."""
        self._error = error

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Raises the error."""
        raise type(self._error)(str(self._error))  # anew: threads do not share its traceback

    def check(self) -> None:
        """Raises the error."""
        self.run({})


CLOSED: Engine = Refusing(InputError("the model is closed"))


def open_engine(
    path: Path, options: Options, copies: Mapping[str, Path] | None = None
) -> tuple[str, Engine, ModelInfo]:
    """Open a model file: the chosen engine's name, the engine, the file's description.

    Args:
        path: the model file.
        options: as `ondevice.load` was given them.
        copies: where to read the model's files instead, by name; they may vanish afterwards.

    Raises:
        FileFormatError: no such file, an unknown suffix, a damaged file, or one of an interrupted
            update that this process cannot finish.
        InputError: options that do not exist, or that this kind of file or the engine cannot do.
        LockError: the system does not let the model be locked.
        MissingDependencyError: the engine's runtime is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in ENGINES_OF_SUFFIX:
        known = ", ".join(sorted(ENGINES_OF_SUFFIX))
        what = "a folder, not a model file" if path.is_dir() else "unknown kind of model file"
        raise FileFormatError(f"{path}: {what}; expected one of {known}")
    finish(path.parent)
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file")
    options.check(suffix)
    fitting = ENGINES_OF_SUFFIX[suffix]
    file = path if copies is None else copies[path.name]
    if options.engine == "auto" and len(fitting) > 1 and not options.lock:
        return _open_best(file, options)
    chosen = fitting[0] if options.engine == "auto" else options.engine
    return chosen, *_open(file, chosen, options, copies)


def _open_best(path: Path, options: Options) -> tuple[str, Engine, ModelInfo]:
    """Open a native file in the C engine; if that cannot run it, in numpy, with a warning."""
    try:
        return "native", *_open(path, "native", options)
    except MissingDependencyError as error:
        _warn_once(str(error))
    except UnsupportedError as error:
        warnings.warn(f"{error}; the slower numpy engine runs it", RuntimeWarning, stacklevel=4)
    return "numpy", *_open(path, "numpy", options)


@functools.cache
def _warn_once(fault: str) -> None:
    """Warn once per process, since the fault is the installation's, not a file's."""
    warnings.warn(f"{fault}; the slower numpy engine runs models", RuntimeWarning, stacklevel=5)


def _open(
    path: Path, engine: str, options: Options, copies: Mapping[str, Path] | None = None
) -> tuple[Engine, ModelInfo]:
    """Open a file in an engine."""
    if engine == "onnx":
        from ondevice.engines.onnx import OnnxEngine

        onnx_engine = OnnxEngine(path, options.threads, copies)
        info = ModelInfo.from_bytes(onnx_engine.description)
        return by_columns(onnx_engine, [item.name for item in info.inputs]), info
    if engine == "tflite":
        from ondevice.engines.tflite import TfliteEngine
        from ondevice.tflite_file import read_info, read_verified

        data = read_verified(path)
        info = ModelInfo.from_bytes(read_info(path, data))
        engine_of_file = TfliteEngine(path, options.threads, data=data)
        return by_columns(engine_of_file, [item.name for item in info.inputs]), info
    if engine == "native":
        return _open_native(path, options)
    from ondevice.engines.numpy import NumpyEngine
    from ondevice.odm import open_odm

    opened = open_odm(path)
    return NumpyEngine(opened, options.dense), opened.info


def _open_native(path: Path, options: Options) -> tuple[Engine, ModelInfo]:
    from ondevice.engines.native import NativeEngine
    from ondevice.engines.native_sizes import SizedNativeEngine, has_free_axes
    from ondevice.odm import open_odm

    native: NativeEngine | SizedNativeEngine
    try:
        try:
            native = NativeEngine(
                path, threads=options.threads, dense=options.dense, lock=options.lock
            )
        except UnsupportedError:
            info = open_odm(path, full_check=False).info
            if not has_free_axes(info):
                raise
            native = SizedNativeEngine(path, info, options)
    except ImportError as error:
        raise MissingDependencyError(
            "the native engine is not compiled in this installation of ondevice"
        ) from error
    return native, ModelInfo.from_bytes(native.description)
