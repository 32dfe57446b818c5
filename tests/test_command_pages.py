"""Commands of all pages: the command line takes each of them, with its options."""

import re
import shlex
from pathlib import Path

import pytest

from ondevice.cli import whole_parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[a-z]*/README.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CALL = re.compile(r"(?:^|^\$ |\| |/|-m )ondevice ([^|]*)")


def calls(text, kinds=("", "sh", "console")):
    """The words behind `ondevice` in every line of the fenced blocks of a page."""
    for kind, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if kind in kinds:
                yield from (shlex.split(call, comments=True) for call in CALL.findall(line))


@pytest.fixture(scope="module")
def parser():
    return whole_parser()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_command_line_takes_every_command(parser, page):
    for words in calls(page.read_text(encoding="utf-8")):
        if words != ["--version"]:
            parser.parse_command(words)


def test_the_check_sees_a_wrong_option(parser):
    text = "```sh\nondevice inspect m.odm\n$ printf 1 | ondevice run m.odm -  # all\n```"
    assert list(calls(text)) == [["inspect", "m.odm"], ["run", "m.odm", "-"]]
    with pytest.raises(SystemExit):
        parser.parse_command(["inspect", "m.odm", "--formt", "csv"])
