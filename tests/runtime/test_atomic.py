"""atomic_path: complete or nothing, links, permissions, devices, FIFOs, folders, full disks."""

import os
import stat
import threading
from pathlib import Path

import pytest

from ondevice.atomic import atomic_path
from ondevice.errors import OutputError

NULL = Path("/dev/null")


def write(path, text="new"):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_a_new_file_gets_the_umask_and_its_folder(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "a" / "b.txt")
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "b.txt").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "a" / "b.txt").stat().st_mode) == 0o640
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode):
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(mode)
    with target.open() as reader:
        write(target)
        assert reader.read() == "old"  # who has the old file open keeps its bytes
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.txt"
    real.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write(link)
    assert link.is_symlink()
    assert real.read_text() == "new"
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to(tmp_path / "there" / "later.txt")
    write(dangling)
    assert dangling.is_symlink()
    assert (tmp_path / "there" / "later.txt").read_text() == "new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=f"{tmp_path}: cannot be written: it is a directory"):
        write(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="below: cannot be written: Not a directory"):
        write(tmp_path / "file" / "below")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match="loop: cannot be written: Too many levels"):
        write(loop)


def test_a_fifo_gets_the_bytes_and_stays(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()))
    reader.start()
    write(fifo)
    reader.join(timeout=600)
    assert received == ["new"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_to_and_stays():
    before = NULL.stat()
    write(NULL)
    assert NULL.stat().st_rdev == before.st_rdev
    assert stat.S_ISCHR(NULL.stat().st_mode)
