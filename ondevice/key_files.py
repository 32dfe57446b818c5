"""Key files of whoever signs: private keys, which need the package `cryptography`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ondevice.atomic import atomic_path
from ondevice.errors import FileFormatError, InputError, needs_extra, writing
from ondevice.signatures import PublicKey
from ondevice.signed_json import Signature
from ondevice.trust import read_document

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PRIVATE_MODE = 0o600
ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


class PrivateKey:
    """A key that signs.

    Attributes:
        public: the public key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        """The public key's identifier: nothing secret gets into a log."""
        return f"<PrivateKey {self.public.keyid}>"

    def sign(self, signed_bytes: bytes) -> Signature:
        """The signature of a document's signed bytes."""
        return Signature(self.public.keyid, self._key.sign(signed_bytes).hex())

    def write(self, path: Path, passphrase: bytes | None) -> None:
        """Write a new file in PEM (PKCS #8), which only its owner may read.

        Args:
            path: where nothing is yet: a private key is never overwritten.
            passphrase: encrypts the file; None: the file is not encrypted.

        Raises:
            OutputError: it exists, or cannot be written.
        """
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            KeySerializationEncryption,
            NoEncryption,
            PrivateFormat,
        )

        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            encryption = BestAvailableEncryption(passphrase)
        data = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        with writing(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # Python never leaves it to children
            descriptor = os.open(path, flags, PRIVATE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def new_key() -> PrivateKey:
    """A new key of the system's random numbers. Raises MissingDependencyError."""
    with needs_extra("making a key", "sign"):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return PrivateKey(Ed25519PrivateKey.generate())


def read_private_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    """Read a private key in PEM (PKCS #8).

    Raises:
        FileFormatError: it cannot be read, is no private key, or of another kind than Ed25519.
        InputError: it is encrypted and there is no passphrase or a wrong one.
        MissingDependencyError: `cryptography` is not installed.
    """
    with needs_extra("signing", "sign"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_document(path)
    encrypted = ENCRYPTED in data
    if encrypted and passphrase is None:
        raise InputError(f"{path}: is encrypted; expected a passphrase")
    try:
        key = load_pem_private_key(data, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise InputError(f"{path}: cannot be decrypted: a wrong passphrase?") from error
        raise FileFormatError(f"{path}: expected a private key as PEM (PKCS #8)") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FileFormatError(f"{path}: a private key of another kind than Ed25519")
    return PrivateKey(key)


def is_encrypted(path: Path) -> bool:
    """Whether a private key file needs a passphrase. Raises FileFormatError: it cannot be read."""
    return ENCRYPTED in read_document(path)


def write_public_keys(path: Path, keys: tuple[PublicKey, ...]) -> None:
    """Write public keys as PEM, one after another. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(key.to_pem() for key in keys), encoding="ascii")
