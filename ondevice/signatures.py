"""Ed25519 signatures (RFC 8032): public keys, and how many of them must have signed."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ondevice.errors import FileFormatError, TrustError, needs_extra
from ondevice.signed_json import Signature

Verifier = Callable[[bytes, bytes, bytes], bool]  # of a key, a signature, a message

KEY_BYTES = 32
SIGNATURE_BYTES = 64

# The curve: -x^2 + y^2 = 1 + D x^2 y^2 modulo P.
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
# y of the 8 points of small order: a signature of such a key may fit every message.
_Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER = {0, 1, _P - 1, _Y8, _P - _Y8}

# A public key as PEM (RFC 8410) is this, before its 32 bytes.
_PREFIX = bytes.fromhex("302a300506032b6570032100")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END PUBLIC KEY-----")


@dataclass(frozen=True)
class PublicKey:
    """A public key: 32 bytes, the encoding of a point of the curve of large order."""

    raw: bytes

    def __post_init__(self) -> None:
        """Raise FileFormatError for bytes that are no such encoding."""
        if len(self.raw) != KEY_BYTES or not _is_key(self.raw):
            raise FileFormatError(f"not an Ed25519 public key: {self.raw.hex()}")

    @property
    def keyid(self) -> str:
        """The SHA-256 of the key, in hexadecimal."""
        return hashlib.sha256(self.raw).hexdigest()

    def to_pem(self) -> str:
        """As PEM, which other tools read too."""
        text = base64.b64encode(_PREFIX + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


@dataclass(frozen=True)
class Signers:
    """Keys of which a number must have signed."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1

    @property
    def keyids(self) -> list[str]:
        """Identifiers of the keys, sorted."""
        return sorted(key.keyid for key in self.keys)

    def check(self, signed: bytes, signatures: Iterable[Signature], where: str) -> None:
        """Count the keys whose signature of `signed` is valid.

        Signatures of other keys, and invalid ones, count for nothing.

        Raises:
            TrustError: fewer than the threshold.
            MissingDependencyError: nothing that verifies signatures is installed.
        """
        verify = verifier()
        keys = {key.keyid: key.raw for key in self.keys}
        valid = {
            item.keyid
            for item in signatures
            if item.keyid in keys and verify(keys[item.keyid], bytes.fromhex(item.sig), signed)
        }
        if len(valid) < self.threshold:
            raise TrustError(
                f"{where}: {len(valid)} valid signatures of trusted keys, expected {self.threshold}"
            )


def public_keys(text: str, where: str) -> tuple[PublicKey, ...]:
    """The keys of a PEM file, one or several. Raises FileFormatError: anything else in it."""
    blocks = _PEM.findall(text)
    if not blocks or _PEM.sub("", text).strip():
        raise FileFormatError(f"{where}: expected a public key as PEM, and nothing else")
    try:
        decoded = [base64.b64decode("".join(block.split()), validate=True) for block in blocks]
    except ValueError as error:
        raise FileFormatError(f"{where}: a public key is not valid base64: {error}") from error
    for data in decoded:
        if not data.startswith(_PREFIX):
            raise FileFormatError(f"{where}: a public key of another kind than Ed25519")
    return tuple(PublicKey(data[len(_PREFIX) :]) for data in decoded)


@functools.cache
def verifier() -> Verifier:
    """What verifies signatures: the compiled verifier, or the package `cryptography`.

    Raises:
        MissingDependencyError: there is neither.
    """
    try:
        from ondevice import _update
    except ImportError:
        return _library_verifier()
    return _update.ed25519_verify


def _library_verifier() -> Verifier:
    """The package's verifier, which knows nothing of keys of small order: PublicKey does."""
    with needs_extra("checking signatures without the compiled verifier", "sign"):
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    def verify(key: bytes, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    return verify


def _is_key(raw: bytes) -> bool:
    """Whether 32 bytes are the only encoding of a point (RFC 8032, 5.1.3) of large order."""
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P or y in _SMALL_ORDER:
        return False
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return pow(square, (_P - 1) // 2, _P) == 1  # of x, which is 0 for points of small order only
