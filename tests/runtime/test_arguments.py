"""Mistakes on the command line: one line each, with the word that was probably meant."""

import pytest

from ondevice.cli import main


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
def test_a_mistake_is_said_in_two_lines(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 2
    assert "--help` lists all." in err


def test_help_is_no_mistake(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out
