"""Updates in place: verified, switched by a rename, rolled back; killed at every step."""

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import time

import pytest
from support.deltas import write_bad, write_pair
from support.killed import killed_at_every_step
from support.runtime import small_ids
from support.signing import NOW, private_key, sign_folder

import ondevice
from ondevice.delta.create import create_delta
from ondevice.errors import (
    BaseMismatchError,
    DowngradeError,
    FileFormatError,
    InputError,
    OutputError,
    ParityError,
    TrustError,
)
from ondevice.manifest import read_manifest, record
from ondevice.update import TRIES, boot, read_update_state, rollback, update

IDS = small_ids(8)
KEY = private_key(1)


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
    assert read_update_state(place / "model.odm").state == "trying"
    expected = ondevice.load(given(place, "new.odm")).predict(IDS)
    assert (boot(place / "model.odm").predict(IDS) == expected).all()
    assert read_update_state(place / "model.odm").state == "good"
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
    assert read_update_state(place / "model.odm").rejected == record(given(place, "bad.odm")).sha256


def test_boot_rolls_back_a_model_that_crashes_the_process(place, monkeypatch):
    update(place / "model.odm", given(place, "d.odd"))

    def crash(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(TRIES):
        child = os.fork()
        if child == 0:
            try:
                monkeypatch.setattr("ondevice.update.verify", crash)
                boot(place / "model.odm")
            finally:
                os._exit(1)
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
    assert read_update_state(place / "model.odm").state == "good"
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
        assert read_update_state(place / "model.odm") is None or (
            read_update_state(place / "model.odm").state == "good"
        )
        state = read_update_state(place / "model.odm")
        if state is not None and state.rejected:
            assert is_model(place, "old.odm")  # rolled back for good
        else:
            update(place / "model.odm", given(place, "new.odm"), engine="numpy")
            assert is_model(place, "new.odm")
            assert not [name for name in names(place) if name.startswith(".ondevice-")]
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    assert steps > 3


def test_after_two_updates_only_the_last_one_is_rolled_back(place):
    model = place / "model.odm"
    update(model, given(place, "d.odd"))
    boot(model)
    update(model, given(place, "old.odm"))
    boot(model)
    rollback(model)
    assert is_model(place, "new.odm")
    with pytest.raises(InputError, match="there is no model"):
        rollback(model)
    assert is_model(place, "new.odm")


def test_the_same_file_again_changes_nothing(place):
    """Else the last good file would be lost to a second run of a daily job."""
    model = place / "model.odm"
    update(model, given(place, "new.odm"))
    boot(model)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    for _ in range(2):
        assert update(model, given(place, "new.odm")) == record(model)
    assert before == {path.name: path.read_bytes() for path in place.iterdir()}
    rollback(model)
    assert is_model(place, "old.odm")


def test_what_is_no_regular_file_is_refused_at_once(place, tmp_path):
    """A pipe without a writer would block."""
    os.mkfifo(tmp_path / "pipe")
    for model, source in (
        (place / "model.odm", tmp_path / "pipe"),
        (place / "model.odm", place),
        (place, given(place, "new.odm")),
        (tmp_path / "pipe", given(place, "new.odm")),
    ):
        with pytest.raises(InputError, match="not a regular file"):
            update(model, source)
    assert names(place) == ["model.odm"]


def test_a_file_system_without_links_permissions_locks_and_syncs_of_folders(
    place, monkeypatch, request
):
    """As a memory card or a network may have: an update, a boot and a rollback work."""
    plain_sync, umask = os.fsync, os.umask(0o022)
    request.addfinalizer(lambda: os.umask(umask))
    for path in place.parent.rglob("*.odm"):
        path.chmod(0o644)

    def refuse(number):
        def refused(*_, **__):
            raise OSError(number, os.strerror(number))

        return refused

    def sync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        plain_sync(file)

    monkeypatch.setattr(os, "fsync", sync)
    for name in ("link", "chmod", "chown"):
        monkeypatch.setattr(os, name, refuse(errno.EPERM))
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    model = place / "model.odm"
    update(model, given(place, "d.odd"))
    monkeypatch.setattr("ondevice.atomic.PRIVATE_MODE", 0o644)  # there all files have one mode
    boot(model)
    assert read_update_state(model).state == "good"
    rollback(model)
    assert is_model(place, "old.odm")


def test_again_takes_what_was_rolled_back_and_nothing_else(place):
    model = place / "model.odm"
    update(model, given(place, "d.odd"))
    rollback(model)
    with pytest.raises(DowngradeError, match="--again"):
        update(model, given(place, "d.odd"))
    with pytest.raises(ParityError):
        update(model, given(place, "bad.odm"), again=True)
    update(model, given(place, "d.odd"), again=True)
    assert is_model(place, "new.odm")
    assert read_update_state(model).rejected == ""
    boot(model)
    assert is_model(place, "new.odm")


def in_processes(count, work):
    """Run `work` in forked processes, each a little later than the last; their exit codes."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                time.sleep(number / 10)
                work()
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_many_processes_that_boot_at_once_count_as_one_try(place, monkeypatch):
    """As the workers of a server start; more of them than TRIES."""
    import ondevice.update as module

    plain = module._check_vectors
    update(place / "model.odm", given(place, "d.odd"))
    monkeypatch.setattr(
        module, "_check_vectors", lambda *arguments: (time.sleep(0.8), plain(*arguments))
    )
    codes = in_processes(4 * TRIES, lambda: boot(place / "model.odm", engine="numpy"))
    assert set(codes) == {0}
    assert is_model(place, "new.odm")
    assert read_update_state(place / "model.odm").state == "good"


def test_an_update_that_another_process_forestalls_begins_anew(place, monkeypatch):
    """What it was checked against is not there any more."""
    import ondevice.update as module

    model, checks = place / "model.odm", []
    plain = module._check_vectors

    def forestall(*arguments):
        plain(*arguments)
        checks.append(arguments)
        if len(checks) == 1:
            shutil.copy(given(place, "new.odm"), place / "fresh")
            (place / "fresh").replace(model)

    monkeypatch.setattr(module, "_check_vectors", forestall)
    with pytest.raises(BaseMismatchError):  # found at the second attempt
        update(model, given(place, "d.odd"))
    assert is_model(place, "new.odm")
    assert names(place) == ["model.odm"]

    def always(*_):
        os.utime(model, ns=(0, len(checks)))
        checks.append(None)

    monkeypatch.setattr(module, "_check_vectors", always)
    with pytest.raises(OutputError, match="other processes"):
        update(model, given(place, "old.odm"))
    assert is_model(place, "new.odm")


def test_a_state_that_cannot_be_written_does_not_stop_the_model(place, monkeypatch):
    """On storage that has become read-only, updates are verified at every start."""
    import ondevice.update as module

    def refuse(_):
        raise OutputError("read-only")

    update(place / "model.odm", given(place, "d.odd"))
    monkeypatch.setattr(module, "atomic_path", refuse)
    for _ in range(TRIES + 1):
        with pytest.warns(RuntimeWarning, match="not counted"):
            boot(place / "model.odm")
    assert is_model(place, "new.odm")
    assert read_update_state(place / "model.odm").tries == 0


@pytest.fixture
def sets(tmp_path):
    """A device with version 2 of a signed set, and version 3 with the delta to it."""
    old, new = write_pair(tmp_path / "given")
    device, tomorrow = tmp_path / "device", tmp_path / "tomorrow"
    for folder, source, version in ((device, old, 2), (tomorrow, new, 3)):
        folder.mkdir()
        shutil.copy(source, folder / "model.odm")
        sign_folder(folder, KEY, version=version)
    delta = create_delta(old, tomorrow / "model.odm", tomorrow / "manifest.json")
    (tomorrow / "d.odd").write_bytes(delta)
    return device, tomorrow


@pytest.mark.parametrize("source", ["d.odd", "model.odm"])
def test_a_signed_set_is_updated_with_its_manifest_and_back(sets, source):
    device, tomorrow = sets
    seen = device.parent / "seen.json"
    trusted = {"keys": KEY.public, "state": seen, "now": NOW}
    boot(device / "model.odm", **trusted)
    update(device / "model.odm", tomorrow / source, **trusted)
    for name in ("model.odm", "manifest.json"):
        assert (device / name).read_bytes() == (tomorrow / name).read_bytes()
    ondevice.load(tomorrow / "model.odm", keys=KEY.public, now=NOW)
    rollback(device / "model.odm")
    boot(device / "model.odm", **trusted)  # version 3 was never used, so version 2 is not too old
    assert read_manifest(device / "manifest.json").model_set.version == 2


def test_a_signed_set_that_fails_at_boot_goes_back_with_its_manifest(sets):
    device, tomorrow = sets
    update(device / "model.odm", tomorrow / "d.odd", keys=KEY.public, now=NOW)
    bad = write_bad(device.parent / "given")
    (device / "model.odm").write_bytes(bad.read_bytes())
    state = json.loads((device / "model.odm.update.json").read_text())
    state["sha256"] = record(bad).sha256
    (device / "model.odm.update.json").write_text(json.dumps(state))
    boot(device / "model.odm", keys=KEY.public, now=NOW)
    assert read_manifest(device / "manifest.json").model_set.version == 2


def test_an_older_set_is_refused(sets):
    device, tomorrow = sets
    shutil.copy(device / "model.odm", tomorrow / "model.odm")
    sign_folder(tomorrow, KEY, version=1, names=["model.odm"])
    with pytest.raises(DowngradeError, match="version 1; version 2 is installed"):
        update(device / "model.odm", tomorrow / "model.odm")


def test_another_signature_and_none_are_refused(sets):
    device, tomorrow = sets
    before = (device / "model.odm").read_bytes()
    with pytest.raises(TrustError):
        update(device / "model.odm", tomorrow / "d.odd", keys=private_key(2).public, now=NOW)
    bare = device.parent / "bare.odm"
    shutil.copy(tomorrow / "model.odm", bare)
    with pytest.raises(InputError, match=r"brings no manifest"):
        update(device / "model.odm", bare)
    (device / "manifest.json").unlink()
    with pytest.raises(TrustError, match="brings no manifest"):
        update(device / "model.odm", bare, keys=KEY.public, now=NOW)
    assert (device / "model.odm").read_bytes() == before


def test_a_manifest_of_other_files_is_refused(sets):
    device, tomorrow = sets
    shutil.copy(device / "model.odm", tomorrow / "second.odm")
    shutil.copy(tomorrow / "model.odm", device / "second.odm")
    sign_folder(tomorrow, KEY, version=4, names=["model.odm", "second.odm"])
    with pytest.raises(FileFormatError, match=r"second\.odm"):
        update(device / "model.odm", tomorrow / "model.odm")
    assert read_manifest(device / "manifest.json").model_set.version == 2


def test_a_clock_that_is_set_back_opens_no_older_version(sets, tmp_path):
    """It may lengthen the life of the newest one; the version that was used stays the lowest."""
    device, tomorrow = sets
    trust = {"keys": KEY.public, "state": tmp_path / "state.json"}
    old = shutil.copytree(device, tmp_path / "old")
    update(device / "model.odm", tomorrow / "d.odd", now=NOW, **trust)
    boot(device / "model.odm", now=NOW, **trust)
    back = NOW.replace(year=1971)
    boot(device / "model.odm", now=back, **trust)
    with pytest.raises(TrustError, match="version 2"):
        ondevice.load(old / "model.odm", now=back, **trust)
    rollback(device / "model.odm")
    with pytest.raises(TrustError, match="version 2"):
        boot(device / "model.odm", now=back, **trust)
    with pytest.raises(DowngradeError, match="rolled back"):
        update(device / "model.odm", tomorrow / "d.odd", now=NOW, **trust)
    update(device / "model.odm", tomorrow / "d.odd", now=NOW, again=True, **trust)
    boot(device / "model.odm", now=NOW, **trust)


def test_a_boot_that_another_update_disturbs_rolls_nothing_back(place, monkeypatch):
    """What failed was checked in part against the model that came meanwhile."""
    import ondevice.update as module

    model, plain = place / "model.odm", module._check_vectors
    update(model, given(place, "new.odm"))
    boots = []

    def disturb(*arguments):
        boots.append(arguments)
        if len(boots) > 1:
            return plain(*arguments)
        monkeypatch.setattr(module, "_check_vectors", plain)
        update(model, given(place, "old.odm"))
        monkeypatch.setattr(module, "_check_vectors", disturb)
        raise ParityError("the old model's answers beside the new one's")

    monkeypatch.setattr(module, "_check_vectors", disturb)
    expected = ondevice.load(given(place, "old.odm")).predict(IDS)
    assert (boot(model).predict(IDS) == expected).all()
    assert len(boots) == 2
    state = read_update_state(model)
    assert (state.state, state.rejected) == ("good", "")
    assert is_model(place, "old.odm")
