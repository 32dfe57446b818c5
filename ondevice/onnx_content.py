"""Reads an .onnx file written by ondevice, its data and its description, by digests in the file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ondevice.deflated import inflate
from ondevice.errors import FileFormatError
from ondevice.held_bytes import FileBytes, read_file, sha256
from ondevice.onnx_file import OnnxStructure, check_external, check_structure
from ondevice.publish import finish
from ondevice.sealed import check_seal, sha256_at

METADATA_KEY = "ondevice.description"  # base64 of a deflated description, in a file with a digest
UNSEALED_METADATA_KEY = "ondevice.info"  # the same, in a file without a digest
OLD_METADATA_KEY = "ondevice"  # JSON of version 1
SEAL_KEY = "ondevice.sha256"  # the file's digest (`ondevice.sealed`), DATA_MARK, the data's digest
DATA_MARK = b",data-sha256:"
ATTEMPTS = 3  # to read a file and its data while another process replaces both


@dataclass(frozen=True)
class OnnxContent:
    """An .onnx file in memory.

    Attributes:
        model: its bytes.
        data: those of its files of external data, by name.
        description: see `ModelInfo.from_bytes`.
    """

    model: FileBytes
    data: dict[str, FileBytes]
    description: bytes


def read_onnx(path: Path, copies: Mapping[str, Path] | None = None) -> OnnxContent:
    """Read a file and its data, and check both, so that a runtime may open them.

    Args:
        path: the .onnx file, or a copy of it.
        copies: where files of external data are, by name; by default beside the file.

    Raises:
        FileFormatError: one is missing or damaged, they are of different conversions, or the file
            holds what ondevice does not write.
    """
    model, structure, data, sealed = _read(path, copies)
    description = _description(path, structure.metadata, sealed)
    if structure.with_graphs:
        names = ", ".join(sorted(structure.with_graphs))
        raise FileFormatError(f"{path}: holds graphs inside {names}, which ondevice does not write")
    return OnnxContent(model, data, description)


def _read(
    path: Path, copies: Mapping[str, Path] | None
) -> tuple[FileBytes, OnnxStructure, dict[str, FileBytes], bool]:
    """A file, its structure, its external data by name, and whether digests were compared."""
    for attempt in range(ATTEMPTS):
        model = read_file(path)
        end = check_seal(path, model)
        structure = check_structure(path, model)
        data = {name: read_file(_located(path, name, copies)) for name in structure.external}
        for name, content in data.items():
            check_external(path, structure, name, len(content))
        if end is None:
            return model, structure, data, False
        expected = sha256_at(model, end + len(DATA_MARK))
        if all(sha256(item) == expected for item in data.values()):
            return model, structure, data, True
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
