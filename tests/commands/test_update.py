"""`ondevice delta` and `ondevice update` as a user starts them."""

import shutil
import subprocess
import sys

from support.deltas import write_pair


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ondevice", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_delta_update_and_rollback(tmp_path):
    old, new = write_pair(tmp_path)
    model, delta = tmp_path / "device" / "model.odm", tmp_path / "d.odd"
    model.parent.mkdir()
    shutil.copy(old, model)
    done = call("delta", old, new, "-o", delta)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{delta}: {delta.stat().st_size} B" in done.stdout
    assert call("update", model, delta).returncode == 0
    assert model.read_bytes() == new.read_bytes()
    again = call("update", model, delta)
    assert again.returncode == 1
    assert "changes a file of" in again.stderr and again.stderr.count("\n") == 1
    assert call("update", "--rollback", model).returncode == 0
    assert model.read_bytes() == old.read_bytes()


def test_usage(tmp_path):
    assert call("update", tmp_path / "model.odm").returncode == 2
    assert call("delta", tmp_path / "a", tmp_path / "b").returncode == 2
    assert "example" in call("delta", "--help").stdout
    assert "example" in call("update", "--help").stdout


def test_with_a_key_an_unsigned_model_is_refused(tmp_path):
    old, new = write_pair(tmp_path)
    done = call("update", old, new, "--key", tmp_path / "models.key.pub")
    assert done.returncode == 1
    assert "nothing says who signed it" in done.stderr
