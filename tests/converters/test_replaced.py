"""Small files, and the engines that read whole files: nothing done to the file reaches a model."""

import os
import shutil
import threading

import numpy as np
import pytest
import torch
from support.converters import PlainModel

import ondevice
from ondevice.converters import convert
from ondevice.engines.native import is_compiled
from ondevice.errors import FileFormatError

ENGINES = {"native": "odm", "numpy": "odm", "onnx": "onnx", "tflite": "tflite"}
REQUEST = {"user": np.arange(8), "item": np.arange(8)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    rows = torch.arange(8)
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folders.append(tmp_path_factory.mktemp(f"models{seed}"))
        convert(PlainModel().eval(), {"user": rows, "item": rows}, folders[-1])
    return folders


def truncate(path, other):
    os.truncate(path, 0)


def overwrite(path, other):
    content = other.read_bytes()
    with path.open("r+b") as file:
        file.write(content)


def copy(path, other):
    shutil.copyfile(other, path)


def rename(path, other):
    shutil.copyfile(other, path.with_name("next"))
    path.with_name("next").replace(path)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", [truncate, overwrite, copy, rename])
def test_a_loaded_model_keeps_its_scores(folders, tmp_path, engine, change):
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    shutil.copytree(folders[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"model.{ENGINES[engine]}"
    model = ondevice.load(path, engine=engine)
    right = model.predict(REQUEST)
    begun, stop, wrong = threading.Barrier(9), threading.Event(), []

    def work():
        begun.wait()
        while not stop.is_set():
            if not np.array_equal(model.predict(REQUEST), right):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    begun.wait()
    for file in sorted(tmp_path.iterdir()):
        change(file, folders[1] / file.name)
    stop.wait(0.05)
    stop.set()
    for worker in workers:
        worker.join()
    assert not wrong
    assert np.array_equal(model.predict(REQUEST), right)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_read_while_it_is_overwritten_is_one_or_the_other_or_an_error(
    folders, tmp_path, engine
):
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    names = [f"model.{ENGINES[engine]}"] + ["model.onnx.data"] * (engine == "onnx")
    right = [ondevice.load(folder / names[0], engine=engine).predict(REQUEST) for folder in folders]
    shutil.copytree(folders[0], tmp_path, dirs_exist_ok=True)
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            for folder in folders:
                for name in names:
                    overwrite(tmp_path / name, folder / name)
                    copy(tmp_path / name, folder / name)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(60):
            try:
                scores = ondevice.load(tmp_path / names[0], engine=engine).predict(REQUEST)
            except FileFormatError:
                continue
            assert np.array_equal(scores, right[0]) or np.array_equal(scores, right[1])
    finally:
        stop.set()
        writer.join()
    assert np.array_equal(
        ondevice.load(tmp_path / names[0], engine=engine).predict(REQUEST), right[1]
    )
