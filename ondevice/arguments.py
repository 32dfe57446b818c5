"""Command lines: a mistake is answered by one line, with the word that was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NoReturn

USAGE_ERROR = 2
# How argparse (3.11 to 3.14) words a value outside a list of choices.
_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<choices>.*)\)$")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on standard error, without the usage of all options."""

    def parse_command(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse `COMMAND options...`; an unknown option is an error of its command.

        Exits with `USAGE_ERROR` where the words are wrong, and with 0 after --help or --version.
        """
        options, unknown = self.parse_known_args(words)
        if unknown:
            self._command_parser(options).unknown(unknown)
        return options

    def unknown(self, words: Sequence[str]) -> NoReturn:
        """Exit: `words` are no options or arguments of this command."""
        names = [word.split("=")[0] for word in words]
        flags = [flag for action in self._actions for flag in action.option_strings]
        hints = [_nearest(name, flags) for name in names if name.startswith("-")]
        listed = " ".join(words)
        what = "unknown option" if names[0].startswith("-") else "one argument too many"
        self.error(f"{what}: {listed}{next(filter(None, hints), '')}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where help is; exit with `USAGE_ERROR`."""
        if found := _CHOICE.search(message):
            choices = re.findall(r"[^\s',]+", found["choices"])
            message += _nearest(found["word"], choices)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n`{self.prog} --help` lists all.\n")

    def _command_parser(self, options: argparse.Namespace) -> Parser:
        """The parser of the command that `options` name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                parser: Parser = action.choices[options.command]
                return parser
        return self


def _nearest(word: str, known: Iterable[str]) -> str:
    """A question for the nearest of the known words, or nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
