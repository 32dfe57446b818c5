"""Files of earlier releases, whose description is JSON with base64 in it, open in every target."""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.tflite import build, hybrid

import ondevice
from ondevice.converters import pipeline
from ondevice.converters.tables.draft import fill
from ondevice.converters.targets.merge import merge_lookups
from ondevice.converters.targets.onnx import emit as onnx_emit
from ondevice.converters.targets.tflite import emit as tflite_emit
from ondevice.converters.targets.tflite import writer
from ondevice.inspection import file_parts, inspect
from ondevice.verify import verify

KNOWN = np.array([-5, 7, 2**40])
IDS = np.array([3, -1, 2**63 - 1, 0])


def packed(array):
    data = base64.b64encode(array.tobytes()).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.name, "data": data}


def description(name, scores):
    """As version 1 wrote it; the keys are those of its last release."""
    field = {"name": name, "kind": "string", "encoding": "vocabulary", "seed": 3,
             "vocabulary": base64.b64encode(KNOWN.astype("<i8").tobytes()).decode()}  # fmt: skip
    vectors = {"inputs": {name: packed(IDS)}, "outputs": {"probability": packed(scores)},
               "tolerance": 1e-5, "rankings": []}  # fmt: skip
    return {
        "version": 1,
        "inputs": [{"name": name, "shape": ["batch"], "id_limit": None}],
        "outputs": ["probability"],
        "features": [field],
        "tables": [],
        "made_by": {"ondevice-ctr": "0.1.0"},
        "vectors": vectors,
    }


def write(target, path, built, text):
    """The emitters of today, without what they do to a description."""
    if target == "onnx":
        fill(onnx_emit.emit_onnx(merge_lookups(built.packed), path, text))
    else:
        lowered = pipeline.run(built.packed, pipeline.LOWERING)
        fill(tflite_emit.emit_tflite(lowered, path, text))


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_descriptions_of_version_1_are_read(tmp_path, monkeypatch, target):
    monkeypatch.setattr(onnx_emit, "METADATA_KEY", "ondevice")
    monkeypatch.setattr(onnx_emit, "base64", SimpleNamespace(b64encode=lambda data: data))
    monkeypatch.setattr(writer, "METADATA_NAME", "ondevice")
    for module in (onnx_emit, writer):
        monkeypatch.setattr(module, "deflate", lambda data: data)
    built = build([hybrid()])
    (name,) = built.inputs
    path = tmp_path / f"model.{target}"
    write(target, path, built, json.dumps(description(name, np.zeros(4, np.float32))).encode())
    scores = ondevice.load(path).predict({name: IDS})
    write(target, path, built, json.dumps(description(name, scores)).encode())
    model = ondevice.load(path)
    assert model.features[name].vocabulary.tolist() == KNOWN.tolist()
    assert model.features[name].hash_bits == 64
    assert verify(path).passed
    parts = file_parts(path)
    assert parts.total == inspect(path).file_bytes
    assert parts.map == 32  # base64 of 24 bytes
    vectors = description(name, scores)["vectors"]
    assert parts.vectors == len(json.dumps(vectors, separators=(",", ":")))
