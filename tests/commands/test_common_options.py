"""What all commands have in common: --json, -q, and completion by a shell."""

import argparse
import json
import os
import shutil
import subprocess
import sys

import pytest
from support.runtime import write_small_model

from ondevice.cli import BUILT_IN, main, whole_parser
from ondevice.commands import inspect as command
from ondevice.json_file import write_json_file


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.odm"
    write_small_model(path)
    return path


def commands():
    (found,) = (
        action
        for action in whole_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return found.choices


def test_json_means_the_same_in_every_command():
    options = {
        name: action
        for name, parser in commands().items()
        for action in parser._actions
        if "--json" in action.option_strings
    }
    assert {"inspect", "verify", "bench"} <= set(options)
    assert {action.metavar for action in options.values()} == {"FILE"}
    assert len({action.type for action in options.values()}) == 1
    assert {action.nargs for action in options.values()} == {None}


def test_json_goes_to_a_file_beside_the_text(path, tmp_path, capsys):
    target = tmp_path / "result.json"
    assert main(["inspect", str(path), "--json", str(target)]) == 0
    assert "sha256" in capsys.readouterr().out
    assert json.loads(target.read_text())[0]["file_bytes"] == path.stat().st_size


def test_printed_json_is_all_of_the_output(path, capsys):
    assert main(["verify", str(path), "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["passed"]
    assert "ok: 32 test rows" in printed.err


def test_a_model_file_is_never_replaced_by_json(path, tmp_path, capsys):
    other = tmp_path / "other.odm"
    shutil.copy(path, other)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(path), "--json", str(other)])
    assert ended.value.code == 2
    assert "expected a file that ends in .json, or -" in capsys.readouterr().err
    assert other.read_bytes() == path.read_bytes()


def test_numbers_that_are_not_finite_are_null(tmp_path):
    write_json_file({"a": [float("nan"), 1.5, {"b": float("-inf")}]}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.5, {"b": None}]}


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_leaves_results_and_errors(path, option, tmp_path, capsys, monkeypatch):
    def noted(*paths):
        sys.stderr.write("a note\n")
        return inspect(*paths)

    inspect = command.inspect
    monkeypatch.setattr(command, "inspect", noted)
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().err == "a note\n"
    assert main(["inspect", str(path), option]) == 0
    printed = capsys.readouterr()
    assert "sha256" in printed.out
    assert printed.err == ""
    assert main(["inspect", str(tmp_path / "none.odm"), option]) == 1
    assert "no such file" in capsys.readouterr().err


def test_every_command_can_be_quiet():
    for name, parser in commands().items():
        if name in BUILT_IN or len(parser._actions) > 1:  # else of an extra that is not installed
            assert {"-q", "--quiet"} <= set(parser._option_string_actions), name


def complete(script, shell, words):
    """What bash offers for the last of the words."""
    probe = (
        f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        '_shtab_ondevice; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([shell, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_files(path, tmp_path, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed")
    if (shell := shutil.which("bash")) is None:
        pytest.skip("bash is not installed")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "complete.sh"
    script.write_text(capsys.readouterr().out)
    assert complete(script, shell, ["ondevice", "ben"]) == ["bench"]
    assert "--batch" in complete(script, shell, ["ondevice", "bench", "--b"])
    assert "numpy" in complete(script, shell, ["ondevice", "bench", "m.odm", "--engine", "nu"])
    files = complete(script, shell, ["ondevice", "verify", str(path.parent) + os.sep])
    assert files == [str(path)]
    for other in ("zsh", "fish"):
        assert main(["completion", other]) == 0
        assert "bench" in capsys.readouterr().out
