"""Inputs and arithmetic of 8, 16 and 32 bits: every target gives torch's scores, wraps and all."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest
import torch
from onnxruntime import InferenceSession
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.engines.native import is_compiled
from ondevice.errors import InputError

ENGINES = [("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite")]
if is_compiled():
    ENGINES.append(("odm", "native"))
NARROW = {"uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16}
WIDTHS = {**NARROW, "int32": torch.int32, "int64": torch.int64}


class Network(nn.Module):
    """A table of 256 rows behind integer arithmetic."""

    def __init__(self, ids, dtype=None):
        super().__init__()
        torch.manual_seed(5)
        self.table, self.ids, self.dtype = nn.Embedding(256, 4), ids, dtype

    def forward(self, x):
        return torch.sigmoid(self.table(self.ids(x, self.dtype)).sum(-1))


COMPUTED = {
    "sum": lambda x, _: (x + 100).long() % 256,
    "product": lambda x, _: (x * x - x).long() % 256,
    "negated": lambda x, _: (-x).long() % 256,
    "compared": lambda x, _: (x > 5).long() + 2 * (x == 3).long() + torch.clamp(x, 0, 4).long(),
    "chosen": lambda x, _: torch.where(x > 7, x, 7 - x).long() % 256,
    "moved": lambda x, _: torch.stack([x, x + 1], 1).reshape(-1, 2)[:, 1].long() % 256,
}


def values_of(dtype, reach=2**31):
    """Values of a type: small ones, and its ends where they are within reach."""
    info = torch.iinfo(WIDTHS[dtype])
    ends = [info.min, info.min + 1, info.max - 1, info.max, -1, -7]
    small = [0, 1, 2, 3, 5, 6, 7, 50, 99, 126, 127, *(end for end in ends if abs(end) < reach)]
    return np.array(sorted({v for v in small if info.min <= v <= info.max}))


def agree(module, dtype, values, folder):
    for target, engine in ENGINES:
        model = ondevice.load(folder / f"model.{target}", engine=engine)
        with torch.inference_mode():
            expected = module(torch.from_numpy(values).to(WIDTHS[dtype])).numpy()
        for given in (values, values.astype(dtype)):
            got = model.predict({model.inputs[0].name: given})
            np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0, err_msg=engine)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_ids_of_every_width(dtype, tmp_path):
    """What only selects rows is a lookup, as with 64 bits."""
    module, values = Network(lambda x, _: x.long()).eval(), values_of("int8")
    values = values[values >= 0]
    convert(module, (torch.from_numpy(values).to(WIDTHS[dtype]),), tmp_path, tables="f32")
    agree(module, dtype, values, tmp_path)
    from ondevice.odm import open_odm

    assert open_odm(tmp_path / "model.odm").plan.nodes[0].op == "Lookup"
    for target, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
        for outside in (-1, 256):
            with pytest.raises(InputError):
                model.predict({model.inputs[0].name: np.array([outside])})


@pytest.mark.parametrize("ids", COMPUTED.values(), ids=COMPUTED)
@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_integers_wrap_around(dtype, ids, tmp_path):
    """Arithmetic of 8 and 16 bits; what the type cannot hold is refused."""
    module, values = Network(ids).eval(), values_of(dtype)
    convert(module, (torch.from_numpy(values).to(NARROW[dtype]),), tmp_path, tables="f32")
    agree(module, dtype, values, tmp_path)
    info = np.iinfo(dtype)
    for target, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
        for outside in (int(info.min) - 1, int(info.max) + 1):
            with pytest.raises(InputError, match=f"outside {info.min}..{info.max}"):
                model.predict({model.inputs[0].name: np.array([outside])})


class Attributes(nn.Module):
    """Numbers about each item in a buffer of few bits, with which the network computes."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(7)
        info = torch.iinfo(dtype)
        ends = torch.tensor([info.min, info.max, info.max - 1, 0, 1, 3])
        numbers = torch.cat([ends, torch.randint(info.min, info.max, (84,))])
        self.register_buffer("numbers", numbers.reshape(30, 3).to(dtype))
        self.table, self.unit = nn.Embedding(30, 4), nn.Linear(4 + 3 * 14, 1)

    def forward(self, item):
        row = self.numbers[item]
        computed = [
            row + 100, row * row, torch.where(row > 50, row, 7 - row), -row, row.clamp(5, 60),
            row.flip(-1), (row > 50).long() + (row == 3), row.max(-1, keepdim=True)[0] - row,
            torch.cat([row[:, :1], row[:, 1:] + 1], -1),
            row & 15, row >> 2, row << 3, row // 3, row % 7,
        ]  # fmt: skip
        parts = torch.cat([part.float() / 300 for part in computed], -1)
        return self.unit(torch.cat([self.table(item), parts], -1))[:, 0], row + 100


@pytest.mark.parametrize("dtype", NARROW)
def test_rows_of_a_narrow_buffer_wrap_around(dtype, tmp_path):
    """What a network computes with them, and what it returns of that."""
    module, items = Attributes(NARROW[dtype]).eval(), torch.arange(30)
    convert(module, (items,), tmp_path, tables="f32")
    with torch.inference_mode():
        score, sum_of = module(items)
    for target, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{target}", engine=engine)
        got = list(model.predict({"item": items.numpy()}).values())
        np.testing.assert_allclose(got[0], score, atol=1e-5, rtol=1e-5, err_msg=engine)
        np.testing.assert_array_equal(got[1], sum_of.numpy(), err_msg=engine)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_cast_to_narrow_integers_wraps_around(dtype, tmp_path):
    """Of any ID of 64 bits."""
    module = Network(lambda x, to: x.to(to).long() % 256, NARROW[dtype]).eval()
    values = np.array([0, 1, 127, 128, 200, 255, 256, 300, -1, -129, 40_000, 2**33 + 3, -(2**40)])
    convert(module, (torch.from_numpy(values),), tmp_path, tables="f32")
    agree(module, "int64", values, tmp_path)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_numbers_of_every_width(dtype, tmp_path):
    class Numbers(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(6)
            self.unit = nn.Linear(2, 1)

        def forward(self, x):
            both = torch.stack([x.float() / 7, x.float()], -1)
            return torch.sigmoid(self.unit(both / 50)).squeeze(-1)

    module, values = Numbers().eval(), values_of(dtype, reach=40_000)
    convert(module, (torch.from_numpy(values).to(WIDTHS[dtype]),), tmp_path, tables="f32")
    agree(module, dtype, values, tmp_path)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_onnx_inputs_of_every_width(dtype, tmp_path):
    """A graph of another tool: IDs of a narrow type, cast, and narrow numbers beside them."""
    kind = int(oh.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    rng = np.random.default_rng(0)
    table = onnx.numpy_helper.from_array(rng.normal(size=(50, 4)).astype(np.float32), "table")
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    tenth = onnx.numpy_helper.from_array(np.array(0.01, np.float32), "tenth")
    nodes = [
        oh.make_node("Cast", ["ids"], ["wide"], to=7),
        oh.make_node("Gather", ["table", "wide"], ["rows"]),
        oh.make_node("ReduceSum", ["rows", "axes"], ["sum"], keepdims=0),
        oh.make_node("Cast", ["count"], ["number"], to=1),
        oh.make_node("Mul", ["number", "tenth"], ["part"]),
        oh.make_node("Add", ["sum", "part"], ["logit"]),
        oh.make_node("Sigmoid", ["logit"], ["p"]),
    ]
    inputs = [oh.make_tensor_value_info(name, kind, ["batch"]) for name in ("ids", "count")]
    output = oh.make_tensor_value_info("p", 1, ["batch"])
    graph = oh.make_graph(nodes, "g", inputs, [output], [table, axes, tenth])
    source = tmp_path / "source.onnx"
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9), source)
    given = {"ids": rng.integers(0, 50, 20).astype(dtype),
             "count": rng.integers(0, 100, 20).astype(dtype)}  # fmt: skip
    convert(source, given, tmp_path, tables="f32")
    (expected,) = InferenceSession(str(source), providers=["CPUExecutionProvider"]).run(None, given)
    for target, engine in ENGINES:
        got = ondevice.load(tmp_path / f"model.{target}", engine=engine).predict(given)
        np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0, err_msg=engine)
