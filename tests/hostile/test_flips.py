"""Single flipped bits in every kind of model file are found when it is loaded, each of them."""

import numpy as np
import pytest
import torch
from support.converters import PlainModel

import ondevice
from ondevice.converters import convert
from ondevice.errors import FileFormatError
from ondevice.verify import verify

FILES = {
    "model.odm": "model.odm",
    "model.onnx": "model.onnx",
    "model.onnx.data": "model.onnx",
    "model.tflite": "model.tflite",
}
FLIPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    rows = torch.arange(8)
    convert(PlainModel().eval(), {"user": rows, "item": rows}, path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_found(folder, name):
    file, loaded = folder / name, folder / FILES[name]
    data = file.read_bytes()
    ondevice.load(loaded)
    rng = np.random.default_rng(0)
    try:
        for place in rng.choice(len(data) * 8, FLIPS, replace=False):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << (place % 8)
            file.write_bytes(flipped)
            with pytest.raises(FileFormatError):
                ondevice.load(loaded)
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_every_bit_of_the_digest_and_its_mark_counts(folder, name):
    file = folder / name
    data = file.read_bytes()
    start = data.index(b"ondevice-sha256:")
    try:
        for place in range((start - 20) * 8, (start + 16 + 64 + 13 + 64) * 8, 11):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << (place % 8)
            file.write_bytes(flipped)
            with pytest.raises(FileFormatError):
                ondevice.load(file)
    finally:
        file.write_bytes(data)


def test_files_of_two_conversions_do_not_load_together(folder, tmp_path):
    rows = torch.arange(8)
    torch.manual_seed(5)
    convert(PlainModel().eval(), {"user": rows, "item": rows}, tmp_path, targets=("onnx",))
    assert ondevice.load(tmp_path / "model.onnx").predict({"user": [1], "item": [2]}).shape == (1,)
    (tmp_path / "model.onnx.data").write_bytes((folder / "model.onnx.data").read_bytes())
    with pytest.raises(FileFormatError, match="of another conversion"):
        ondevice.load(tmp_path / "model.onnx")


def test_a_renamed_onnx_file_still_finds_its_data(folder, tmp_path):
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    renamed = (tmp_path / "model.onnx").rename(tmp_path / "renamed.onnx")
    assert ondevice.load(renamed).predict({"user": [1], "item": [2]}).shape == (1,)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(FileFormatError, match=r"model\.onnx\.data: cannot be read"):
        ondevice.load(renamed)


def test_verify_compares_with_the_manifest(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert verify(tmp_path / "model.odm").passed
    (tmp_path / "manifest.json").write_text(
        (tmp_path / "manifest.json").read_text().replace('"length":', '"length":1')
    )
    with pytest.raises(FileFormatError, match="its manifest says"):
        verify(tmp_path / "model.odm")
