"""A model of free axes: attention of a user over a history of any length."""

import numpy as np

from ondevice.codecs import quantise
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan
from ondevice.records import pack_records
from ondevice.spec import full_spec

DIM = 4
INPUTS = (
    InputSpec("user", id_limit=9),
    InputSpec("history", ("batch", "steps"), id_limit=9),
    InputSpec("numbers", ("batch", "steps", 2), dtype="float32"),
)


def ints(*values):
    return np.array(values, np.int64)


def write_attention(
    path, extra=(), constants=None, outputs=("score", "weights"), vectors=None, seed=0
):
    """Attention of a user over a history of free length, its numbers and positions added.

    Shapes are computed by the request: [rows, 1, steps], [rows, steps], [steps] ones.
    """
    rng = np.random.default_rng(seed)
    spec = full_spec(9, DIM)
    table = rng.normal(size=(9, DIM)).astype(np.float32)
    weights = {
        "one": ints(1), "two": ints(2), "zero": ints(0), "last": ints(-1), "dim": ints(DIM),
        "ones": np.ones(1, np.float32), "w": rng.normal(size=(2, DIM)).astype(np.float32),
        "axis": np.array(0, np.int64), "tenth": np.full(1, 0.1, np.float32),
        "bias": np.full((1, 1), 0.25, np.float32), **(constants or {}),
    }  # fmt: skip
    nodes = [
        Node("Lookup", ("user",), ("u",), {}, "t", spec),
        Node("Lookup", ("history",), ("h",), {}, "t", spec),
        Node("Shape", ("user",), ("rows",), {"start": 0, "end": 1}),
        Node("Shape", ("history",), ("steps",), {"start": 1, "end": 2}),
        Node("MatMul", ("numbers", "w"), ("n",), {}),
        Node("Add", ("h", "n"), ("x",), {}),
        Node("Unsqueeze", ("u", "two"), ("query",), {}),
        Node("MatMul", ("x", "query"), ("products",), {}),
        Node("Concat", ("rows", "steps"), ("flat",), {"axis": 0}),
        Node("Reshape", ("products", "flat"), ("scores",), {}),
        Node("Expand", ("ones", "steps"), ("each",), {}),
        Node("CumSum", ("each", "axis"), ("position",), {}),
        Node("Mul", ("position", "tenth"), ("late",), {}),
        Node("Add", ("scores", "late"), ("biased",), {}),
        Node("Expand", ("bias", "flat"), ("same",), {}),
        Node("Add", ("biased", "same"), ("all",), {}),
        Node("Softmax", ("all",), ("weights",), {"axis": -1}),
        Node("Concat", ("rows", "one", "steps"), ("wide",), {"axis": 0}),
        Node("Reshape", ("weights", "wide"), ("row",), {}),
        Node("MatMul", ("row", "x"), ("mean",), {}),
        Node("Squeeze", ("mean", "one"), ("vector",), {}),
        Node("ReduceSum", ("vector", "one"), ("score",), {"keepdims": 0}),
        *extra,
    ]
    packed = pack_records(quantise(table, "f32"))
    plan = Plan(tuple(s.name for s in INPUTS), outputs, tuple(nodes), tuple(weights),
                {"t": packed.layout})  # fmt: skip
    write_odm(path, plan, ModelInfo(INPUTS, outputs, vectors=vectors), weights, {"t": packed})

    def expected(request):
        u, x = table[request["user"]], table[request["history"]] + request["numbers"] @ weights["w"]
        scores = (x * u[:, None]).sum(-1) + 0.25 + 0.1 * np.arange(1, x.shape[1] + 1)
        e = np.exp(scores - scores.max(1, keepdims=True))
        attention = e / e.sum(1, keepdims=True)
        return {"score": (attention[:, :, None] * x).sum((1, 2)), "weights": attention}

    return expected


def request(rows, steps, seed=0):
    rng = np.random.default_rng(seed + steps)
    return {
        "user": rng.integers(0, 9, rows),
        "history": rng.integers(0, 9, (rows, steps)),
        "numbers": rng.normal(size=(rows, steps, 2)).astype(np.float32),
    }
