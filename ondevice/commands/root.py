"""`ondevice root`: write the document that says which keys may sign, still to be signed."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.atomic import atomic_path
from ondevice.commands.expiry import add_expires
from ondevice.errors import InputError, OutputError, writing
from ondevice.roots import Root, RootContent, new_root, parse_root
from ondevice.signatures import Signers
from ondevice.trust import read_document, read_public_keys

EPILOG = """examples:
  ondevice root 1.root.json --root-key a.pub b.pub c.pub --root-threshold 2 --model-key models.pub
  ondevice root 2.root.json --replaces 1.root.json --model-key new.pub
then, with as many keys as the thresholds say:
  ondevice sign 1.root.json --key a.key b.key"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("out", type=Path, help="new file; of version N: N.root.json")
    parser.add_argument("--replaces", type=Path, metavar="ROOT", help="the root before this one")
    for role, what in (("root", "the next root"), ("model", "sets of models")):
        parser.add_argument(
            f"--{role}-key", type=Path, nargs="+", metavar="PUB", help=f"keys that may sign {what}"
        )
        parser.add_argument(
            f"--{role}-threshold", type=int, metavar="N", help="how many of them must (default: 1)"
        )
    add_expires(parser)


def run(args: argparse.Namespace) -> int:
    """Write the document."""
    if args.out.exists():
        raise OutputError(f"{args.out}: exists already; a root is never overwritten")
    before = None
    if args.replaces is not None:
        before = parse_root(read_document(args.replaces), str(args.replaces))
    root = new_root(_content(args, before))
    expected = f"{root.content.version}.root.json"
    if args.out.name != expected:
        raise InputError(f"{args.out}: devices look for {expected}; expected that name")
    with atomic_path(args.out) as path:
        path.write_bytes(root.to_bytes())
    with writing("standard output"):
        print(f"{args.out}: version {root.content.version}, not signed yet")  # noqa: T201
    return 0


def _content(args: argparse.Namespace, before: Root | None) -> RootContent:
    """What the document says: roles that are not given stay as they were."""
    if before is None:
        return RootContent(
            _role(args.root_key, args.root_threshold, None, "--root-key"),
            _role(args.model_key, args.model_threshold, None, "--model-key"),
            expires=args.expires,
        )
    old = before.content
    return RootContent(
        _role(args.root_key, args.root_threshold, old.root, "--root-key"),
        _role(args.model_key, args.model_threshold, old.models, "--model-key"),
        old.version + 1,
        args.expires,
    )


def _role(
    files: list[Path] | None, threshold: int | None, before: Signers | None, option: str
) -> Signers:
    """The keys of a role. Raises InputError: none are given and there were none before."""
    if files is None:
        if before is None:
            raise InputError(f"expected {option}: a first root needs keys of both roles")
        return Signers(before.keys, before.threshold if threshold is None else threshold)
    keys = [key for file in files for key in read_public_keys(file)]
    return Signers(tuple(dict.fromkeys(keys)), 1 if threshold is None else threshold)
