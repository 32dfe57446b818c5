"""`ondevice sign`: sign a set of model files, or a root document."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ondevice import manifest
from ondevice.atomic import atomic_path
from ondevice.commands.expiry import add_expires
from ondevice.commands.passphrases import add_passphrase_file, passphrase_of
from ondevice.errors import InputError, writing
from ondevice.key_files import PrivateKey, read_private_key
from ondevice.limits import MAX_MANIFEST_VERSION
from ondevice.manifest import Manifest, ModelSet, new_manifest, read_manifest
from ondevice.model import model_files
from ondevice.roots import Root, parse_root
from ondevice.signed_json import Signature
from ondevice.trust import read_document

ROOT_SUFFIX = ".root.json"
KEY_HEAD_BYTES = 64  # of a PEM file: its first line
EPILOG = """examples:
  ondevice sign models --key models.key --version now --expires 2027-01-01T00:00:00Z
  ondevice sign 1.root.json --key a.key b.key"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "path", type=Path, help="a folder of model files, a model file, or N.root.json"
    )
    parser.add_argument(
        "--key", type=Path, nargs="+", required=True, metavar="KEY", help="private keys"
    )
    parser.add_argument(
        "--version",
        type=_version,
        metavar="N",
        help="a number above all before, or `now`: the time as one",
    )
    add_expires(parser)
    add_passphrase_file(parser)


def run(args: argparse.Namespace) -> int:
    """Write the signatures and print whose they are."""
    keys = [read_private_key(path, passphrase_of(path, args.passphrase_file)) for path in args.key]
    if args.path.name.endswith(ROOT_SUFFIX):
        if args.version is not None or args.expires is not None:
            raise InputError("a root's version and expiry are set by `ondevice root`")
        target, text = _sign_root(args.path, keys)
    else:
        target, text = _sign_set(args.path, keys, args.version, args.expires)
    with writing("standard output"):
        print(f"{target}: {text}; signed by")  # noqa: T201
        for key in keys:
            print(f"  keyid {key.public.keyid}")  # noqa: T201
    return 0


def _sign_root(path: Path, keys: list[PrivateKey]) -> tuple[Path, str]:
    root = parse_root(read_document(path), str(path))
    signed = replace(root, signatures=_added(root.signatures, keys, root.signed_bytes))
    _write(path, signed)
    role = root.content.root
    count = sum(1 for item in signed.signatures if item.keyid in role.keyids)
    return path, f"version {root.content.version}, {count} of {role.threshold} of its root keys"


def _sign_set(
    path: Path, keys: list[PrivateKey], version: int | None, expires: datetime | None
) -> tuple[Path, str]:
    """Sign the manifest of a folder, which is written where there is none.

    Signatures that are there stay, unless version or expiry change.

    Raises:
        FileFormatError: a file is not as the manifest says.
        InputError: there are no files, or a private key lies among them.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        _refuse_private_keys(folder)
    target = folder / manifest.NAME
    if target.exists():
        before = read_manifest(target)
        manifest.check(before, folder)
    else:
        before = new_manifest(_new_set(path))
    model_set = before.model_set
    after = replace(
        model_set,
        version=model_set.version if version is None else version,
        expires=model_set.expires if expires is None else expires,
    )
    unsigned = before if after == model_set else new_manifest(after)
    signatures = _added(unsigned.signatures, keys, unsigned.signed_bytes)
    _write(target, replace(unsigned, signatures=signatures))
    count = len(after.files)
    return target, f"version {after.version}, {count} file{'s' if count > 1 else ''}"


def _new_set(path: Path) -> ModelSet:
    """The set of a folder's files but keys, or of a model's. Raises InputError: there are none."""
    if path.is_dir():
        files = [
            file
            for file in sorted(path.iterdir())
            if file.is_file()
            and not file.name.startswith(".")
            and not file.name.endswith(ROOT_SUFFIX)
            and b" KEY-----" not in _head(file)
        ]
    else:
        files = list(model_files(path)) if path.is_file() else []
    if not files:
        raise InputError(f"{path}: no files to sign")
    return ModelSet({file.name: manifest.record(file) for file in files})


def _refuse_private_keys(folder: Path) -> None:
    """Raise InputError where a folder, which devices get, holds a private key."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and b" PRIVATE KEY-----" in _head(file):
            raise InputError(
                f"{file}: is a private key in a folder of models, which devices get; "
                "keep it elsewhere"
            )


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(KEY_HEAD_BYTES)


def _added(
    before: tuple[Signature, ...], keys: list[PrivateKey], signed_bytes: bytes
) -> tuple[Signature, ...]:
    """The signatures with those of some keys, which replace older ones of these keys."""
    fresh = {key.public.keyid: key.sign(signed_bytes) for key in keys}
    return (*(item for item in before if item.keyid not in fresh), *fresh.values())


def _write(path: Path, document: Manifest | Root) -> None:
    """Write a document that is read back first: what readers refuse is not written."""
    data = document.to_bytes()
    if isinstance(document, Root):
        parse_root(data, str(path))
    else:
        manifest.parse_manifest(data, str(path))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _version(text: str) -> int:
    """A version on the command line; the time is one of 14 digits. Raises ArgumentTypeError."""
    if text == "now":
        return int(datetime.now(UTC).strftime("%Y%m%d%H%M%S"))
    version = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 1 <= version <= MAX_MANIFEST_VERSION:
        raise argparse.ArgumentTypeError(f"expected 1..{MAX_MANIFEST_VERSION} or now, got {text!r}")
    return version
