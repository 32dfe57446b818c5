"""Power loss at any moment of train, convert, bench and compress: each set is the old or the new.

A preloaded library records all that the commands do to files; `support.crash.replay` makes every
folder that a power loss may leave, reorderings among them, and each is opened here.
ONDEVICE_CRASH_SAMPLES says how many reorderings are drawn at a point (`make soak`: many).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import crash
from support.crash.commands import COMMANDS as RUNS
from support.crash.replay import crashes, lay_out, read_record, whole
from support.crash.sets import content, files_key, states, visible

from ondevice import manifest
from ondevice.atomic import atomic_path
from ondevice.models import load_checkpoint
from ondevice.publish import HIDDEN, finish, publishing
from ondevice.verify import verify

SCRIPT = Path(crash.__file__).parent / "commands.py"
SAMPLES = int(os.environ.get("ONDEVICE_CRASH_SAMPLES", "3"))
COMMANDS = os.environ.get("ONDEVICE_CRASH_COMMANDS", "train convert other update bench").split()


@pytest.fixture(scope="module")
def record(shim, tmp_path_factory):
    """The operations of the commands, the marks between them, and the folder that they left."""
    root = tmp_path_factory.mktemp("root")
    log = tmp_path_factory.mktemp("log") / "record"
    settings = {"LD_PRELOAD": shim, "ONDEVICE_CRASH_ROOT": root, "ONDEVICE_CRASH_LOG": log}
    subprocess.run(
        [sys.executable, SCRIPT, *COMMANDS],
        cwd=root,
        env=os.environ | {name: str(value) for name, value in settings.items()},
        check=True,
        capture_output=True,
    )
    return *read_record(log, root), root


def test_the_record_is_complete(record):
    operations, _, root = record
    assert whole(operations).files() == content(root)


@pytest.mark.parametrize(
    ("command", "number"),
    [(command, number) for command in COMMANDS for number in range(len(RUNS[command]))],
)
def test_a_power_loss_leaves_the_old_set_or_the_new(
    record, tmp_path, record_property, command, number
):
    operations, marks, _ = record
    ends = sorted(marks.values())
    first = marks[f"{command} {number}"]
    last = next((end for end in ends if end > first), len(operations))
    legal = states(operations, first, last)
    sets = {name for name, held in legal.items() if _is_set(next(reversed(held.values())))}
    checked, count, swept = set(), 0, 0
    for _, tree in crashes(operations, first, last, SAMPLES, seed=7):
        count += 1
        folder = tmp_path / "disk"
        folder.mkdir()
        lay_out(tree, folder)
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not any(HIDDEN.fullmatch(part) for part in path.parts):
                finish(path)
        for name, held in visible(content(folder)).items():
            if name in sets:
                assert files_key(held) in legal[name], f"{command} {number}: {sorted(held)}"
                if files_key(held) not in checked:
                    checked.add(files_key(held))
                    _open(folder / name)
            else:
                for file, data in held.items():
                    versions = {state.get(file) for state in legal[name].values()}
                    assert data in versions, f"{command} {number}: {name}/{file}"
        if count % 5 == 0:
            swept += _next_run_sweeps(folder)
        shutil.rmtree(folder)
    assert count > 8 and swept > 0
    text = f"{command} {number}: {last - first} operations, {count} folders, {swept} swept"
    record_property("replayed", text)
    if report := os.environ.get("ONDEVICE_CRASH_REPORT"):
        with Path(report).open("a") as file:
            file.write(text + "\n")


def _is_set(files):
    return manifest.NAME in files or "config.json" in files


def _open(folder):
    """Load what is a set."""
    if (folder / "config.json").exists():
        load_checkpoint(folder)
    if (folder / manifest.NAME).exists():
        listed = manifest.read_manifest(folder / manifest.NAME)
        # `update` takes the model of a set, without the report and the files of other engines
        names = ["model.odm"] if folder.name == "device" else None
        manifest.check(listed, folder, names)
        for suffix in ("odm", "onnx", "tflite"):
            if (folder / f"model.{suffix}").exists():
                assert verify(folder / f"model.{suffix}").passed


def _next_run_sweeps(folder):
    """Whether something was left, which the next writers remove."""
    left = [path for path in folder.rglob("*") if HIDDEN.fullmatch(path.name)]
    with atomic_path(folder / "next.json") as temporary:
        temporary.write_text(json.dumps({}))
    for path in {item.parent for item in left if item.parent != folder}:
        with publishing(path) as fresh:
            (fresh / "next").write_text("")
    assert not [path for path in folder.rglob("*") if HIDDEN.fullmatch(path.name)]
    return bool(left)
