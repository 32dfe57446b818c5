"""Model files that are truncated, overwritten or replaced under load: no crash, no mixed scores."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support.native import random_table, write_model

import ondevice
from ondevice.engines.native import is_compiled
from ondevice.errors import FileFormatError
from ondevice.odm import FULL_CHECK_BYTES
from ondevice.spec import full_spec

ROWS, DIM = 100_000, 32
compiled = pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
IDS = np.random.default_rng(5).integers(0, ROWS, (8, 3000))


def write(path, seed):
    spec = full_spec(ROWS, DIM)
    table = random_table(spec, "f32", np.random.default_rng(seed), truncated=False)
    write_model(path, {"a": spec}, {"a": table}, [], {}, ["a.vector"])
    old = time.time() - 60  # a file that has just been written is copied, not mapped
    os.utime(path, (old, old))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    for seed in (0, 1):
        write(folder / f"{seed}.odm", seed)
    assert (folder / "0.odm").stat().st_size > FULL_CHECK_BYTES
    return folder / "0.odm", folder / "1.odm"


def truncate(path, other):
    os.truncate(path, 4096)


def empty(path, other):
    os.truncate(path, 0)


def overwrite(path, other):
    with other.open("rb") as source, path.open("r+b") as file:
        shutil.copyfileobj(source, file)


def copy(path, other):
    shutil.copyfile(other, path)  # as cp does: truncate, then write


def rename(path, other):
    shutil.copyfile(other, path.with_name("next"))
    path.with_name("next").replace(path)


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("change", [truncate, empty, overwrite, copy, rename])
def test_scores_are_the_old_model_s_or_an_error(files, tmp_path, change, threads):
    path = tmp_path / "model.odm"
    shutil.copy2(files[0], path)
    model = ondevice.load(path, threads=threads)
    right = [ondevice.load(files[0]).predict({"a": ids}) for ids in IDS]
    begun, stop, wrong, refused = threading.Barrier(9), threading.Event(), [], []

    def work(number):
        begun.wait()
        while not stop.is_set():
            try:
                if not np.array_equal(model.predict({"a": IDS[number]}), right[number]):
                    wrong.append(number)
            except FileFormatError as error:
                refused.append(str(error))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    begun.wait()
    change(path, files[1])
    time.sleep(0.1)
    stop.set()
    for worker in workers:
        worker.join()
    assert not wrong
    if change is rename:
        assert not refused
        assert np.array_equal(model.predict({"a": IDS[0]}), right[0])
        return
    assert all("truncated or overwritten while it was in use" in text for text in refused)
    with pytest.raises(FileFormatError, match="open it again"):
        model.predict({"a": IDS[0]})


@compiled
def test_other_sizes_of_a_changed_file_are_refused_too(files, tmp_path):
    path = tmp_path / "model.odm"
    shutil.copy2(files[0], path)
    model = ondevice.load(path)
    again = model.runner.resized({})
    assert again.run({"a": IDS[0]})["a.vector"].shape == (3000, DIM)
    os.truncate(path, 4096)
    with pytest.raises(FileFormatError, match="open it again"):
        again.run({"a": IDS[0]})


@compiled
def test_more_mapped_files_than_the_handler_knows_are_copied(files, tmp_path):
    path = tmp_path / "model.odm"
    shutil.copy2(files[0], path)
    right = ondevice.load(files[0]).predict({"a": IDS[0]})
    models = [ondevice.load(files[0]) for _ in range(64)]
    model = ondevice.load(path)
    os.truncate(path, 4096)
    assert np.array_equal(model.predict({"a": IDS[0]}), right)
    del models


@compiled
def test_a_file_that_changed_just_now_is_copied(files, tmp_path):
    """Another change within the same tick of the clock would leave its time as it is."""
    path = tmp_path / "model.odm"
    shutil.copyfile(files[0], path)
    soon = time.time() + 60
    os.utime(path, (soon, soon))
    model = ondevice.load(path)
    right = model.predict({"a": IDS[0]})
    os.truncate(path, 4096)
    assert np.array_equal(model.predict({"a": IDS[0]}), right)


OTHERS_FAULT = """
import mmap, sys, os
import ondevice
ondevice.load(sys.argv[1])
with open(sys.argv[2], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    os.truncate(sys.argv[2], 0)
    mapped[5000]
"""


@compiled
@pytest.mark.parametrize("options", [[], ["-X", "faulthandler"]])
def test_faults_of_others_still_end_the_process(files, tmp_path, options):
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(10_000))
    command = [sys.executable, *options, "-c", OTHERS_FAULT, str(files[0]), str(victim)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGBUS
    assert ("Bus error" in done.stderr) == bool(options)


@compiled
def test_a_large_file_loads_without_being_read(files):
    times = []
    for _ in range(7):
        start = time.process_time()
        model = ondevice.engines.native.NativeEngine(files[0])
        times.append(time.process_time() - start)
        del model
    assert min(times) < 0.002  # reading and checking the 12.8 MB would take 10 ms
