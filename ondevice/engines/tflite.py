"""Runs a .tflite file in LiteRT (ai-edge-litert), or in its predecessor tflite-runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.engines.quiet import without_start_line
from ondevice.errors import FileFormatError, InputError, MissingDependencyError
from ondevice.held_bytes import FileBytes, are_mapped
from ondevice.tflite_file import check_structure, read_verified

RUNTIMES = ("ai-edge-litert", "tflite-runtime")  # by package, the preferred one first


class TfliteEngine:
    """One interpreter, which runs one request at a time: threads wait for one another.

    Attributes:
        runtime: which package runs the file, and its version.
        input_names: of the file.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        runtime: str | None = None,
        data: FileBytes | None = None,
    ) -> None:
        """Read the file as private memory, which nobody can truncate or overwrite, and check it.

        Args:
            path: the .tflite file.
            threads: for one request.
            runtime: one of RUNTIMES; None takes the first that is installed.
            data: what `read_verified` has read already.

        Raises:
            FileFormatError: the file is damaged, or needs what the runtime lacks.
            MissingDependencyError: no TFLite runtime is installed, or it cannot run with the
                installed numpy.
        """
        make_interpreter, self.runtime = _runtime(runtime)
        data = read_verified(path) if data is None else data
        model = {"model_path": str(path)} if are_mapped() else {"model_content": data}
        check_structure(path, data)  # the runtimes follow a damaged file's offsets and crash
        try:
            self._interpreter = make_interpreter(**model, num_threads=threads)
            with without_start_line():
                self._interpreter.allocate_tensors()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except (RuntimeError, ValueError) as error:
            raise FileFormatError(
                f"{path}: {self.runtime} cannot open it: {_one_line(error)}"
            ) from error
        self.input_names = [item["name"] for item in inputs]
        self._inputs: dict[str, int] = {item["name"]: item["index"] for item in inputs}
        self._outputs: dict[str, int] = {item["name"]: item["index"] for item in outputs}
        self._shapes = {item["name"]: tuple(item["shape"].tolist()) for item in inputs}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name, as copies.

        Raises:
            InputError: an input is missing, or the runtime rejects the request (a shape, or an
                ID outside a table without an out-of-vocabulary row).
        """
        if missing := [name for name in self._inputs if name not in inputs]:
            raise InputError(f"missing inputs: {', '.join(missing)}")
        with self._lock:
            try:
                self._resize(inputs)
                for name, index in self._inputs.items():
                    self._interpreter.set_tensor(index, inputs[name])
                self._interpreter.invoke()
                return {name: self._interpreter.get_tensor(i) for name, i in self._outputs.items()}
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"{self.runtime} rejects the request: {_one_line(error)}"
                ) from error

    def _resize(self, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        shapes = {name: inputs[name].shape for name in self._inputs}
        if shapes == self._shapes:
            return
        self._shapes = {}  # unknown until every step below has succeeded
        for name, index in self._inputs.items():
            self._interpreter.resize_tensor_input(index, shapes[name], strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def _runtime(wanted: str | None) -> tuple[Any, str]:
    """The interpreter class to use, with the name and version of its package."""
    if wanted != "tflite-runtime":
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            if wanted is not None:
                raise MissingDependencyError(
                    "ai-edge-litert is not installed: pip install 'ondevice-ctr[tflite]'"
                ) from None
        else:
            return Interpreter, f"ai-edge-litert {metadata.version('ai-edge-litert')}"
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError:
        extra = "tflite" if wanted in (None, "ai-edge-litert") else "tflite-legacy"
        raise MissingDependencyError(
            f"running a .tflite file needs the package {wanted or 'ai-edge-litert'!r}: "
            f"pip install 'ondevice-ctr[{extra}]'"
        ) from None
    if int(np.__version__.split(".")[0]) >= 2:
        raise MissingDependencyError(
            f"tflite-runtime needs numpy 1, but numpy {np.__version__} is installed: "
            "pip install 'ondevice-ctr[tflite]' for its successor, or 'numpy<2'"
        )
    return Interpreter, f"tflite-runtime {metadata.version('tflite-runtime')}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
