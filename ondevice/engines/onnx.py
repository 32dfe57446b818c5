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
from ondevice.held_bytes import FileBytes, are_mapped, read_file, sha256
from ondevice.onnx_file import external_files
from ondevice.publish import finish
from ondevice.sealed import check_seal, sha256_at
from ondevice.temporary import temporary_folder

METADATA_KEY = "ondevice.description"  # base64 of a deflated description, in a file with a digest
UNSEALED_METADATA_KEY = "ondevice.info"  # the same, in a file without a digest
OLD_METADATA_KEY = "ondevice"  # JSON of version 1
SEAL_KEY = "ondevice.sha256"  # the file's digest (`ondevice.sealed`), DATA_MARK, the data's digest
DATA_MARK = b",data-sha256:"
ATTEMPTS = 3  # to read a file and its data while another process replaces both


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
        model, data, sealed = _read(path, copies)
        try:
            self._session = _open_session(ort.InferenceSession, path, options, model, data)
            metadata = self._session.get_modelmeta().custom_metadata_map  # fails on damaged text
            self._outputs = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # onnxruntime has no public base class for its errors
            raise FileFormatError(
                f"{path}: ONNX Runtime cannot open it: {_one_line(error)}"
            ) from error
        self.runtime = f"onnxruntime {ort.__version__}"
        self.description = _description(path, metadata, sealed)
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


def _read(
    path: Path, copies: Mapping[str, Path] | None
) -> tuple[FileBytes, dict[str, FileBytes], bool]:
    """A file, its external data by name, and whether digests were compared.

    Raises:
        FileFormatError: one is missing or damaged, or they are of different conversions.
    """
    for attempt in range(ATTEMPTS):
        model = read_file(path)
        end = check_seal(path, model)
        data = {
            name: read_file(_located(path, name, copies)) for name in external_files(path, model)
        }
        if end is None:
            return model, data, False
        expected = sha256_at(model, end + len(DATA_MARK))
        if all(sha256(item) == expected for item in data.values()):
            return model, data, True
        if attempt < ATTEMPTS - 1:
            finish(path.parent)  # waits for a process that is replacing them
    names = ", ".join(str(path.parent / name) for name in data)
    raise FileFormatError(
        f"{path}: its external data must have the SHA-256 {expected}, but {names} has another: "
        "damaged, or of another conversion"
    )


def _located(path: Path, name: str, copies: Mapping[str, Path] | None) -> Path:
    """Where a file of external data is. Raises FileFormatError: no copy of it was given."""
    if copies is None:
        return path.parent / name
    if name not in copies:
        raise FileFormatError(f"{path}: its external data {name!r} is not signed")
    return copies[name]


def _description(path: Path, metadata: Mapping[str, str], sealed: bool) -> bytes:
    """The description of a file with this metadata. Raises FileFormatError."""
    if METADATA_KEY in metadata and not sealed:
        raise FileFormatError(f"{path}: is damaged: it holds no digest")
    key = METADATA_KEY if METADATA_KEY in metadata else UNSEALED_METADATA_KEY
    if key not in metadata:
        if OLD_METADATA_KEY not in metadata:
            raise FileFormatError(f"{path}: an ONNX file, but not one written by ondevice")
        return metadata[OLD_METADATA_KEY].encode()
    try:
        packed = base64.b64decode(metadata[key], validate=True)
    except ValueError as error:
        raise FileFormatError(f"{path}: its description is not base64: {error}") from error
    return inflate(packed, f"{path}: its description")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
