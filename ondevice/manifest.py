"""The manifest of a set of model files: version, expiry, length and SHA-256 of every file.

manifest.json lies in a folder beside the files that it lists:

    {"signed": {"expires": null, "files": {"model.odm": {"length": 1, "sha256": "hex"}},
                "format": 1, "kind": "ondevice model set", "version": 1},
     "signatures": [{"keyid": "hex", "sig": "hex"}]}

Signatures are over the bytes of the value of "signed" as they stand in the file, so that no
verifier has to write JSON in a canonical way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from ondevice.errors import FileFormatError, SpecError
from ondevice.limits import MAX_MANIFEST_BYTES, MAX_MANIFEST_FILES
from ondevice.signed_json import (
    START,
    Signature,
    check_keys,
    expiry_text,
    parse_signed,
    read_expiry,
    read_version,
    refuse,
    signed_json_bytes,
)

NAME = "manifest.json"
KIND = "ondevice model set"
FORMAT = 1
HASHED_BYTES = 2**20  # at once

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of a file: its bytes, and their SHA-256 in hexadecimal."""

    length: int
    sha256: str


@dataclass(frozen=True)
class ModelSet:
    """What is signed.

    Attributes:
        files: by name, which is a plain file name in the manifest's folder.
        version: grows with every new set, from 1 on.
        expires: after this time (UTC, whole seconds) the set must not be used; None: never.
    """

    files: Mapping[str, FileRecord]
    version: int = 1
    expires: datetime | None = None

    def to_bytes(self) -> bytes:
        """The bytes that are signed: compact JSON with sorted keys.

        Raises:
            SpecError: a name, a length, a hash, the version or the expiry is not allowed; see
                `parse_manifest`.
        """
        data = {
            "kind": KIND,
            "format": FORMAT,
            "version": self.version,
            "expires": expiry_text(self.expires),
            "files": {
                name: {"length": file.length, "sha256": file.sha256}
                for name, file in self.files.items()
            },
        }
        try:
            _model_set(data, "the set")
        except FileFormatError as error:
            raise SpecError(str(error)) from error
        return json.dumps(data, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was read.

    Attributes:
        signed_bytes: the value of "signed" as it stands in the file; signatures are over these.
    """

    model_set: ModelSet
    signed_bytes: bytes
    signatures: tuple[Signature, ...] = field(default=())

    def to_bytes(self) -> bytes:
        """The whole file."""
        return signed_json_bytes(self.signed_bytes, self.signatures)


def new_manifest(model_set: ModelSet, signatures: Iterable[Signature] = ()) -> Manifest:
    """The manifest of a set. Raises SpecError, as `ModelSet.to_bytes`."""
    return Manifest(model_set, model_set.to_bytes(), tuple(signatures))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file.

    Raises:
        FileFormatError: there is no such file, or it cannot be read; see `parse_manifest`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such manifest") from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest strictly.

    Args:
        data: the whole file.
        where: begins the text of errors.

    Raises:
        FileFormatError: no JSON, unknown or missing keys, a wrong type, a name that is not a plain
            file name, another kind or format, or more than a limit allows.
    """
    document = parse_signed(data, where)
    model_set = _model_set(document.value, f"{where}: signed")
    return Manifest(model_set, document.signed_bytes, document.signatures)


def record(path: Path) -> FileRecord:
    """Length and SHA-256 of a file. Raises FileFormatError: it cannot be read."""
    try:
        with path.open("rb") as file:
            return record_of(file)
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file") from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error


def record_of(file: BinaryIO) -> FileRecord:
    """Length and SHA-256 of what is left to read of a binary file. Raises OSError."""
    digest, length = hashlib.sha256(), 0
    while part := file.read(HASHED_BYTES):
        digest.update(part)
        length += len(part)
    return FileRecord(length, digest.hexdigest())


def check_file(path: Path, expected: FileRecord) -> None:
    """Compare a file with what the manifest says of it.

    Raises:
        FileFormatError: it cannot be read, or has another length or SHA-256.
    """
    try:
        length = path.stat().st_size
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    if length != expected.length:
        raise FileFormatError(
            f"{path}: has {length} bytes, its manifest says {expected.length}: cut off, or of "
            "another set"
        )
    if (actual := record(path).sha256) != expected.sha256:
        raise FileFormatError(
            f"{path}: its SHA-256 is {actual}, its manifest says {expected.sha256}: damaged, or of "
            "another set"
        )


def check(manifest: Manifest, folder: Path, names: Iterable[str] | None = None) -> None:
    """Compare files of a folder with the manifest.

    Args:
        manifest: of the set.
        folder: where the files are.
        names: which files; by default all that the manifest lists.

    Raises:
        FileFormatError: a file is missing, not listed, or has another length or SHA-256.
    """
    files = manifest.model_set.files
    for name in files if names is None else names:
        if name not in files:
            raise FileFormatError(f"{folder / name}: the manifest beside it does not list it")
        check_file(folder / name, files[name])


def check_beside(paths: Sequence[Path]) -> None:
    """Compare the files of a model, all in one folder, with the manifest beside them.

    A folder without a manifest, or whose manifest lists none of them, is left alone.

    Raises:
        FileFormatError: a file has another length or SHA-256, or the manifest is damaged.
    """
    folder = paths[0].parent
    path = folder / NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError:
        return
    if START not in data and KIND.encode() not in data:  # the manifest of something else
        return
    listed = parse_manifest(data, str(path))
    if any(item.name in listed.model_set.files for item in paths):
        check(listed, folder, [item.name for item in paths])


def is_plain_name(name: str) -> bool:
    """Whether a text is a file name that stays in its folder on every system."""
    if not name or len(name.encode("utf-8", "replace")) > 255 or name in (".", "..", NAME):
        return False
    return name.isprintable() and not set(name) & set('/\\:*?"<>|')


def _model_set(data: Any, where: str) -> ModelSet:
    """The value of "signed". Raises FileFormatError that begins with `where`."""
    check_keys(data, {"kind", "format", "version", "expires", "files"}, where)
    if data["kind"] != KIND:
        refuse(where, f"kind must be {KIND!r}, got {data['kind']!r}")
    if type(data["format"]) is not int or data["format"] != FORMAT:
        refuse(where, f"format must be {FORMAT}, got {data['format']!r}")
    version = read_version(data["version"], where)
    files = data["files"]
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_MANIFEST_FILES:
        refuse(where, f"files must be an object of 1 to {MAX_MANIFEST_FILES} files")
    records = {name: _file_record(name, item, where) for name, item in files.items()}
    return ModelSet(records, version, read_expiry(data["expires"], where))


def _file_record(name: str, item: Any, where: str) -> FileRecord:
    if not is_plain_name(name):
        refuse(where, f"{name!r} is not a plain file name")
    where = f"{where}: file {name!r}"
    check_keys(item, {"length", "sha256"}, where)
    length, sha256 = item["length"], item["sha256"]
    if type(length) is not int or not 0 <= length < 2**63:
        refuse(where, f"length must be 0..{2**63 - 1}, got {length!r}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        refuse(where, f"sha256 must be 64 digits 0-9, a-f, got {sha256!r}")
    return FileRecord(length, sha256)
