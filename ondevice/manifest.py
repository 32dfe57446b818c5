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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ondevice.errors import FileFormatError, SpecError
from ondevice.limits import (
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_FILES,
    MAX_MANIFEST_SIGNATURES,
    MAX_MANIFEST_VERSION,
)
from ondevice.strict_json import parse_strictly

NAME = "manifest.json"
KIND = "ondevice model set"
FORMAT = 1
TIME = "%Y-%m-%dT%H:%M:%SZ"
HASHED_BYTES = 2**20  # at once

_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_START = b'{"signed":'
_MIDDLE = b',"signatures":'


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
            "expires": None if self.expires is None else _time_text(self.expires),
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
class Signature:
    """A signature and the identifier of its key, both in hexadecimal."""

    keyid: str
    sig: str


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
        listed = [{"keyid": item.keyid, "sig": item.sig} for item in self.signatures]
        signatures = json.dumps(listed, separators=(",", ":")).encode()
        return _START + self.signed_bytes + _MIDDLE + signatures + b"}\n"


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
    if len(data) > MAX_MANIFEST_BYTES:
        raise FileFormatError(f"{where}: a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    try:
        content = parse_strictly(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: is not valid JSON: {error}") from error
    _check_keys(content, {"signed", "signatures"}, where)
    return Manifest(
        _model_set(content["signed"], f"{where}: signed"),
        _signed_span(data, content["signed"], where),
        _signatures(content["signatures"], where),
    )


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


def is_plain_name(name: str) -> bool:
    """Whether a text is a file name that stays in its folder on every system."""
    if not name or len(name.encode("utf-8", "replace")) > 255 or name in (".", "..", NAME):
        return False
    return name.isprintable() and not set(name) & set('/\\:*?"<>|')


def _signed_span(data: bytes, signed: Any, where: str) -> bytes:
    """The bytes of the value of "signed". Raises FileFormatError unless laid out as documented."""
    start = data.find(_START)
    end = data.rfind(_MIDDLE)
    if start != 0 or end < 0:
        raise FileFormatError(f'{where}: expected {{"signed":...,"signatures":...}}, written so')
    span = data[len(_START) : end]
    try:
        parsed = parse_strictly(span)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f'{where}: "signed" is not followed by "signatures"') from error
    if parsed != signed:
        raise FileFormatError(f'{where}: "signed" is not followed by "signatures"')
    return span


def _model_set(data: Any, where: str) -> ModelSet:
    """The value of "signed". Raises FileFormatError that begins with `where`."""
    _check_keys(data, {"kind", "format", "version", "expires", "files"}, where)
    if data["kind"] != KIND:
        _refuse(where, f"kind must be {KIND!r}, got {data['kind']!r}")
    if type(data["format"]) is not int or data["format"] != FORMAT:
        _refuse(where, f"format must be {FORMAT}, got {data['format']!r}")
    version = data["version"]
    if type(version) is not int or not 1 <= version <= MAX_MANIFEST_VERSION:
        _refuse(where, f"version must be 1..{MAX_MANIFEST_VERSION}, got {version!r}")
    files = data["files"]
    if not isinstance(files, dict) or not 1 <= len(files) <= MAX_MANIFEST_FILES:
        _refuse(where, f"files must be an object of 1 to {MAX_MANIFEST_FILES} files")
    records = {name: _file_record(name, item, where) for name, item in files.items()}
    expires = None if data["expires"] is None else _time(data["expires"], where)
    return ModelSet(records, version, expires)


def _file_record(name: str, item: Any, where: str) -> FileRecord:
    if not is_plain_name(name):
        _refuse(where, f"{name!r} is not a plain file name")
    where = f"{where}: file {name!r}"
    _check_keys(item, {"length", "sha256"}, where)
    length, sha256 = item["length"], item["sha256"]
    if type(length) is not int or not 0 <= length < 2**63:
        _refuse(where, f"length must be 0..{2**63 - 1}, got {length!r}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        _refuse(where, f"sha256 must be 64 digits 0-9, a-f, got {sha256!r}")
    return FileRecord(length, sha256)


def _signatures(data: Any, where: str) -> tuple[Signature, ...]:
    if not isinstance(data, list) or len(data) > MAX_MANIFEST_SIGNATURES:
        _refuse(where, f"signatures must be a list of up to {MAX_MANIFEST_SIGNATURES}")
    for item in data:
        _check_keys(item, {"keyid", "sig"}, f"{where}: signature")
        for key, value in item.items():
            if not isinstance(value, str) or not _HEX.fullmatch(value):
                _refuse(where, f"signature: {key} must be hexadecimal, got {value!r}")
    return tuple(Signature(**item) for item in data)


def _time(text: Any, where: str) -> datetime:
    if isinstance(text, str) and _TIME.fullmatch(text):
        try:
            return datetime.strptime(text, TIME).replace(tzinfo=UTC)
        except ValueError:
            pass
    return _refuse(where, f"expires must be null or like 2027-01-01T00:00:00Z, got {text!r}")


def _time_text(time: datetime) -> str:
    """A time as the manifest writes it. Raises SpecError: it has no time zone."""
    if time.tzinfo is None:
        raise SpecError(f"expires must have a time zone, got {time.isoformat()}")
    return time.astimezone(UTC).replace(microsecond=0).strftime(TIME)


def _check_keys(data: Any, keys: set[str], where: str) -> None:
    if not isinstance(data, dict) or data.keys() != keys:
        actual = sorted(data) if isinstance(data, dict) else type(data).__name__
        _refuse(where, f"expected an object with the keys {sorted(keys)}, got {actual}")


def _refuse(where: str, reason: str) -> NoReturn:
    raise FileFormatError(f"{where}: {reason}")
