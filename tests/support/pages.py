"""Pages of docs/devices as tests walk them: their blocks, and a model like the demo's."""

import re
import shlex
from pathlib import Path

import numpy as np
from support.native import stored

from ondevice.codecs import quantise
from ondevice.features import FeatureSpec, Field
from ondevice.info import InputSpec, ModelInfo, TestVectors
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.spec import full_spec

ROOT = Path(__file__).parents[2]
DEVICES = ROOT / "docs" / "devices"
INPUTS = ("user", "item", "seller", "category", "hour", "device")
ROWS, DIM = 50, 2


def blocks(name, *languages):
    """The fenced blocks of a page in these languages, in order: pairs of language and text."""
    text = (DEVICES / name).read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(kind, block) for kind, block in fence.findall(text) if kind in languages]


def commands(text):
    """The commands of a block of shell, without comments; a line may go on behind a backslash."""
    joined = text.replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()]
    for line in filter(None, lines):
        shlex.split(line)  # quotes close
    return [line for line in lines if line and not line.startswith("#")]


def demo_tables():
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=(ROWS, DIM)).astype(np.float32) for name in INPUTS}


def demo_scores(ids):
    """What the model gives for IDs of all inputs, computed without the package."""
    tables = demo_tables()
    logits = sum(tables[name][np.asarray(ids[name])].astype(np.float64).sum(1) for name in INPUTS)
    return 1 / (1 + np.exp(-logits))


def write_demo_model(path):
    """A model that takes what the demo's takes, for pages whose commands name its inputs."""
    packed = {name: stored(quantise(table, "f32")) for name, table in demo_tables().items()}
    specs = {name: full_spec(ROWS, DIM) for name in INPUTS}
    nodes = (
        *(Node("Lookup", (name,), (f"{name}.v",), {}, name, specs[name]) for name in INPUTS),
        Node("Concat", tuple(f"{name}.v" for name in INPUTS), ("all",), {"axis": -1}),
        Node("Gemm", ("all", "w", "b"), ("o",), {"transB": 1}),
        Node("Squeeze", ("o", "axes"), ("logit",), {}),
        Node("Sigmoid", ("logit",), ("score",), {}),
    )
    weights = {
        "w": np.ones((1, DIM * len(INPUTS)), np.float32),
        "b": np.zeros(1, np.float32),
        "axes": np.array([-1], np.int64),
    }
    layouts = {name: table.layout for name, table in packed.items()}
    plan = Plan(
        inputs=INPUTS, outputs=("score",), nodes=nodes, weights=tuple(weights), tables=layouts
    )
    ids = {name: np.random.default_rng(6).integers(0, ROWS, 8) for name in INPUTS}
    info = ModelInfo(
        inputs=tuple(InputSpec(name, id_limit=ROWS) for name in INPUTS),
        outputs=("score",),
        features=FeatureSpec(tuple(Field(name, "integer", "id") for name in INPUTS)),
        vectors=TestVectors(ids, {"score": demo_scores(ids).astype(np.float32)}, 1e-5),
    )
    write_odm(path, plan, info, weights, packed)
    return path
