"""Passphrases of private keys: asked on the terminal, or read from a file."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from ondevice.errors import InputError
from ondevice.key_files import is_encrypted
from ondevice.trust import read_document


def add_passphrase_options(parser: argparse.ArgumentParser) -> None:
    """Add --passphrase and --passphrase-file to `keygen`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--passphrase", action="store_true", help="ask for a passphrase that encrypts the key"
    )
    add_passphrase_file(group)


def add_passphrase_file(parser: argparse._ActionsContainer) -> None:
    """Add --passphrase-file."""
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="read the passphrase from a file"
    )


def new_passphrase(args: argparse.Namespace) -> bytes | None:
    """The passphrase of a new key; None: the user wants none. Raises InputError."""
    if args.passphrase_file is not None:
        return _from_file(args.passphrase_file)
    if not args.passphrase:
        return None
    passphrase = _asked("passphrase: ")
    if passphrase != _asked("once more: "):
        raise InputError("the two passphrases differ")
    return passphrase


def passphrase_of(key: Path, file: Path | None) -> bytes | None:
    """The passphrase of a private key file; None: it is not encrypted. Raises InputError."""
    if not is_encrypted(key):
        return None
    return _asked(f"passphrase of {key}: ") if file is None else _from_file(file)


def _asked(prompt: str) -> bytes:
    """What the user types. Raises InputError: nothing, or there is no terminal."""
    if not sys.stdin.isatty():
        raise InputError("no terminal to ask for a passphrase; expected --passphrase-file")
    return _checked(getpass.getpass(prompt).encode(), "the passphrase")


def _from_file(path: Path) -> bytes:
    """The first line of a file. Raises InputError, FileFormatError."""
    return _checked(read_document(path).split(b"\n", 1)[0].rstrip(b"\r"), str(path))


def _checked(passphrase: bytes, where: str) -> bytes:
    if not passphrase:
        raise InputError(f"{where}: is empty")
    if len(passphrase) > 1023:
        raise InputError(f"{where}: at most 1023 bytes, got {len(passphrase)}")
    return passphrase
