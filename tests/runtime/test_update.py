"""Updates in place: verified, switched by a rename, rolled back; killed at every step."""

import json
import os
import shutil
import signal

import pytest
from support.deltas import write_bad, write_pair
from support.killed import killed_at_every_step
from support.runtime import small_ids

import ondevice
from ondevice.delta.create import create_delta
from ondevice.errors import (
    BaseMismatchError,
    DowngradeError,
    FileFormatError,
    InputError,
    ParityError,
)
from ondevice.manifest import record
from ondevice.update import TRIES, boot, read_state, rollback, update

IDS = small_ids(8)


@pytest.fixture
def place(tmp_path):
    """model.odm, which is old.odm; new.odm, the delta d.odd and bad.odm lie in another folder."""
    old, new = write_pair(tmp_path / "given")
    write_bad(tmp_path / "given")
    (tmp_path / "given" / "d.odd").write_bytes(create_delta(old, new))
    device = tmp_path / "device"
    device.mkdir()
    shutil.copy(old, device / "model.odm")
    return device


def given(place, name):
    return place.parent / "given" / name


def is_model(place, name):
    return (place / "model.odm").read_bytes() == given(place, name).read_bytes()


def names(place):
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("source", ["d.odd", "new.odm"])
def test_update_by_delta_and_by_a_whole_file_then_back(place, source):
    result = update(place / "model.odm", given(place, source))
    assert is_model(place, "new.odm")
    assert result == record(given(place, "new.odm"))
    assert names(place) == ["model.odm", "model.odm.previous", "model.odm.update.json"]
    previous = place / "model.odm.previous"
    assert previous.read_bytes() == given(place, "old.odm").read_bytes()
    assert rollback(place / "model.odm") == record(given(place, "old.odm"))
    assert is_model(place, "old.odm")
    with pytest.raises(InputError, match=r"no model\.odm\.previous"):
        rollback(place / "model.odm")
    with pytest.raises(DowngradeError, match="was rolled back"):
        update(place / "model.odm", given(place, source))


def test_a_model_that_is_not_there_yet_is_a_whole_file(place):
    (place / "model.odm").unlink()
    with pytest.raises(FileFormatError, match=r"model.odm: no such file"):
        update(place / "model.odm", given(place, "d.odd"))
    update(place / "model.odm", given(place, "new.odm"))
    assert names(place) == ["model.odm", "model.odm.update.json"]


@pytest.mark.parametrize(
    "source, error",
    [("bad.odm", ParityError), ("broken.odd", FileFormatError), ("none", FileFormatError)],
)
def test_what_does_not_work_changes_nothing(place, source, error):
    delta = bytearray(given(place, "d.odd").read_bytes())
    delta[-1] ^= 1
    given(place, "broken.odd").write_bytes(delta)
    with pytest.raises(error):
        update(place / "model.odm", given(place, source))
    assert names(place) == ["model.odm"]
    assert is_model(place, "old.odm")


def test_a_delta_twice_or_of_another_model_is_refused(place):
    update(place / "model.odm", given(place, "d.odd"))
    with pytest.raises(BaseMismatchError):
        update(place / "model.odm", given(place, "d.odd"))
    assert is_model(place, "new.odm")


def test_links_stay_and_permissions_too(place):
    (place / "model.odm").chmod(0o640)
    (place.parent / "link.odm").symlink_to(place / "model.odm")
    update(place.parent / "link.odm", given(place, "d.odd"))
    assert (place.parent / "link.odm").is_symlink()
    assert is_model(place, "new.odm")
    assert (place / "model.odm").stat().st_mode & 0o777 == 0o640


def test_boot_confirms_a_model_that_works(place):
    update(place / "model.odm", given(place, "d.odd"))
    assert read_state(place / "model.odm").state == "trying"
    expected = ondevice.load(given(place, "new.odm")).predict(IDS)
    assert (boot(place / "model.odm").predict(IDS) == expected).all()
    assert read_state(place / "model.odm").state == "good"
    assert (boot(place / "model.odm").predict(IDS) == expected).all()


def put_untested(place, source):
    """As if an updater had not verified the file: another engine, a damaged disk."""
    update(place / "model.odm", given(place, "d.odd"))
    (place / "model.odm").write_bytes(given(place, source).read_bytes())
    state = json.loads((place / "model.odm.update.json").read_text())
    state["sha256"] = record(place / "model.odm").sha256
    (place / "model.odm.update.json").write_text(json.dumps(state))


def test_boot_rolls_back_a_model_that_fails_its_vectors(place):
    put_untested(place, "bad.odm")
    expected = ondevice.load(given(place, "old.odm")).predict(IDS)
    assert (boot(place / "model.odm").predict(IDS) == expected).all()
    assert is_model(place, "old.odm")
    assert read_state(place / "model.odm").rejected == record(given(place, "bad.odm")).sha256


def test_boot_rolls_back_a_model_that_crashes_the_process(place, monkeypatch):
    update(place / "model.odm", given(place, "d.odd"))

    def crash(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(TRIES):
        child = os.fork()
        if child == 0:
            monkeypatch.setattr("ondevice.update.verify", crash)
            boot(place / "model.odm")
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert is_model(place, "new.odm")
    boot(place / "model.odm")
    assert is_model(place, "old.odm")
    with pytest.raises(DowngradeError):
        update(place / "model.odm", given(place, "new.odm"))


def test_an_untested_update_never_becomes_the_previous_file(place):
    update(place / "model.odm", given(place, "d.odd"))
    put_untested_again = given(place, "old.odm")
    update(place / "model.odm", put_untested_again)
    previous = place / "model.odm.previous"
    assert previous.read_bytes() == given(place, "old.odm").read_bytes()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 1, "sha256": "x"}', "[" * 10_000])
def test_a_state_that_cannot_be_read_is_tried_again(place, text):
    update(place / "model.odm", given(place, "d.odd"))
    (place / "model.odm.update.json").write_text(text)
    boot(place / "model.odm")
    assert read_state(place / "model.odm").state == "good"
    assert is_model(place, "new.odm")


@pytest.mark.parametrize("work", ["update", "rollback"])
def test_killed_at_every_step_a_model_is_there_and_boots(place, work):
    """Of the old bytes or the new ones; and the next update works."""
    if work == "rollback":
        update(place / "model.odm", given(place, "d.odd"))
    kept = place.parent / "kept"
    shutil.copytree(place, kept)
    calls = {
        "update": lambda: update(place / "model.odm", given(place, "d.odd"), engine="numpy"),
        "rollback": lambda: rollback(place / "model.odm"),
    }
    steps = 0
    for _ in killed_at_every_step(place, calls[work]):
        steps += 1
        assert is_model(place, "old.odm") or is_model(place, "new.odm")
        boot(place / "model.odm", engine="numpy")
        assert read_state(place / "model.odm") is None or (
            read_state(place / "model.odm").state == "good"
        )
        state = read_state(place / "model.odm")
        if state is not None and state.rejected:
            assert is_model(place, "old.odm")  # rolled back for good
        else:
            update(place / "model.odm", given(place, "new.odm"), engine="numpy")
            assert is_model(place, "new.odm")
            assert not [name for name in names(place) if name.startswith(".ondevice-")]
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    assert steps > 3
