"""Power loss at any moment of Java's updates, boots and rollbacks: the old set or the new one.

As tests/hostile/test_crash.py does it for commands; ONDEVICE_CRASH_SAMPLES says how many
reorderings are drawn at a point.
"""

import os
import shutil
import subprocess
import sys

import jni_library
import pytest
from java_fixtures import JUNIT, no_jni_headers
from support.crash.replay import crashes, lay_out, read_record, whole
from support.crash.sets import content, files_key, states, visible
from support.deltas import write_pair
from support.signing import private_key, sign_folder
from support.tools import absent, missing, needs

from ondevice.delta.create import create_delta
from ondevice.publish import COMMITTED, finish
from ondevice.update import boot, read_update_state

SAMPLES = int(os.environ.get("ONDEVICE_CRASH_SAMPLES", "1"))
KEY = private_key(1)
pytestmark = needs(missing(*jni_library.TOOLS, "java"), absent(JUNIT), no_jni_headers())

# In the order in which they are recorded: the folder, and what UpdateFile does with its model.
STEPS = {
    "delta": ("device", "update", "d.odd"),
    "boot": ("device", "boot"),
    "file": ("device", "update", "old.odm"),
    "fallback": ("device", "boot"),  # three boots have crashed before
    "again": ("device", "again", "old.odm"),
    "rollback": ("device", "rollback"),
    "signed boot": ("signed", "boot"),
    "signed delta": ("signed", "update", "signed.odd"),
    "signed rollback": ("signed", "rollback"),
    "signed again": ("signed", "again", "signed.odd"),
    "signed use": ("signed", "boot"),
}
# Run with the working folder recorded: the device's first files, and tries that crashed.
FIRST = "import shutil, sys; [shutil.copytree(f'{sys.argv[1]}/{n}', n) for n in sys.argv[2:]]"
CRASHED = (
    "import pathlib; p = pathlib.Path('device/model.odm.update.json');"
    """p.write_text(p.read_text().replace('"tries": 0', '"tries": 3'))"""
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Folders of a first model and a signed set of it, and what the device is given later."""
    folder = tmp_path_factory.mktemp("given")
    old, new = write_pair(folder)
    (folder / "d.odd").write_bytes(create_delta(old, new))
    (folder / "device").mkdir()
    shutil.copy(old, folder / "device" / "model.odm")
    (folder / "later").mkdir()
    for name, source, version in (("signed", old, 2), ("later", new, 3)):
        (folder / name).mkdir(exist_ok=True)
        shutil.copy(source, folder / name / "model.odm")
        sign_folder(folder / name, KEY, version=version)
    later = folder / "later"
    delta = create_delta(old, later / "model.odm", later / "manifest.json")
    (folder / "signed.odd").write_bytes(delta)
    (folder / "models.pub").write_text(KEY.public.to_pem())
    return folder


@pytest.fixture(scope="module")
def java(faulty_library, classes, given):
    """Runs UpdateFile in a folder."""

    def run(folder, signed, *words, settings=None):
        flags = [f"-Dondevice.keys={given / 'models.pub'}"] if signed else []
        command = ["java", "-XX:TieredStopAtLevel=1", f"-Djava.library.path={faulty_library}",
                   "-classpath", classes, *flags, "ondevice.ctr.UpdateFile", *words]  # fmt: skip
        environment = os.environ | (settings or {})
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def record(shim, java, given, tmp_path_factory):
    """The operations of the steps, the marks between them, and the folder that they left."""
    disk = tmp_path_factory.mktemp("disk")
    log = tmp_path_factory.mktemp("log") / "record"
    settings = {"LD_PRELOAD": str(shim), "ONDEVICE_CRASH_ROOT": str(disk),
                "ONDEVICE_CRASH_LOG": str(log)}  # fmt: skip

    def prepare(program, *words):
        command = [sys.executable, "-c", program, *words]
        subprocess.run(command, cwd=disk, env=os.environ | settings, check=True)

    def mark(name):
        with log.open("a") as file:
            file.write(f"K\t{name}\n")

    prepare(FIRST, str(given), "device", "signed")
    for name, (folder, command, *files) in STEPS.items():
        if name == "fallback":
            assert read_update_state(disk / "device" / "model.odm").state == "trying"
            mark("crashed tries")
            prepare(CRASHED)
        mark(name)
        words = [command, f"{folder}/model.odm", *(str(given / file) for file in files)]
        java(disk, folder == "signed", *words, settings=settings)
    return *read_record(log, disk), disk


def test_the_record_is_complete(record, given):
    operations, marks, disk = record
    assert whole(operations).files() == content(disk)
    assert len(operations) - marks["delta"] > 200


@pytest.mark.parametrize("step", STEPS)
def test_a_power_loss_leaves_the_old_set_or_the_new(
    record, java, given, tmp_path, record_property, step
):
    """Both languages boot what was left; what they find then is one of the step's states."""
    operations, marks, _ = record
    name = STEPS[step][0]
    first = marks[step]
    last = min((end for end in marks.values() if end > first), default=len(operations))
    legal = states(operations, first, last)[name]
    folders = []
    for _, tree in crashes(operations, first, last, SAMPLES, seed=7):
        folder = tmp_path / str(len(folders))
        folder.mkdir()
        lay_out(tree, folder)
        shutil.copytree(folder, tmp_path / "java" / folder.name)
        folders.append(folder)
    assert len(folders) >= 4
    models = [f"{folder.name}/{name}/model.odm" for folder in folders]
    java(tmp_path / "java", name == "signed", "boots", *models)
    for folder in folders:
        finish(folder / name)
        assert files_key(visible(content(folder))[name]) in legal
        options = {}
        if name == "signed":
            options = {"keys": given / "models.pub", "state": folder / "state.json"}
        for place in (folder, tmp_path / "java" / folder.name):
            boot(place / name / "model.odm", engine="numpy", **options)
            assert not (place / name / COMMITTED).exists()
            state = read_update_state(place / name / "model.odm")
            assert state is None or state.state == "good"
    record_property("replayed", f"{step}: {last - first} operations, {len(folders)} folders")
