"""Temporary folders: those of killed processes are swept; live ones and the user's files stay."""

import os

from support.killed import killed_at_every_step

from ondevice.atomic import atomic_path
from ondevice.temporary import NAME, sweep, sweep_tree, temporary_folder

DIGITS = "0123456789abcdef"
NEW = f".ondevice-{DIGITS}.tmp"  # a name that a writer may take


def hidden(folder):
    return [path.name for path in folder.iterdir() if NAME.fullmatch(path.name)]


def test_a_file_is_old_or_new_wherever_its_writer_is_killed(tmp_path):
    target = tmp_path / "report.json"

    def write(text):
        with atomic_path(target) as temporary:
            temporary.write_text(text)

    target.write_text("old")
    left = 0
    for step in killed_at_every_step(tmp_path, lambda: write("new")):
        left += len(hidden(tmp_path))
        assert len(hidden(tmp_path)) <= 1, step  # each run sweeps what the one before left
        assert target.read_text() in ("old", "new")
        target.write_text("old")
    assert left > 2
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "new"


def test_a_tree_is_swept_without_the_folders_of_others(tmp_path):
    left = [tmp_path / NEW / "below", tmp_path / "a" / "b" / NEW]
    others = [tmp_path / "a" / ".ondevice-mine", tmp_path / "a" / "file"]
    for path in [*left, *others]:
        path.mkdir(parents=True)
    with temporary_folder(tmp_path / "a") as held:
        sweep_tree(tmp_path)
        assert held.is_dir()
    assert sorted(tmp_path.rglob("*")) == sorted([tmp_path / "a", tmp_path / "a" / "b", *others])
    sweep_tree(tmp_path / "gone")


def _hold(folder, ready, end):
    """In a process of its own: a temporary folder in use until a byte arrives."""
    with temporary_folder(folder) as temporary:
        (temporary / "work").write_text("half")
        os.write(ready, b".")
        os.read(end, 1)
        return (temporary / "work").read_text() == "half"


def test_the_folder_of_a_living_process_stays(tmp_path):
    (was_ready, ready), (end, may_end) = os.pipe(), os.pipe()
    process = os.fork()  # not a command: an emulator of another processor cannot start one
    if process == 0:
        status = 1
        try:
            status = 0 if _hold(tmp_path, ready, end) else 1
        finally:
            os._exit(status)
    assert os.read(was_ready, 1) == b"."
    with temporary_folder(tmp_path) as folder:
        sweep(tmp_path)
        assert len(hidden(tmp_path)) == 2 and folder.is_dir()
    os.write(may_end, b".")
    assert os.waitpid(process, 0)[1] == 0
    for descriptor in (was_ready, ready, end, may_end):
        os.close(descriptor)
    assert list(tmp_path.iterdir()) == []


def test_only_folders_of_this_name_are_swept(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    place = tmp_path / "place"
    place.mkdir()
    (place / NEW).symlink_to(outside)
    (place / f".ondevice-{DIGITS[::-1]}.tmp").write_text("a file")
    (place / ".ondevice-settings.tmp").mkdir()
    (place / f"{DIGITS}.tmp").mkdir()
    (place / f".ondevice-{'a' * 16}.tmp").mkdir()  # its owner was killed before it had a lock
    before = {path.name for path in place.iterdir()}
    sweep(place)
    assert before - {path.name for path in place.iterdir()} == {f".ondevice-{'a' * 16}.tmp"}
    assert (outside / "kept").read_text() == "mine"


def test_a_place_that_is_no_folder_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    sweep(tmp_path / "file")
    sweep(tmp_path / "missing")
    assert (tmp_path / "file").is_file()
