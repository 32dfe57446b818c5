"""Mistakes on the command line: one line each, with the word that was probably meant."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bnech"], "did you mean bench?"),
        (["bench", "m.odm", "--bacth", "1"], "unknown option: --bacth 1; did you mean --batch?"),
        (["bench", "m.odm", "--secnods=3"], "did you mean --seconds?"),
        (["bench", "m.odm", "--engine", "nativ"], "did you mean native?"),
        (["run", "m.odm", "in.csv", "more.csv"], "one argument too many: more.csv"),
        (["run", "m.odm"], "the following arguments are required: input"),
        (["inspect", "m.odm", "--qqqqqq"], "unknown option: --qqqqqq\n"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistake_is_said_in_two_lines(words, said):
    done = subprocess.run(
        [sys.executable, "-m", "ondevice", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 2
    assert "--help` lists all." in done.stderr


def test_help_is_no_mistake():
    done = subprocess.run(
        [sys.executable, "-m", "ondevice", "inspect", "--help"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--json" in done.stdout
