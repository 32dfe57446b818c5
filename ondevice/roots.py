"""Root documents: which keys may sign sets of models, and which may replace the root itself.

A root is a signed document (`ondevice.signed_json`) whose value is

    {"expires": null, "format": 1, "keys": {"keyid": "64 digits, the public key"},
     "kind": "ondevice root", "roles": {"models": {"keyids": ["keyid"], "threshold": 1},
                                        "root": {"keyids": ["keyid"], "threshold": 1}},
     "version": 1}

Version N + 1 is signed by the root role of version N and by its own, as in The Update Framework.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ondevice.errors import FileFormatError, SpecError, TrustError
from ondevice.limits import MAX_MANIFEST_SIGNATURES
from ondevice.signatures import PublicKey, Signers
from ondevice.signed_json import (
    Signature,
    check_keys,
    expiry_text,
    parse_signed,
    read_expiry,
    read_version,
    refuse,
    signed_json_bytes,
)

KIND = "ondevice root"
FORMAT = 1

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RootContent:
    """What a root document says.

    Attributes:
        root: who may sign roots.
        models: who may sign sets of models.
        version: one more than that of the root it replaces, from 1 on.
        expires: after this time the root no longer holds; None: never.
    """

    root: Signers
    models: Signers
    version: int = 1
    expires: datetime | None = None

    def to_bytes(self) -> bytes:
        """The bytes that are signed: compact JSON with sorted keys. Raises SpecError."""
        keys = {key.keyid: key.raw.hex() for key in (*self.root.keys, *self.models.keys)}
        data = {
            "kind": KIND,
            "format": FORMAT,
            "version": self.version,
            "expires": expiry_text(self.expires),
            "keys": keys,
            "roles": {
                name: {"keyids": role.keyids, "threshold": role.threshold}
                for name, role in (("root", self.root), ("models", self.models))
            },
        }
        try:
            _content(data, "the root")
        except FileFormatError as error:
            raise SpecError(str(error)) from error
        return json.dumps(data, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True)
class Root:
    """A root document as it was read, its signatures unchecked.

    Attributes:
        signed_bytes: what is signed, as it stands in the file.
    """

    content: RootContent
    signed_bytes: bytes
    signatures: tuple[Signature, ...] = ()

    def to_bytes(self) -> bytes:
        """The whole file."""
        return signed_json_bytes(self.signed_bytes, self.signatures)

    def check_itself(self, where: str) -> None:
        """Raise TrustError unless its own root role has signed it."""
        self.content.root.check(self.signed_bytes, self.signatures, where)

    def check_next(self, following: Root, where: str) -> None:
        """Check the root that replaces this one.

        Raises:
            TrustError: not the next version, or not signed by the root roles of both.
        """
        expected = self.content.version + 1
        if following.content.version != expected:
            raise TrustError(
                f"{where}: version {following.content.version} of the root, expected {expected}"
            )
        self.content.root.check(
            following.signed_bytes, following.signatures, f"{where}: by the root it replaces"
        )
        following.check_itself(where)


def new_root(content: RootContent, signatures: Iterable[Signature] = ()) -> Root:
    """The document of a root. Raises SpecError."""
    return Root(content, content.to_bytes(), tuple(signatures))


def parse_root(data: bytes, where: str) -> Root:
    """Read a root document strictly; its signatures stay unchecked. Raises FileFormatError."""
    document = parse_signed(data, where)
    content = _content(document.value, f"{where}: signed")
    return Root(content, document.signed_bytes, document.signatures)


def _content(data: Any, where: str) -> RootContent:
    """The value of "signed". Raises FileFormatError that begins with `where`."""
    check_keys(data, {"kind", "format", "version", "expires", "keys", "roles"}, where)
    if data["kind"] != KIND:
        refuse(where, f"kind must be {KIND!r}, got {data['kind']!r}")
    if type(data["format"]) is not int or data["format"] != FORMAT:
        refuse(where, f"format must be {FORMAT}, got {data['format']!r}")
    keys = _keys(data["keys"], where)
    roles = data["roles"]
    check_keys(roles, {"root", "models"}, f"{where}: roles")
    return RootContent(
        _role(roles["root"], keys, f"{where}: role root"),
        _role(roles["models"], keys, f"{where}: role models"),
        read_version(data["version"], where),
        read_expiry(data["expires"], where),
    )


def _keys(data: Any, where: str) -> dict[str, PublicKey]:
    if not isinstance(data, dict) or len(data) > 2 * MAX_MANIFEST_SIGNATURES:
        refuse(where, f"keys must be an object of up to {2 * MAX_MANIFEST_SIGNATURES} keys")
    keys = {}
    for keyid, text in data.items():
        if not isinstance(text, str) or not _KEY.fullmatch(text):
            refuse(where, f"a key must be 64 digits 0-9, a-f, got {text!r}")
        keys[keyid] = PublicKey(bytes.fromhex(text))
        if keys[keyid].keyid != keyid:
            refuse(where, f"{keyid!r} is not the SHA-256 of its key")
    return keys


def _role(data: Any, keys: dict[str, PublicKey], where: str) -> Signers:
    check_keys(data, {"keyids", "threshold"}, where)
    keyids, threshold = data["keyids"], data["threshold"]
    if not isinstance(keyids, list) or not 1 <= len(keyids) <= MAX_MANIFEST_SIGNATURES:
        refuse(where, f"keyids must be a list of 1 to {MAX_MANIFEST_SIGNATURES}")
    for keyid in keyids:
        if not isinstance(keyid, str) or keyid not in keys:
            refuse(where, f"no key {keyid!r}")
    if len(set(keyids)) != len(keyids):
        refuse(where, "a key is named twice")
    if type(threshold) is not int or not 1 <= threshold <= len(keyids):
        refuse(where, f"threshold must be 1..{len(keyids)}, got {threshold!r}")
    return Signers(tuple(keys[keyid] for keyid in keyids), threshold)
