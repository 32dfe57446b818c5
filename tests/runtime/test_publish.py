"""Sets published as one: old or new wherever the writer is killed; permissions, links."""

import os
import stat

import pytest
from support.killed import killed_at_every_step

from ondevice import manifest
from ondevice.errors import FileFormatError, OutputError
from ondevice.manifest import check, read_manifest
from ondevice.publish import COMMITTED, FILES, HIDDEN, finish, publishing

NAMES = ("model.odm", "model.onnx", "model.onnx.data")


def publish(folder, text, names=NAMES, **options):
    with publishing(folder, with_manifest=True, **options) as fresh:
        for name in names:
            (fresh / name).write_text(text)


def content(folder):
    files = [path for path in folder.iterdir() if not HIDDEN.fullmatch(path.name)]
    return {path.name: path.read_text() for path in files if path.name != manifest.NAME}


def test_a_set_is_old_or_new_wherever_its_writer_is_killed(tmp_path):
    folder = tmp_path / "models"
    publish(folder, "old", (*NAMES, "gone"))
    old = dict.fromkeys((*NAMES, "gone"), "old")
    new = dict.fromkeys(NAMES, "new")
    seen = set()
    for step in killed_at_every_step(
        tmp_path, lambda: publish(folder, "new", removed=("gone", "never"))
    ):
        committed = (folder / COMMITTED / FILES).exists()
        finish(folder)
        files = content(folder)
        assert files in (old, new), step
        check(read_manifest(folder / manifest.NAME), folder)
        seen.add((committed, files == new))
        if files == new:
            publish(folder, "old", (*NAMES, "gone"))
    assert {(False, False), (True, True)} <= seen
    assert content(folder) == new
    assert {path.name for path in folder.iterdir()} == {*new, manifest.NAME}  # all was swept


def test_files_of_other_sets_stay_and_stay_listed(tmp_path):
    publish(tmp_path, "first", ["a.odm"])
    (tmp_path / "mine.txt").write_text("mine")
    publish(tmp_path, "second", ["b.odm"])
    assert content(tmp_path) == {"a.odm": "first", "b.odm": "second", "mine.txt": "mine"}
    listed = read_manifest(tmp_path / manifest.NAME).model_set
    assert list(listed.files) == ["a.odm", "b.odm"] and listed.version == 2
    (tmp_path / "a.odm").unlink()
    publish(tmp_path, "third", ["b.odm"])
    listed = read_manifest(tmp_path / manifest.NAME).model_set
    assert list(listed.files) == ["b.odm"] and listed.version == 3


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    publish(tmp_path, "old")
    (tmp_path / "model.odm").chmod(0o640)
    publish(tmp_path, "new")
    assert stat.S_IMODE((tmp_path / "model.odm").stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    publish(tmp_path, "old", ["model.odm"])
    place = tmp_path / "model.onnx"
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(place)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"model\.onnx: .* not a regular file"):
        publish(tmp_path, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "model.odm").read_text() == "old"


def test_a_failure_leaves_the_old_set_and_nothing_else(tmp_path):
    publish(tmp_path, "old")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError), publishing(tmp_path) as fresh:
        (fresh / "model.odm").write_text("half")
        raise ZeroDivisionError
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to somebody else")
def test_a_stranger_commits_nothing(tmp_path):
    publish(tmp_path, "old")
    forged = tmp_path / COMMITTED / FILES
    forged.mkdir(parents=True)
    (forged / "model.odm").write_text("forged")
    os.chown(tmp_path / COMMITTED, 12345, 12345)
    finish(tmp_path)
    assert (tmp_path / "model.odm").read_text() == "old"
    with pytest.raises(OutputError):
        publish(tmp_path, "new")
    assert (tmp_path / "model.odm").read_text() == "old"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_may_not_write_is_told_to_have_the_update_finished(tmp_path):
    publish(tmp_path, "old")
    tmp_path.chmod(0o755)
    (tmp_path / COMMITTED / FILES).mkdir(parents=True)
    (tmp_path / COMMITTED / FILES / "model.odm").write_text("new")
    reader = os.fork()
    if reader == 0:
        status = 1
        try:
            os.chdir(tmp_path)
            os.setuid(12345)
            finish(type(tmp_path)("."))
        except FileFormatError as error:
            status = 0 if "interrupted update" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    finish(tmp_path)
    assert (tmp_path / "model.odm").read_text() == "new"
