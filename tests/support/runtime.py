"""A small native model built by hand, and its probabilities computed without the package."""

import math
import struct
from dataclasses import replace

import numpy as np

from ondevice.codecs import quantise
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec, ModelInfo, TestVectors
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.spec import binary_code_spec, full_spec

VOCABULARY = np.array([-(2**62), -5, 17, 2**61], dtype=np.int64)  # hashes of four colours
FEATURES = FeatureSpec(
    (
        Field("user", "string", "hash", seed=7),
        Field("colour", "integer", "vocabulary", seed=9, vocabulary=VOCABULARY),
        Field("slot", "integer", "id"),
    )
)
SPECS = {
    "user": binary_code_spec(4, code_bits=12, t=5, padding_id=0),
    "colour": full_spec(6, 3, padding_id=0, oov_row=1),
    "slot": full_spec(5, 2),  # no out-of-vocabulary row: IDs beyond are an error
}
WIDTHS = {"user": True, "colour": False, "slot": False}


def small_tables():
    """Float tables whose values q8 with column scales represents exactly."""
    rng = np.random.default_rng(3)
    tables, widths = {}, {}
    for name, spec in SPECS.items():
        codes = rng.integers(-127, 128, (spec.rows, spec.dim))
        codes[0] = 127  # the largest code in every column makes the scale exactly 1/127
        tables[name] = (codes / 127).astype(np.float32)
        if WIDTHS[name]:
            widths[name] = rng.integers(1, spec.dim + 1, spec.rows)
            widths[name][0] = spec.dim
            tables[name][np.arange(spec.dim) >= widths[name][:, None]] = 0
    return tables, widths


def small_weights():
    rng = np.random.default_rng(4)
    return {
        "w1": rng.normal(size=(8, 9)).astype(np.float32),
        "b1": rng.normal(size=8).astype(np.float32),
        "w2": rng.normal(size=(1, 8)).astype(np.float32),
        "b2": np.zeros(1, dtype=np.float32),
        "axes": np.array([-1], dtype=np.int64),
    }


def write_small_model(path, *, vectors=True, cells=None):
    """Write the model; its inputs are user, colour and slot, their texts read as `cells`."""
    tables, widths = small_tables()
    packed = {
        name: pack_records(
            quantise(tables[name], "q8", widths=widths.get(name), scale_axis="column")
        )
        for name in SPECS
    }
    lookups = tuple(
        Node("Lookup", (name,), (f"{name}.vector",), {}, name, spec) for name, spec in SPECS.items()
    )
    plan = Plan(
        inputs=tuple(SPECS),
        outputs=("probability",),
        nodes=(
            *lookups,
            Node("Concat", tuple(f"{name}.vector" for name in SPECS), ("all",), {"axis": -1}),
            Node("Gemm", ("all", "w1", "b1"), ("h",), {"transB": 1}),
            Node("Relu", ("h",), ("r",), {}),
            Node("Gemm", ("r", "w2", "b2"), ("o",), {"transB": 1}),
            Node("Squeeze", ("o", "axes"), ("logit",), {}),
            Node("Sigmoid", ("logit",), ("probability",), {}),
        ),
        weights=("w1", "b1", "w2", "b2", "axes"),
        tables={name: table.layout for name, table in packed.items()},
    )
    test = None
    if vectors:
        ids = small_ids(32)
        test = TestVectors(ids, {"probability": expected_probabilities(ids)}, 1e-5)
    info = ModelInfo(
        inputs=(
            InputSpec("user"),
            InputSpec("colour"),
            InputSpec("slot", id_limit=SPECS["slot"].rows),
        ),
        outputs=("probability",),
        features=FeatureSpec(tuple(replace(field, cells=cells) for field in FEATURES.fields)),
        vectors=test,
        made_by={"ondevice-ctr": "test"},
    )
    write_odm(path, plan, info, small_weights(), packed)


def write_one_input_model(path, *, length=None, rows=8):
    """A model of the input "item": the score of an ID is the ID, of a sequence their sum."""
    spec = full_spec(rows, 1, padding_id=0)
    spec = spec if length is None else replace(spec, pooling="sum")
    table = pack_records(quantise(np.arange(rows, dtype=np.float32)[:, None], "f32"))
    plan = Plan(
        inputs=("item",),
        outputs=("score",),
        nodes=(
            Node("Lookup", ("item",), ("vector",), {}, "item", spec),
            Node("Squeeze", ("vector", "axes"), ("score",), {}),
        ),
        weights=("axes",),
        tables={"item": table.layout},
    )
    shape = ("batch",) if length is None else ("batch", length)
    info = ModelInfo((InputSpec("item", shape, id_limit=rows),), ("score",))
    write_odm(path, plan, info, {"axes": np.array([-1], np.int64)}, {"item": table})
    return path


def small_ids(rows, seed=0):
    """IDs with extremes, padding and out-of-vocabulary values among them."""
    rng = np.random.default_rng(seed)
    user = rng.integers(-(2**63), 2**63 - 1, rows, dtype=np.int64, endpoint=True)
    user[: min(rows, 5)] = [0, -1, 2**63 - 1, -(2**63), 1][: min(rows, 5)]
    colour = rng.integers(-3, 9, rows)
    slot = rng.integers(0, 5, rows)
    return {"user": user, "colour": colour, "slot": slot}


def expected_probabilities(ids):
    """The model in plain Python: integers for codes, floats for the network."""
    tables, _ = small_tables()
    weights = small_weights()
    out = []
    for user, colour, slot in zip(ids["user"], ids["colour"], ids["slot"], strict=True):
        code = int(user) % 2**12
        rows = [code & 31, 32 + (code >> 5 & 31), 64 + (code >> 10)]
        user_vector = [float(sum(tables["user"][row][j] for row in rows)) for j in range(4)]
        if int(user) == 0:
            user_vector = [0.0] * 4
        row = int(colour) if 0 <= colour < 6 else 1
        colour_vector = [float(v) for v in tables["colour"][row]] if colour != 0 else [0.0] * 3
        x = user_vector + colour_vector + [float(v) for v in tables["slot"][int(slot)]]
        hidden = [
            max(0.0, sum(float(w) * v for w, v in zip(line, x, strict=True)) + float(bias))
            for line, bias in zip(weights["w1"], weights["b1"], strict=True)
        ]
        logit = sum(float(w) * h for w, h in zip(weights["w2"][0], hidden, strict=True))
        out.append(1 / (1 + math.exp(-logit)))
    return np.array(out, dtype=np.float32)


def header_of(data):
    """Length of the safetensors header of a file's bytes, the 8 length bytes included."""
    return 8 + struct.unpack("<Q", data[:8])[0]
