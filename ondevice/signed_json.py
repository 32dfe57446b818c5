"""The frame of a signed document: the bytes that are signed, and the signatures over them.

A document is {"signed":VALUE,"signatures":[{"keyid":"hex","sig":"hex"}]}, written just so.
Signatures are over the bytes of VALUE as they stand in the file, so that no verifier has to write
JSON in a canonical way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from ondevice.errors import FileFormatError, SpecError
from ondevice.limits import (
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_SIGNATURES,
    MAX_MANIFEST_VERSION,
    MAX_SIGNATURES_BYTES,
)
from ondevice.strict_json import parse_strictly

# What every signed document begins with.
START = b'{"signed":'
TIME = "%Y-%m-%dT%H:%M:%SZ"

_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MIDDLE = b',"signatures":'


@dataclass(frozen=True)
class Signature:
    """A signature and the identifier of its key, both in hexadecimal."""

    keyid: str
    sig: str


@dataclass(frozen=True)
class SignedJson:
    """A signed document as it was read; whether the signatures are valid is not known.

    Attributes:
        value: what is signed.
        signed_bytes: the same, as it stands in the file; signatures are over these.
        signatures: of different keys.
    """

    value: Any
    signed_bytes: bytes
    signatures: tuple[Signature, ...]


def parse_signed(data: bytes, where: str) -> SignedJson:
    """Read a signed document strictly.

    Args:
        data: the whole file.
        where: begins the text of errors.

    Raises:
        FileFormatError: no JSON, unknown or missing keys, a wrong type, two signatures of a key,
            or more than a limit allows.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        refuse(where, f"a signed document has at most {MAX_MANIFEST_BYTES} bytes")
    content = _parsed(data, f"{where}: is not valid JSON")
    check_keys(content, {"signed", "signatures"}, where)
    return SignedJson(
        content["signed"],
        _signed_span(data, content["signed"], where),
        _signatures(content["signatures"], where),
    )


def signed_json_bytes(signed_bytes: bytes, signatures: Iterable[Signature]) -> bytes:
    """The file of a signed document."""
    listed = [{"keyid": item.keyid, "sig": item.sig} for item in signatures]
    text = json.dumps(listed, separators=(",", ":")).encode()
    return START + signed_bytes + _MIDDLE + text + b"}\n"


def read_version(version: Any, where: str) -> int:
    """A document's version. Raises FileFormatError."""
    if type(version) is not int or not 1 <= version <= MAX_MANIFEST_VERSION:
        refuse(where, f"version must be 1..{MAX_MANIFEST_VERSION}, got {version!r}")
    return version


def read_expiry(text: Any, where: str) -> datetime | None:
    """The time after which a document no longer holds; None: never. Raises FileFormatError."""
    if text is None:
        return None
    if isinstance(text, str) and _TIME.fullmatch(text):
        try:
            return datetime.strptime(text, TIME).replace(tzinfo=UTC)
        except ValueError:
            pass
    return refuse(where, f"expires must be null or like 2027-01-01T00:00:00Z, got {text!r}")


def expiry_text(time: datetime | None) -> str | None:
    """A time as documents write it. Raises SpecError: it has no time zone."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise SpecError(f"expires must have a time zone, got {time.isoformat()}")
    return time.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def check_keys(data: Any, keys: set[str], where: str) -> None:
    """Raise FileFormatError unless `data` is an object with exactly these keys."""
    if not isinstance(data, dict) or data.keys() != keys:
        actual = sorted(data) if isinstance(data, dict) else type(data).__name__
        refuse(where, f"expected an object with the keys {sorted(keys)}, got {actual}")


def refuse(where: str, reason: str) -> NoReturn:
    """Raise FileFormatError."""
    raise FileFormatError(f"{where}: {reason}")


def _parsed(data: bytes, fault: str) -> Any:
    try:
        return parse_strictly(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{fault}: {error}") from error


def _signed_span(data: bytes, signed: Any, where: str) -> bytes:
    """The bytes of the value of "signed". Raises FileFormatError unless laid out as documented."""
    start = data.find(START)
    end = data.rfind(_MIDDLE)
    if start != 0 or end < 0:
        refuse(where, 'expected {"signed":...,"signatures":...}, written so')
    if len(data.rstrip(b" \t\r\n")) - end > MAX_SIGNATURES_BYTES:
        refuse(where, f"signatures take at most {MAX_SIGNATURES_BYTES} bytes")
    span = data[len(START) : end]
    fault = f'{where}: "signed" is not followed by "signatures"'
    if _parsed(span, fault) != signed:
        raise FileFormatError(fault)
    return span


def _signatures(data: Any, where: str) -> tuple[Signature, ...]:
    if not isinstance(data, list) or len(data) > MAX_MANIFEST_SIGNATURES:
        refuse(where, f"signatures must be a list of up to {MAX_MANIFEST_SIGNATURES}")
    for item in data:
        check_keys(item, {"keyid", "sig"}, f"{where}: signature")
        for key, value in item.items():
            if not isinstance(value, str) or not _HEX.fullmatch(value):
                refuse(where, f"signature: {key} must be hexadecimal, got {value!r}")
    if len({item["keyid"] for item in data}) != len(data):
        refuse(where, "two signatures of one key")
    return tuple(Signature(**item) for item in data)
