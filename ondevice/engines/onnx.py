"""Runs an .onnx file in stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import FileFormatError, InputError, needs_extra
from ondevice.held_bytes import FileBytes, are_mapped
from ondevice.onnx_content import read_onnx
from ondevice.temporary import temporary_folder


class OnnxEngine:
    """One ONNX Runtime session on the CPU; sessions may be run from several threads."""

    def __init__(
        self, path: Path, threads: int = 1, copies: Mapping[str, Path] | None = None
    ) -> None:
        """Read the file and its data as private memory, compare their digests, open a session.

        Args:
            path: the .onnx file, or a copy of it.
            threads: for one request.
            copies: where files of external data are, by name; by default beside the file.

        Raises:
            FileFormatError: damaged, of different conversions, or nothing ONNX Runtime can open.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        with needs_extra("running an .onnx file", "onnx"):
            import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a failed request is raised
        content = read_onnx(path, copies)
        try:
            self._session = _open_session(
                ort.InferenceSession, path, options, content.model, content.data
            )
            self._outputs = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise FileFormatError(
                f"{path}: ONNX Runtime cannot open it: {_one_line(error)}"
            ) from error
        self.runtime = f"onnxruntime {ort.__version__}"
        self.description = content.description
        self.input_names = [item.name for item in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name. Raises InputError when the runtime rejects the request."""
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise InputError(f"ONNX Runtime rejects the request: {_one_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))


def _open_session(
    session: Any, path: Path, options: Any, model: FileBytes, data: Mapping[str, FileBytes]
) -> Any:
    """A session of a file's bytes and of its data's: those that were compared with digests."""
    providers = ["CPUExecutionProvider"]
    if are_mapped():
        return session(str(path), options, providers=providers)
    if not data:
        return session(model, options, providers=providers)
    if hasattr(options, "add_external_initializers_from_files_in_memory"):  # not in 1.23
        options.add_external_initializers_from_files_in_memory(
            list(data), list(data.values()), [len(item) for item in data.values()]
        )
        return session(model, options, providers=providers)
    with temporary_folder() as folder:  # a copy that nobody else knows of
        for name, content in {**data, "model": model}.items():
            (folder / name).write_bytes(content)
        return session(str(folder / "model"), options, providers=providers)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
