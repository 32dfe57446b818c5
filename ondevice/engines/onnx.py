"""Runs an .onnx file in stock ONNX Runtime."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.deflated import inflate
from ondevice.errors import FileFormatError, InputError, needs_extra

METADATA_KEY = "ondevice.info"  # base64 of a deflated description
OLD_METADATA_KEY = "ondevice"  # JSON of version 1


class OnnxEngine:
    """One ONNX Runtime session on the CPU; sessions may be run from several threads."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open by path, so that tables in the external data file are mapped, not read."""
        with needs_extra("running an .onnx file", "onnx"):
            import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # a failed request is raised
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise FileFormatError(
                f"{path}: ONNX Runtime cannot open it: {_one_line(error)}"
            ) from error
        self.runtime = f"onnxruntime {ort.__version__}"
        self.description = _description(path, self._session.get_modelmeta().custom_metadata_map)
        self.input_names = [item.name for item in self._session.get_inputs()]
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name. Raises InputError when the runtime rejects the request."""
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            raise InputError(f"ONNX Runtime rejects the request: {_one_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))


def _description(path: Path, metadata: Mapping[str, str]) -> bytes:
    """The description of a file with this metadata. Raises FileFormatError."""
    if METADATA_KEY not in metadata:
        if OLD_METADATA_KEY not in metadata:
            raise FileFormatError(f"{path}: an ONNX file, but not one written by ondevice")
        return metadata[OLD_METADATA_KEY].encode()
    try:
        packed = base64.b64decode(metadata[METADATA_KEY], validate=True)
    except ValueError as error:
        raise FileFormatError(f"{path}: its description is not base64: {error}") from error
    return inflate(packed, f"{path}: its description")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
