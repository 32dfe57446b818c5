"""Differences in front of a dense layer: left out of native files, the scores stay torch's."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.converters.dense.differences import absorb_differences
from ondevice.converters.graph import PackedModel
from ondevice.odm import open_odm

STEPS, DIM, UNITS = 5, 4, 7


class Interest(nn.Module):
    """The activation unit of an interest network over a history, in the order `parts`."""

    def __init__(self, parts="q k q-k q*k"):
        super().__init__()
        torch.manual_seed(1)
        self.items, self.parts = nn.Embedding(50, DIM), parts.split()
        self.unit = nn.Sequential(
            nn.Linear(DIM * len(self.parts), UNITS), nn.Sigmoid(), nn.Linear(UNITS, 1)
        )

    def forward(self, item, history):
        k = self.items(history)
        q = self.items(item).unsqueeze(1).expand(-1, STEPS, -1)
        values = {"q": q, "k": k, "q-k": q - k, "k-q": k - q, "q*k": q * k}
        joined = torch.cat([values[part] for part in self.parts], -1)
        return torch.sigmoid(self.unit(joined).sum(1)).squeeze(-1)


@pytest.mark.parametrize(("parts", "dense"), [("q k q-k q*k", "f32"), ("k-q q*k k q", "q8")])
def test_interest_network(tmp_path, parts, dense):
    module, rng = Interest(parts).eval(), np.random.default_rng(0)
    request = {"item": rng.integers(0, 50, 9), "history": rng.integers(0, 50, (9, STEPS))}
    example = {name: torch.from_numpy(values) for name, values in request.items()}
    convert(module, example, tmp_path, targets=("odm",), tables="f32", dense=dense)
    layers = [n for n in open_odm(tmp_path / "model.odm").plan.nodes if n.op == "Dense"]
    assert layers[0].attributes["features"] == 3 * DIM
    with torch.no_grad():
        right = module(**example).numpy()
    for engine in ("native", "numpy"):
        got = ondevice.load(tmp_path / "model.odm", engine=engine).predict(request)
        np.testing.assert_allclose(got, right, atol=1e-5 if dense == "f32" else 0.02)


# What `y` is, given a and b [n, 2, 3], a constant w and the layer's own weights.
LAYER = "c = Concat <axis = -1> ({}) y = MatMul (c, w)"
GRAPHS = {
    "operands in front": ("d = Sub (a, b) " + LAYER.format("a, b, d"), 6),
    "operands behind": ("d = Sub (b, a) " + LAYER.format("d, a, b"), 6),
    "two differences": ("d = Sub (a, b) e = Sub (b, a) " + LAYER.format("a, d, b, e"), 6),
    "an operand is missing": ("d = Sub (a, b) " + LAYER.format("a, d, d"), 9),
    "of itself": ("d = Sub (a, a) " + LAYER.format("a, d, b"), 9),
    "another reader": ("d = Sub (a, b) " + LAYER.format("a, b, d") + " z = Abs (d)", 6),
    "an output": ("z = Sub (a, b) " + LAYER.format("a, b, z"), 6),
    "the Concat has another reader": (
        "d = Sub (a, b) " + LAYER.format("a, b, d") + " z = Abs (c)", 9
    ),
    "along another axis": (
        "d = Sub (a, b) c = Concat <axis = 1> (a, b, d) y = MatMul (c, w)", None
    ),
}  # fmt: skip


def parsed(body, weight):
    """A packed model of float32 a and b [n, 2, 3], and its outputs y and, where it has one, z."""
    outputs = "float[n, p, q] y" + (", float[n, r, s] z" if " z = " in body else "")
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[n,2,3] a, float[n,2,3] b) => '
    proto = onnx.parser.parse_model(text + f"({outputs}) {{ {body} }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    proto = onnx.shape_inference.infer_shapes(proto)
    return PackedModel(ir.from_proto(proto), (), {})


def run(packed, request):
    session = onnxruntime.InferenceSession(ir.to_proto(packed.model).SerializeToString())
    return session.run(None, request)


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs(case):
    body, features = GRAPHS[case]
    rng = np.random.default_rng(3)
    size = features or 3
    columns = 3 * (body.split("Concat")[1].split(")")[0].count(",") + 1) if features else 3
    weight = rng.normal(size=(columns, UNITS)).astype(np.float32)
    packed = parsed(body, weight)
    request = {name: rng.normal(size=(4, 2, 3)).astype(np.float32) for name in "ab"}
    after = absorb_differences(packed)
    product = next(node for node in after.model.graph if node.op_type == "MatMul")
    assert product.inputs[1].shape[0] == size
    for got, right in zip(run(after, request), run(packed, request), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("operands", "difference"), [(1, 9), (4e4, 3e4)])
def test_weights_that_would_cancel_or_overflow_stay(operands, difference):
    """(a - b) * 1e6 of equal a and b is 0, 1e6 * a - 1e6 * b need not be; 7e4 is no float16."""
    weight = np.full((9, UNITS), operands, np.float32)
    weight[6:] = difference
    packed = parsed("d = Sub (a, b) " + LAYER.format("a, b, d"), weight)
    after = absorb_differences(packed)
    assert next(n for n in after.model.graph if n.op_type == "MatMul").inputs[1].shape[0] == 9


def test_other_targets_keep_the_range_of_the_difference(tmp_path):
    """q8-static layers of the .tflite file: the difference is wider than its operands."""
    rng = np.random.default_rng(2)
    module = Interest("q k q-k").eval()
    with torch.no_grad():
        module.items.weight.abs_()  # a difference may be below 0, its operands not
    rows = {"item": rng.integers(0, 50, 64), "history": rng.integers(0, 50, (64, STEPS))}
    example = {name: torch.from_numpy(values[:4]) for name, values in rows.items()}
    convert(
        module, example, tmp_path, targets=("onnx",), tables="f32", dense="q8", calibration=rows
    )
    with torch.no_grad():
        right = module(**{name: torch.from_numpy(values) for name, values in rows.items()}).numpy()
    got = ondevice.load(tmp_path / "model.onnx").predict(rows)
    np.testing.assert_allclose(got, right, atol=0.02)
