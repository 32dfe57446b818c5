"""The files of a log: links, folders that may not be read, jobs that run, globs; none is lost."""

import os

import pyarrow.dataset as dataset
import pytest

from ondevice.errors import DataError
from ondevice.models.data.parts import find_files


@pytest.fixture
def logs(tmp_path):
    """Two days, a job's unfinished files, and a marker."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "logs"
    for name in ("dt=1/a.csv", "dt=2/b.csv", "_temporary/0/c.csv", ".hidden/d.csv", "dt=2/_e.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n1\n")
    (folder / "_SUCCESS").touch()
    return folder


def names(paths, base):
    return [str(file.path.relative_to(base)) for file in find_files(paths)]


def fault_as_another_user(folder, call):
    """What a call, from within a folder, says to a user who may read only what all may read.

    Root may read everything, so a child process becomes somebody else.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = "no error"
        try:
            os.chdir(folder)
            if os.getuid() == 0:
                os.setuid(12345)
            call()
        except DataError as error:
            text = str(error)
        except BaseException as error:
            text = f"untyped: {error!r}"
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def test_hidden_names_are_left_out_and_not_looked_at(logs, tmp_path):
    (logs / "_temporary" / "0").chmod(0)
    try:
        for given in ("logs", "logs/*", "logs/**/*.csv"):
            text = fault_as_another_user(logs.parent, lambda given=given: find_files([given]))
            assert text == "no error"
        assert names([logs], logs) == ["dt=1/a.csv", "dt=2/b.csv"]
    finally:
        (logs / "_temporary" / "0").chmod(0o755)


@pytest.mark.parametrize("given", ["logs", "logs/*/*.csv", "logs/**/*.csv", "logs/**"])
def test_a_folder_that_may_not_be_read_is_an_error(logs, given):
    (logs / "dt=2").chmod(0)
    text = fault_as_another_user(logs.parent, lambda: find_files([given]))
    (logs / "dt=2").chmod(0o755)
    assert text == "logs/dt=2: cannot be listed: Permission denied"


@pytest.mark.parametrize("given", ["logs/dt=2/b.csv", "logs/dt=2/[b].csv"])
def test_a_file_in_a_folder_that_may_not_be_read_is_an_error(logs, given):
    (logs / "dt=2").chmod(0)
    text = fault_as_another_user(logs.parent, lambda: find_files([given]))
    (logs / "dt=2").chmod(0o755)
    assert "Permission denied" in text and "untyped" not in text


def test_links_to_folders_are_followed_as_pyarrow_does(logs, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "hour=3").mkdir(parents=True)
    (elsewhere / "hour=3" / "f.csv").write_text("x\n1\n")
    (logs / "dt=3").symlink_to(elsewhere)
    (logs / "dt=2" / "g.csv").symlink_to(tmp_path / "g.csv")
    (tmp_path / "g.csv").write_text("x\n1\n")
    files = find_files([logs])
    assert sorted(str(file.path) for file in files) == sorted(
        dataset.dataset(logs, format="csv").files
    )
    assert files[-1].values == {"dt": "3", "hour": "3"}
    assert names([logs / "*"], logs) == [str(file.path.relative_to(logs)) for file in files]


def test_a_link_back_is_no_endless_log(logs):
    (logs / "dt=1" / "up").symlink_to("..")
    (logs / "self").symlink_to(".")
    expected = ["dt=1/a.csv", "dt=2/b.csv"]
    assert names([logs], logs) == expected
    assert names([str(logs / "**" / "*.csv")], logs) == expected


def test_a_link_to_nothing_is_an_error_of_the_one_who_reads(logs):
    (logs / "dt=1" / "gone.csv").symlink_to("nowhere.csv")
    (logs / "dt=1" / "gone").symlink_to("nowhere")
    assert names([logs], logs) == ["dt=1/a.csv", "dt=1/gone.csv", "dt=2/b.csv"]


def test_a_file_by_two_names_is_refused(logs):
    for given in (["logs", "logs/dt=1"], ["logs/dt=1/a.csv", "logs/*/a.csv"]):
        with pytest.raises(DataError, match=r"a\.csv: is the same file as .*a\.csv.* read twice"):
            find_files([logs.parent / item for item in given])
    (logs / "latest").symlink_to("dt=2")
    with pytest.raises(DataError, match=r"latest/b\.csv: is the same file as .*dt=2/b\.csv"):
        find_files([logs])
    assert names([logs / "dt=*"], logs) == ["dt=1/a.csv", "dt=2/b.csv"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("**", ["dt=1/a.csv", "dt=2/b.csv"]),  # each file once, though a match holds others
        ("**/*.csv", ["dt=1/a.csv", "dt=2/b.csv"]),
        ("*", ["dt=1/a.csv", "dt=2/b.csv"]),
        ("*/", ["dt=1/a.csv", "dt=2/b.csv"]),
        ("dt=[2]", ["dt=2/b.csv"]),
        ("dt=?/a.csv", ["dt=1/a.csv"]),
        ("_*/0/*.csv", ["_temporary/0/c.csv"]),
        ("dt=2/*", ["dt=2/b.csv"]),
        ("dt=2/_*", ["dt=2/_e.csv"]),
        (".hidden/*", [".hidden/d.csv"]),
        ("../logs/dt=1/*", ["dt=1/a.csv"]),
    ],
)
def test_globs(logs, given, expected):
    files = find_files([f"{logs}/{given}"])
    assert [os.path.relpath(file.path, logs) for file in files] == expected


def test_a_relative_glob(logs, monkeypatch):
    monkeypatch.chdir(logs)
    assert [str(file.path) for file in find_files(["dt=*/*.csv"])] == ["dt=1/a.csv", "dt=2/b.csv"]


def test_no_match(logs):
    for given in ("nothing*", "dt=1/a.csv/*", "none/*", "*/_SUCCESS", "a\0*", "a\0b"):
        with pytest.raises(DataError):
            find_files([f"{logs}/{given}"])
