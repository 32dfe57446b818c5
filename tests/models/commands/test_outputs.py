"""Outputs are checked before any work, and results are replaced only when asked."""

import re
import resource

import pytest
from support.killed import killed_at_every_step

from ondevice import manifest
from ondevice.cli import main
from ondevice.errors import InputError, OutputError, UnsupportedError
from ondevice.models.checkpoint import is_replaceable, load_checkpoint, save_checkpoint
from ondevice.models.commands import compress, outputs
from ondevice.models.search import run_trial
from ondevice.publish import HIDDEN

RUNTIMES = (".odm", ".onnx", ".tflite")
TINY = ("--max-rows", "500", "--epochs", "1", "--hidden", "4", "--dim", "2")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """The one line of a command that must fail."""
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *TINY, "--out", str(folder / "checkpoint")]) == 0
    arguments = ("convert", str(folder / "checkpoint"), "--targets", "odm")
    assert main([*arguments, "--out", str(folder / "models")]) == 0
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("train", *TINY),
        ("convert", "no/checkpoint"),
        ("compress", "--ratio", "9"),
        ("demo", *TINY),
        ("export-android", "no.odm"),
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper" / "out"):
        error = refused(capsys, *command, "--out", out)
        assert f"--out {out}: " in error and "is a file" in error
    # a file system that refuses also the administrator
    error = refused(capsys, *command, "--out", "/proc/ondevice/out")
    assert "--out /proc/ondevice/out: cannot write in /proc" in error
    if command[0] in ("convert", "compress"):
        options = ("--out", tmp_path / "new", "--json", tmp_path / "file" / "f.json")
        assert "--json" in refused(capsys, *command, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # no folder was left


def test_a_checkpoint_is_replaced_only_by_force(tmp_path, capsys):
    out = tmp_path / "checkpoint"
    out.mkdir()  # empty: nothing is lost
    assert main(["train", *TINY, "--out", str(out)]) == 0
    before = contents(out)
    capsys.readouterr()
    error = refused(capsys, "train", *TINY, "--out", out)
    assert re.search(r"an earlier run left .*checkpoint; .* --force", error)
    # a training that fails leaves the old one
    refused(capsys, "train", *TINY, "--out", out, "--force", "--batch", 0)
    assert contents(out) == before
    assert main(["train", *TINY, "--seed", "1", "--out", str(out), "--force"]) == 0
    assert contents(out).keys() == before.keys() and contents(out) != before
    (out / "notes.txt").write_text("mine")
    capsys.readouterr()
    error = refused(capsys, "train", *TINY, "--out", out, "--force")
    assert "it holds other files" in error
    assert (out / "notes.txt").read_text() == "mine"


def test_model_files_are_replaced_only_by_force(trained, capsys):
    out = trained / "models"
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    capsys.readouterr()
    command = ("convert", str(trained / "checkpoint"), "--targets", "odm", "--tables", "q4")
    error = refused(capsys, *command, "--out", out)
    assert "model.odm" in error and "model.md" in error and "notes.txt" not in error
    assert "--force" in error
    assert contents(out) == before
    assert main([*command, "--out", str(out), "--name", "other"]) == 0  # beside other files
    assert main([*command, "--out", str(out), "--force"]) == 0
    after = contents(out)
    assert after[out / "model.odm"] != before[out / "model.odm"]
    assert after[out / "notes.txt"] == b"mine"


def test_a_demo_replaces_a_demo_and_nothing_else(trained, tmp_path, capsys):
    out = tmp_path / "demo"
    out.mkdir()
    (out / "model.odm").write_bytes((trained / "models" / "model.odm").read_bytes())
    capsys.readouterr()
    error = refused(capsys, "demo", *TINY, "--out", out)
    assert "model.odm" in error and "--force" in error
    for mark in ("demo.unfinished", "demo.json"):  # as an interrupted and a finished demo leave it
        (out / mark).touch()
        # the folder is accepted: a later fault stops it
        error = refused(capsys, "demo", *TINY, "--batch", 0, "--out", out)
        assert "batch must be at least 1" in error
        (out / mark).unlink()


def test_a_search_leaves_files_of_others_alone(trained, capsys, monkeypatch):
    """Nor does it leave files of its run before that the new one lacks, or list them."""
    before = contents(trained / "models")
    arguments = ("compress", "--ratio", "1", "--trials", "1", "--max-rows", "500")
    assert main([*arguments, "--out", str(trained / "models")]) == 0
    assert contents(trained / "models").items() >= before.items()
    out = trained / "models" / "tables-1x"
    assert (out / "model.tflite").is_file()
    write = run_trial.write_files

    def for_one_runtime(*words):
        if len(words) < 6:  # all targets
            raise UnsupportedError("no such operator there")
        return write(*words)

    monkeypatch.setattr(compress, "write_files", for_one_runtime)
    assert main([*arguments, "--out", str(trained / "models"), "--force"]) == 0
    assert [path.name for path in out.glob("model.*") if path.suffix in RUNTIMES] == ["model.odm"]
    manifest.check(manifest.read_manifest(out / manifest.NAME), out)


def test_what_a_killed_check_left_is_swept(trained):
    """The check of a folder writes there; killed, it made a checkpoint look like something else."""
    checkpoint, kinds = trained / "checkpoint", set()
    for _ in killed_at_every_step(checkpoint, lambda: outputs.check_writable("--out", checkpoint)):
        kinds |= {HIDDEN.fullmatch(path.name) is not None for path in checkpoint.iterdir()}
        assert is_replaceable(checkpoint)
    assert kinds == {True, False}
    outputs.check_writable("--out", checkpoint)
    assert not [path for path in checkpoint.iterdir() if path.name.startswith(".")]


def test_a_disk_that_refuses_a_checkpoint_is_named(trained, tmp_path):
    saved = load_checkpoint(trained / "checkpoint")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"new: cannot be written: .*File too large"):
            save_checkpoint(tmp_path / "new", saved.model, saved.features)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_bare_name_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs.check_writable("--out", outputs.Path("new"))
    (tmp_path / "new").write_text("a file")
    with pytest.raises(InputError, match="--out new: expected a folder, but new is a file"):
        outputs.check_writable("--out", outputs.Path("new"))


def test_going_on_leaves_no_choice_of_tables(trained, tmp_path, capsys):
    capsys.readouterr()
    command = ("train", "--from", trained / "checkpoint", "--out", tmp_path / "next")
    error = refused(capsys, *command, "--dim", 4, "--full")
    assert "stay as they are; leave out --full, --dim" in error
    assert main([str(word) for word in (*command, "--max-rows", 500, "--epochs", 1)]) == 0
    assert "before: test AUC" in capsys.readouterr().out
