"""`ondevice completion`: print what makes a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path

from ondevice.errors import needs_extra, writing

SHELLS = ("bash", "zsh", "fish")
EPILOG = """examples:
  bash: ondevice completion bash > ~/.local/share/bash-completion/completions/ondevice
  zsh:  ondevice completion zsh > ~/.zfunc/_ondevice    (a folder of $fpath)
  fish: ondevice completion fish > ~/.config/fish/completions/ondevice.fish

Write it anew after an update: the options are those of this version."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def run(args: argparse.Namespace) -> int:
    """Print the script. Raises MissingDependencyError without the package shtab."""
    from ondevice.cli import whole_parser

    with needs_extra("ondevice completion", "completion"):
        import shtab
    parser = whole_parser()
    for action in _actions(parser):
        if action.choices is None and (action.type is Path or action.metavar == "FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    with writing("standard output"):
        print(shtab.complete(parser, args.shell))  # noqa: T201
    return 0


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of all commands."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [item for each in action.choices.values() for item in _actions(each)]
        else:
            found.append(action)
    return found
