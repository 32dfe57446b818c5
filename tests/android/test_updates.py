"""Updates in Java: what Python's do, on the same files; killed, forestalled, without room.

ONDEVICE_KILLS sets how often a process is killed at a random moment.
"""

import os
import shutil
import subprocess
import threading
import time

import jni_library
import numpy as np
import pytest
from java_fixtures import JUNIT, no_jni_headers
from support.deltas import write_bad, write_pair
from support.signing import private_key, sign_folder
from support.tools import absent, missing, needs

import ondevice
from ondevice.delta.create import create_delta
from ondevice.errors import DowngradeError, InputError, OutputError
from ondevice.manifest import read_manifest
from ondevice.update import boot, read_update_state, rollback, update

KILLS = int(os.environ.get("ONDEVICE_KILLS", "12"))
KEY = private_key(1)
pytestmark = needs(missing(*jni_library.TOOLS, "java"), absent(JUNIT), no_jni_headers())


class Java:
    """Runs UpdateFile on a model; what it printed."""

    def __init__(self, library, classes):
        self.command = ["java", "-XX:TieredStopAtLevel=1", f"-Djava.library.path={library}",
                        "-classpath", classes]  # fmt: skip

    def start(self, command, model, *files, **options):
        flags = [f"-Dondevice.{name}={value}" for name, value in options.items()]
        return subprocess.Popen(
            [*self.command, *flags, "ondevice.ctr.UpdateFile", command, model, *files],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, command, model, *files, **options):
        process = self.start(command, model, *files, **options)
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return out.strip()

    def killed_at(self, step, command, model, *files):
        """Whether the process was killed before its end."""
        process = self.start(command, model, *files, kill=step)
        out, errors = process.communicate(timeout=600)
        if process.returncode == -9:
            return True
        assert (process.returncode, out) == (0, "ok\n"), out + errors
        return False


@pytest.fixture(scope="session")
def java(faulty_library, classes):
    return Java(faulty_library, classes)


@pytest.fixture
def place(tmp_path):
    """device/model.odm, which is given/old.odm; there are new.odm, d.odd and bad.odm, too."""
    old, new = write_pair(tmp_path / "given")
    write_bad(tmp_path / "given")
    (tmp_path / "given" / "d.odd").write_bytes(create_delta(old, new))
    (tmp_path / "given" / "back.odd").write_bytes(create_delta(new, old))
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


def test_both_languages_update_one_folder(place, java):
    model, delta = place / "model.odm", given(place, "d.odd")
    model.chmod(0o640)
    assert java("update", model, delta) == "ok"
    assert is_model(place, "new.odm") and model.stat().st_mode & 0o777 == 0o640
    assert names(place) == ["model.odm", "model.odm.previous", "model.odm.update.json"]
    assert read_update_state(model).state == "trying"
    boot(model)  # what Java began, Python confirms
    assert read_update_state(model).state == "good"
    assert java("boot", model) == "ok"
    rollback(model)
    assert is_model(place, "old.odm")
    assert java("update", model, delta).startswith("UpdateException")  # rolled back by Python
    assert java("rollback", model).startswith("UpdateException")  # twice
    assert java("again", model, delta) == "ok"
    assert java("boot", model) == "ok"  # ... and here Java confirms
    assert read_update_state(model).state == "good"
    assert java("rollback", model) == "ok"
    with pytest.raises(DowngradeError, match="--again"):
        update(model, delta)
    with pytest.raises(InputError):
        rollback(model)
    update(model, delta, again=True)
    assert java("boot", model) == "ok"
    assert is_model(place, "new.odm")


def test_the_same_file_again_changes_nothing(place, java):
    """Else the last good file would be lost to a second run of a daily job."""
    model = place / "model.odm"
    assert java("update", model, given(place, "new.odm")) == "ok"
    assert java("boot", model) == "ok"
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert java("update", model, given(place, "new.odm")) == "ok"
    assert before == {path.name: path.read_bytes() for path in place.iterdir()}
    assert java("rollback", model) == "ok"
    assert is_model(place, "old.odm")


def test_what_does_not_work_is_refused_or_rolled_back(place, java, monkeypatch):
    model = place / "model.odm"
    os.mkfifo(given(place, "pipe"))
    for source, error in (("bad.odm", "UpdateException"), ("back.odd", "ModelFileException"),
                          ("nothing", "FileNotFoundException"),
                          ("pipe", "UpdateException")):  # fmt: skip
        assert java("update", model, given(place, source)).startswith(error)
        assert names(place) == ["model.odm"]
    monkeypatch.setattr("ondevice.update._check_vectors", lambda *_: None)
    update(model, given(place, "bad.odm"))  # as if another engine had answered
    assert is_model(place, "bad.odm")
    assert java("boot", model) == "ok"
    assert is_model(place, "old.odm")
    assert read_update_state(model).rejected


def test_tries_that_crashed_are_counted_by_both(place, java):
    model = place / "model.odm"
    update(model, given(place, "d.odd"))
    tried = 0
    for step in range(20, 400, 10):  # the first steps come before the try is counted
        assert java.killed_at(step, "boot", model)
        tried = read_update_state(model).tries
        if tried == 3:
            break
    assert tried == 3
    boot(model)
    assert is_model(place, "old.odm")


def test_lack_of_memory_is_not_the_models_fault(place, java):
    """A start without memory is an error and a try; the new model stays."""
    model = place / "model.odm"
    update(model, given(place, "d.odd"))
    said = [java("boot", model, memory=call) for call in (1, 2, 5)]
    assert all(text.startswith("OnDeviceException") for text in said), said
    assert read_update_state(model).tries == 3
    state = (place / "model.odm.update.json").read_text()
    (place / "model.odm.update.json").write_text(state.replace(": 3", ": 2"))
    assert java("boot", model) == "ok"
    assert is_model(place, "new.odm")
    assert read_update_state(model).state == "good"


def test_killed_at_every_step_a_model_is_there_and_boots(place, java):
    """At every third system call that Java's updates make beyond the Java machine's own."""
    kept = place.parent / "kept"
    shutil.copytree(place, kept)
    step, killed = 1, True
    while killed:
        killed = java.killed_at(step, "update", place / "model.odm", given(place, "d.odd"))
        assert is_model(place, "old.odm") or is_model(place, "new.odm")
        boot(place / "model.odm")
        update(place / "model.odm", given(place, "new.odm"))
        assert is_model(place, "new.odm")
        assert not [name for name in names(place) if name.startswith(".ondevice-")]
        shutil.rmtree(place)
        shutil.copytree(kept, place)
        step += 3
    assert step > 60


def test_killed_at_random_moments(place, java):
    """A process that updates and boots without end; then either language goes on."""
    model = place / "model.odm"
    rng = np.random.default_rng(5)
    update(model, given(place, "new.odm"))
    update(model, given(place, "old.odm"))
    for number in range(KILLS):
        process = java.start("turns", model, given(place, "new.odm"), given(place, "old.odm"))
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -9
        assert is_model(place, "old.odm") or is_model(place, "new.odm")
        if number % 2:
            boot(model)
        else:
            assert java("boot", model) == "ok"
        assert is_model(place, "old.odm") or is_model(place, "new.odm")
        assert read_update_state(model).state == "good"


def test_two_updaters_at_once(place, java):
    """Java and Python take turns at one file; readers see whole models, and nothing is left."""
    model = place / "model.odm"
    new, old = given(place, "new.odm"), given(place, "old.odm")
    process = java.start("turns", model, new, old, "25")
    assert process.stdout.readline() == "ready\n"
    done, faults = threading.Event(), []

    def read():
        while not done.is_set():
            try:
                ondevice.load(model)
            except Exception as error:  # whatever it is, it is a fault
                faults.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(25):
        try:
            update(model, (new, old)[number % 2], again=True)
            boot(model)
        except OutputError as error:
            assert "other processes" in str(error)
    out, errors = process.communicate(timeout=3000)
    done.set()
    reader.join()
    assert process.returncode == 0, errors
    assert out in ("ok\n", "") or "other processes" in out, out
    assert not faults
    boot(model)
    assert is_model(place, "old.odm") or is_model(place, "new.odm")
    assert names(place) == ["model.odm", "model.odm.previous", "model.odm.update.json"]


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="no file system may be mounted",
)
def test_a_full_disk_and_a_read_only_one(place, java):
    """The model stays; the same update works when there is room; what cannot be written boots."""
    program = " ".join(f"'{part}'" for part in [*java.command, "ondevice.ctr.UpdateFile"])
    disk, given_files = place.parent / "disk", place.parent / "given"
    disk.mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size=48k none {disk}
        cp {place}/model.odm {disk}
        head -c 100000 /dev/zero > {disk}/filler 2> /dev/null || true
        {program} update {disk}/model.odm {given_files}/new.odm
        cmp {disk}/model.odm {given_files}/old.odm
        ls -A {disk}
        rm {disk}/filler
        {program} update {disk}/model.odm {given_files}/new.odm
        mount -o remount,ro {disk}
        {program} boot {disk}/model.odm
        {program} update {disk}/model.odm {given_files}/old.odm
        cmp {disk}/model.odm {given_files}/new.odm
    """
    done = subprocess.run(["unshare", "-m", "sh", "-c", script],
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    full, *left, updated, booted, refused = done.stdout.splitlines()
    assert full.startswith(("IOException", "FileNotFoundException")), done.stdout
    assert left == ["filler", "model.odm"]
    assert (updated, booted) == ("ok", "ok")
    assert refused.startswith("IOException")


@pytest.fixture
def sets(tmp_path):
    """A device with version 2 of a signed set, version 3 with the delta to it, and the key."""
    old, new = write_pair(tmp_path / "given")
    device, tomorrow = tmp_path / "device", tmp_path / "tomorrow"
    for folder, source, version in ((device, old, 2), (tomorrow, new, 3)):
        folder.mkdir()
        shutil.copy(source, folder / "model.odm")
        sign_folder(folder, KEY, version=version)
    delta = create_delta(old, tomorrow / "model.odm", tomorrow / "manifest.json")
    (tomorrow / "d.odd").write_bytes(delta)
    (tmp_path / "models.pub").write_text(KEY.public.to_pem())
    (tmp_path / "other.pub").write_text(private_key(2).public.to_pem())
    return device, tomorrow


def version(folder):
    return read_manifest(folder / "manifest.json").model_set.version


def test_a_signed_set_is_updated_with_its_manifest_and_back(sets, java, tmp_path):
    device, tomorrow = sets
    model = device / "model.odm"
    trust = {"keys": tmp_path / "models.pub", "state": tmp_path / "state.json"}
    assert java("boot", model, **trust) == "ok"
    stranger = {**trust, "keys": tmp_path / "other.pub"}
    assert java("update", model, tomorrow / "d.odd", **stranger).startswith("UntrustedModel")
    assert java("update", model, given(device, "new.odm"), **trust).startswith("UpdateException")
    assert version(device) == 2
    assert java("update", model, tomorrow / "d.odd", **trust) == "ok"
    assert version(device) == 3
    assert java("rollback", model, **trust) == "ok"
    assert version(device) == 2
    assert java("boot", model, **trust) == "ok"
    assert java("again", model, tomorrow / "model.odm", **trust) == "ok"
    assert java("boot", model, **trust) == "ok"  # from now on version 3 is the lowest
    assert java("rollback", model, **trust) == "ok"
    assert java("boot", model, **trust).startswith("UntrustedModelException")
    assert java("again", model, tomorrow / "d.odd", **trust) == "ok"
    boot(model, keys=trust["keys"], state=trust["state"])
    sign_folder(tomorrow, KEY, version=1)
    assert java("update", model, tomorrow / "model.odm", **trust).startswith("UpdateException")
