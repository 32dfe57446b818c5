"""Whom a device trusts: decides whether the set of files in a folder may be used.

A set is used if its manifest is signed by trusted keys, has not expired, and is not older than the
newest set that the device has seen. That version is remembered in a state file of the device, with
the newest root document, so that neither can be turned back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path, make_folder
from ondevice.errors import FileFormatError, InputError, TrustError, writing
from ondevice.limits import MAX_MANIFEST_BYTES
from ondevice.manifest import NAME, Manifest, parse_manifest
from ondevice.publish import locked
from ondevice.roots import Root, parse_root
from ondevice.signatures import PublicKey, Signers, public_keys
from ondevice.signed_json import check_keys, read_version, refuse
from ondevice.strict_json import parse_strictly

# A key, a file of keys (PEM) or a root document, or several keys of which one must have signed.
Keys = PublicKey | Root | str | Path | Sequence[PublicKey | str | Path]

STATE_KIND = "ondevice trust state"
STATE_FORMAT = 2  # 1, which earlier releases wrote, has no `manifest`
STATE_BYTES = 8 * MAX_MANIFEST_BYTES  # a root document as a JSON string may grow sixfold


@dataclass(frozen=True)
class State:
    """What a device remembers.

    Attributes:
        version: the newest set that it used; 0: none yet.
        manifest: SHA-256 of that set's signed content, in hexadecimal; empty: not known.
        keyids: of the keys that might sign that set.
        root: the newest root document that it saw.
    """

    version: int = 0
    keyids: tuple[str, ...] = ()
    root: Root | None = None
    manifest: str = ""

    def to_bytes(self) -> bytes:
        """The state file."""
        root = None if self.root is None else self.root.to_bytes().decode()
        data = {"kind": STATE_KIND, "format": STATE_FORMAT, "version": self.version,
                "keyids": list(self.keyids), "root": root, "manifest": self.manifest}  # fmt: skip
        return json.dumps(data, indent=1).encode() + b"\n"

    def least_version(self, signers: Signers) -> int:
        """The oldest version that these signers may offer.

        If a key was withdrawn, the versions that it signed no longer count: whoever stole it could
        have signed the highest version there is.
        """
        return self.version if set(self.keyids) <= set(signers.keyids) else 0

    def after(self, trusted: TrustedSet) -> State:
        """The state once a set was used. One of an older root changes nothing."""
        root = trusted.root
        if root is None:
            root = self.root
        elif self.root is not None and _newer(root, self.root) is not root:
            return self
        least, version = self.least_version(trusted.signers), trusted.manifest.model_set.version
        digest = self.manifest if least > version else _digest(trusted.manifest)
        return State(max(least, version), tuple(trusted.signers.keyids), root, digest)


@dataclass(frozen=True)
class TrustedSet:
    """A set of files that may be used once the files are as the manifest says."""

    manifest: Manifest
    signers: Signers
    root: Root | None


@dataclass(frozen=True)
class Trust:
    """Whom a device trusts, what it has seen, and what time it is.

    Attributes:
        keys: one of several keys, or a root document.
        state: a file that the device keeps between runs; without it, an old set is as good as a
            new one.
        now: the time; without it, that of the system's clock.
    """

    keys: Signers | Root
    state: Path | None = None
    now: datetime | None = None

    def check(self, folder: Path) -> TrustedSet:
        """Check the manifest of a folder, by the root documents that lie beside it.

        The files it lists are not read.

        Raises:
            TrustError: it is not signed by trusted keys, has expired, or is older than one seen.
            FileFormatError: it is missing or damaged, or the state file is.
            MissingDependencyError: nothing that verifies signatures is installed.
        """
        path = folder / NAME
        return self.check_manifest(parse_manifest(read_document(path), str(path)), folder)

    def check_manifest(self, manifest: Manifest, folder: Path) -> TrustedSet:
        """Check a manifest that was read already; see `check`."""
        state = read_state(self.state)
        root: Root | None = None
        if isinstance(self.keys, Signers):
            signers = self.keys
        else:
            root = self._newest_root(_newer(self.keys, state.root), folder)
            signers = root.content.models
        where = str(folder / NAME)
        signers.check(manifest.signed_bytes, manifest.signatures, where)
        model_set = manifest.model_set
        self._check_time(model_set.expires, where)
        if model_set.version < (least := state.least_version(signers)):
            raise TrustError(
                f"{where}: version {model_set.version} is older than {least}, which was used here"
            )
        if model_set.version == least and state.manifest not in ("", _digest(manifest)):
            raise TrustError(
                f"{where}: another set of version {least} was used here; a new one needs a new "
                "version"
            )
        return TrustedSet(manifest, signers, root)

    def remember(self, trusted: TrustedSet) -> None:
        """Write into the state file that a set was used; a newer state stays as it is.

        Raises:
            OutputError: it cannot be written.
            FileFormatError: it was damaged meanwhile.
        """
        if self.state is None:
            return
        with writing(self.state):
            make_folder(self.state.parent)
            with locked(self.state.parent):
                before = read_state(self.state)
                after = before.after(trusted)
                if after != before:
                    with atomic_path(self.state) as path:
                        path.write_bytes(after.to_bytes())

    def _newest_root(self, root: Root, folder: Path) -> Root:
        """The newest root that this one leads to, through those that lie in the folder."""
        while (path := folder / f"{root.content.version + 1}.root.json").exists():
            following = parse_root(read_document(path), str(path))
            root.check_next(following, str(path))
            root = following
        self._check_time(root.content.expires, f"version {root.content.version} of the root")
        return root

    def _check_time(self, expires: datetime | None, where: str) -> None:
        now = datetime.now(UTC) if self.now is None else self.now
        if expires is not None and now > expires:
            raise TrustError(f"{where}: expired at {expires}, it is {now.replace(microsecond=0)}")


def read_trust(keys: Keys, state: str | Path | None, now: datetime | None) -> Trust:
    """Whom to trust, from what a caller gave.

    Raises:
        FileFormatError: a file cannot be read, or holds neither public keys nor a root document.
        TrustError: a root document is not signed by its own keys.
        InputError: no key, or a time without time zone.
    """
    if now is not None and now.tzinfo is None:
        raise InputError(f"now: expected a time with a time zone, got {now.isoformat()}")
    return Trust(_trusted(keys), None if state is None else Path(state), now)


def read_document(path: Path) -> bytes:
    """The bytes of a small file. Raises FileFormatError: it cannot be read, or is too large."""
    try:
        # without O_NONBLOCK, opening a FIFO waits for its writer
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileFormatError(f"{path}: is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(STATE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > STATE_BYTES:
        raise FileFormatError(f"{path}: more than {STATE_BYTES} bytes")
    return data


def read_public_keys(path: Path) -> tuple[PublicKey, ...]:
    """The keys of a PEM file. Raises FileFormatError: it cannot be read, or holds anything else."""
    return public_keys(read_document(path).decode("utf-8", "replace"), str(path))


def read_state(path: Path | None) -> State:
    """What a device remembers; nothing, if there is no such file. Raises FileFormatError."""
    if path is None or not os.path.lexists(path):
        return State()
    try:
        data: Any = parse_strictly(read_document(path))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: is not valid JSON: {error}") from error
    where = str(path)
    if isinstance(data, dict) and data.get("format") == 1 and "manifest" not in data:
        data = {**data, "format": STATE_FORMAT, "manifest": ""}
    check_keys(data, {"kind", "format", "version", "keyids", "root", "manifest"}, where)
    if data["kind"] != STATE_KIND or data["format"] != STATE_FORMAT:
        refuse(where, f"expected {STATE_KIND!r} of format {STATE_FORMAT}")
    keyids, root, digest = data["keyids"], data["root"], data["manifest"]
    if not isinstance(digest, str) or not re.fullmatch("([0-9a-f]{64})?", digest):
        refuse(where, "manifest must be a SHA-256 in hexadecimal, or an empty text")
    if not isinstance(keyids, list) or not all(isinstance(keyid, str) for keyid in keyids):
        refuse(where, "keyids must be a list of texts")
    if root is not None and not isinstance(root, str):
        refuse(where, "root must be null or a text")
    return State(
        read_version(data["version"], where),
        tuple(keyids),
        None if root is None else parse_root(root.encode(), f"{where}: root"),
        digest,
    )


def _digest(manifest: Manifest) -> str:
    """SHA-256 of what was signed."""
    return hashlib.sha256(manifest.signed_bytes).hexdigest()


def _trusted(keys: Keys) -> Signers | Root:
    """One of several keys, or a root. Raises as `read_trust`."""
    if isinstance(keys, Root):
        keys.check_itself("the root")
        return keys
    if isinstance(keys, PublicKey):
        return Signers((keys,))
    if isinstance(keys, str | Path):
        return _from_file(Path(keys))
    listed: list[PublicKey] = []
    for item in keys:
        trusted = _trusted(item)
        if isinstance(trusted, Root):
            raise InputError("a root document must be the only key")
        listed += trusted.keys
    if not listed:
        raise InputError("keys: expected at least one public key, got none")
    return Signers(tuple(dict.fromkeys(listed)))


def _from_file(path: Path) -> Signers | Root:
    data = read_document(path)
    if data.startswith(b"{"):
        root = parse_root(data, str(path))
        root.check_itself(str(path))
        return root
    return Signers(read_public_keys(path))


def _newer(root: Root, seen: Root | None) -> Root:
    """The one that was seen if its version is higher."""
    return root if seen is None or seen.content.version <= root.content.version else seen
