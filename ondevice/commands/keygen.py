"""`ondevice keygen`: a new key that signs models, and its public key."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.commands.passphrases import add_passphrase_options, new_passphrase
from ondevice.errors import writing
from ondevice.key_files import new_key, write_public_keys

EPILOG = "example:\n  ondevice keygen models.key --passphrase"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("key", type=Path, help="new file of the private key; public: with .pub")
    add_passphrase_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write both files and print the key's identifier."""
    passphrase = new_passphrase(args)
    key = new_key()
    key.write(args.key, passphrase)
    public = args.key.with_name(args.key.name + ".pub")
    write_public_keys(public, (key.public,))
    with writing("standard output"):
        print(f"{args.key}: the private key; keep it secret")  # noqa: T201
        print(f"{public}: the public key, for devices")  # noqa: T201
        print(f"keyid {key.public.keyid}")  # noqa: T201
    return 0
