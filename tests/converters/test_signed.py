"""Converted models of every format, signed: they load, and nothing that is not signed does."""

import numpy as np
import pytest
import torch
from support.converters import PlainModel
from support.signing import private_key

import ondevice
from ondevice.converters import convert
from ondevice.errors import FileFormatError, TrustError
from ondevice.manifest import NAME, read_manifest

KEY = private_key(1)
IDS = {"user": np.arange(8), "item": np.arange(8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    rows = torch.arange(8)
    convert(PlainModel().eval(), {"user": rows, "item": rows}, path)
    made = read_manifest(path / NAME)
    signed = type(made)(made.model_set, made.signed_bytes, (KEY.sign(made.signed_bytes),))
    (path / NAME).write_bytes(signed.to_bytes())
    return path


@pytest.mark.parametrize("name", ["model.odm", "model.onnx", "model.tflite"])
def test_every_engine_runs_what_is_signed(folder, name):
    expected = ondevice.load(folder / name).predict(IDS)
    model = ondevice.load(folder / name, keys=KEY.public)
    np.testing.assert_array_equal(model.predict(IDS), expected)
    assert str(folder / name) in repr(model)
    with pytest.raises(TrustError, match="0 valid signatures"):
        ondevice.load(folder / name, keys=private_key(2).public)


@pytest.mark.parametrize("name", ["model.odm", "model.onnx", "model.onnx.data", "model.tflite"])
def test_every_file_counts(folder, name):
    """A valid file of another conversion is not what was signed."""
    loaded = folder / name.removesuffix(".data")
    good = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(FileFormatError, match="manifest says"):
            ondevice.load(loaded, keys=KEY.public)
        (folder / name).unlink()
        with pytest.raises(FileFormatError, match="no such file"):
            ondevice.load(loaded, keys=KEY.public)
    finally:
        (folder / name).write_bytes(good)


def test_external_data_must_be_signed_too(folder):
    path = folder / NAME
    made, before = read_manifest(path), path.read_bytes()
    files = {n: item for n, item in made.model_set.files.items() if n != "model.onnx.data"}
    value = type(made.model_set)(files, made.model_set.version).to_bytes()
    unlisted = type(made)(made.model_set, value, (KEY.sign(value),))
    try:
        path.write_bytes(unlisted.to_bytes())
        with pytest.raises(FileFormatError, match=r"'model\.onnx\.data' is not signed"):
            ondevice.load(folder / "model.onnx", keys=KEY.public)
    finally:
        path.write_bytes(before)
