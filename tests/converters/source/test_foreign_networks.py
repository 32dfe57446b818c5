"""Networks as strangers write and export them: numbers far out, TorchScript's files, functions."""

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

import ondevice
from ondevice.converters.convert import convert
from ondevice.engines.native import is_compiled

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
torch.set_num_threads(1)

ENGINES = (("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite"))
ENGINES += (("odm", "native"),) if is_compiled() else ()


def agree(folder, values, expected, **tolerance):
    """Every engine gives these outputs, a list of arrays; NaN and infinities are compared too."""
    for target, engine in ENGINES:
        got = ondevice.load(folder / f"model.{target}", engine=engine).predict(values)
        got = list(got.values()) if isinstance(got, dict) else [got]
        for one, right in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, right, err_msg=engine, **tolerance)


class Numbers(nn.Module):
    """Functions of two numbers that fail far out if they are computed as their names say."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, 2)
        self.register_buffer("bounds", torch.tensor([[-1.0, 0, 2], [0.5, 1, 1.5]]))

    def forward(self, ids, x):
        score = torch.sigmoid(self.table(ids).sum(-1))
        # a row [n, 2]: a bucket of each number by bounds of its own
        bounds = self.bounds.expand(len(x), -1, -1).contiguous()
        buckets = torch.searchsorted(bounds, x.unsqueeze(-1))
        masked = x.masked_fill(x > 1000, -math.inf)
        return {
            "log_sigmoid": functional.logsigmoid(x),
            "log_add_exp": torch.logaddexp(x, x.flip(1)) + score[:, None],
            "log_sum_exp": torch.exp(torch.logsumexp(masked, 1)),
            "bucket": torch.bucketize(x, self.bounds[0]).float(),
            "bucket_right": torch.bucketize(x, self.bounds[1], right=True).float(),
            "buckets": buckets.squeeze(-1).float(),
            "wave": torch.sin(2 * x) - torch.cos(1.9 * x),  # up to 100,000, as documented
        }


def test_numbers_far_beyond_the_examples(tmp_path):
    module = Numbers().eval()
    convert(module, (torch.arange(8), torch.rand(8, 2)), tmp_path, tables="f32")
    far = [-5e4, -104.0, -88.5, -20.0, -1.0, 0.0, 0.5, 1.0, 2.0, 20.0, 80.0, 1001.0, 3e4]
    pairs = torch.tensor([[a, b] for a in far for b in (far[0], 0.25, 0.5, 1002.0)])
    ids = torch.arange(len(pairs)) % 30
    with torch.inference_mode():
        expected = [item.numpy() for item in module(ids, pairs).values()]
    agree(tmp_path, {"ids": ids.numpy(), "x": pairs.numpy()}, expected, rtol=2e-5, atol=1e-5)


def test_a_number_that_is_missing_has_the_last_bucket_as_in_torch(tmp_path):
    class Bucketed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(4, 3)
            self.register_buffer("bounds", torch.tensor([-1.0, 0, 2]))

        def forward(self, x):
            left = torch.bucketize(x, self.bounds)
            right = torch.bucketize(x, self.bounds, right=True)
            return torch.sigmoid((self.table(left) - 2 * self.table(right)).sum(-1))

    module = Bucketed().eval()
    convert(module, (torch.linspace(-3, 3, 9),), tmp_path, tables="f32")
    x = torch.tensor([math.nan, -1.0, 2.0, math.inf, -math.inf, 0.0])
    with torch.inference_mode():
        expected = module(x).numpy()
    agree(tmp_path, {"x": x.numpy()}, [expected], rtol=0, atol=1e-6)


class Attention(nn.Module):
    """torch's attention over a history: of the candidate, and within an encoder's layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.items = nn.Embedding(50, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.target = nn.MultiheadAttention(8, 4, batch_first=True)
        self.out = nn.Linear(16, 1)

    def forward(self, item, history):
        padded = history == 0
        steps = self.encoder(self.items(history), src_key_padding_mask=padded)
        query = self.items(item).unsqueeze(1)
        seen, _ = self.target(query, steps, steps, key_padding_mask=padded)
        return torch.sigmoid(self.out(torch.cat([seen, query], -1)))[:, 0, 0]


def histories(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, 50, (rows, 6), generator=generator)
    length = torch.randint(1, 7, (rows, 1), generator=generator)
    items = torch.randint(1, 50, (rows,), generator=generator)
    return items, history * (torch.arange(6) < length)


@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.filterwarnings("ignore")  # of the exporter, which is deprecated
def test_attention_in_files_of_the_older_exporter(opset, tmp_path):
    """It cuts weights at sizes that it reads from shapes, and joins heads with the batch."""
    module = Attention().eval()
    axes = {name: {0: "batch"} for name in ("item", "history")}
    path = tmp_path / "given.onnx"
    torch.onnx.export(module, histories(4, 0), str(path), dynamo=False, opset_version=opset,
                      input_names=["item", "history"], dynamic_axes=axes)  # fmt: skip
    names = dict(zip(("item", "history"), (part.numpy() for part in histories(9, 1)), strict=True))
    convert(path, names, tmp_path, tables="f32")
    for rows in (1, 2, 40):
        item, history = histories(rows, rows)
        with torch.inference_mode():
            expected = module(item, history).numpy()
        values = {"item": item.numpy(), "history": history.numpy()}
        agree(tmp_path, values, [expected], rtol=0, atol=1e-5)


def test_functions_of_an_older_file_are_part_of_it(tmp_path):
    """Of opset 17: changing its version must not lose them."""
    rng = np.random.default_rng(0)
    table, slope = rng.normal(size=(40, 4)).astype("f"), rng.normal(size=4).astype("f")
    body = [
        helper.make_node("Sigmoid", ["x"], ["p"]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Mul", ["q", "slope"], ["below"]),
        helper.make_node("Add", ["below", "p"], ["share"]),
        helper.make_node("Mul", ["share", "x"], ["y"]),
    ]
    opset = helper.make_opsetid("", 17)
    dice = helper.make_function("mine", "Dice", ["x", "slope"], ["y"], body, [opset])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vector"]),
        helper.make_node("Dice", ["vector", "slope"], ["activated"], domain="mine"),
        helper.make_node("ReduceSum", ["activated", "axis"], ["sum"], keepdims=0),
        helper.make_node("Sigmoid", ["sum"], ["click"]),
    ]
    constants = {"table": table, "slope": slope, "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "clicks",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("click", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [opset, helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[dice])
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "given.onnx")
    convert(tmp_path / "given.onnx", None, tmp_path, tables="f32")
    ids = np.array([0, 39, 7])
    x = table[ids].astype(float)
    p = 1 / (1 + np.exp(-x))
    total = (((1 - p) * slope + p) * x).sum(1)
    agree(tmp_path, {"ids": ids}, [1 / (1 + np.exp(-total))], rtol=0, atol=1e-6)


def test_tables_of_sixteen_bits_beside_float_layers(tmp_path):
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.users = nn.Embedding(40, 4).to(torch.bfloat16)
            self.items = nn.Embedding(60, 4).half()

        def forward(self, user, item):
            return torch.sigmoid((self.users(user).float() * self.items(item).float()).sum(-1))

    module = Narrow().eval()
    ids = torch.arange(30)
    report = convert(module, (ids, ids), tmp_path, tables="f32")
    assert report.targets["odm"].table_bytes == 4 * 4 * (40 + 60)
    with torch.inference_mode():
        expected = module(ids + 10, ids + 30).numpy()
    values = {"user": (ids + 10).numpy(), "item": (ids + 30).numpy()}
    agree(tmp_path, values, [expected], rtol=0, atol=1e-6)


def test_shifts_and_masks_of_ids(tmp_path):
    class Hashed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.table = nn.Embedding(1024, 4)

        def forward(self, ids, other):
            rows = [(ids >> 7) & 1023, ids & 0x3C1, (other << 3) & 255, 1023 & other]
            return torch.sigmoid(
                sum((i + 1) * self.table(row) for i, row in enumerate(rows)).sum(1)
            )

    module = Hashed().eval()
    ids = torch.arange(30) * 12345
    convert(module, (ids, ids.int()), tmp_path, tables="f32")
    ids = torch.tensor([0, -1, 1023, 1024, 2**63 - 1, -(2**63), -129, 987654321012345])
    other = torch.tensor([0, -1, 1023, 1024, 2**28 - 1, -(2**28), -129, 98765432]).int()
    with torch.inference_mode():
        expected = module(ids, other).numpy()
    values = {"ids": ids.numpy(), "other": other.numpy().astype(np.int64)}
    agree(tmp_path, values, [expected], rtol=0, atol=1e-6)


def test_a_file_of_sixteen_bits_is_computed_in_float32(tmp_path):
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.normal(size=(40, 6)).astype(np.float16),
        "weight": rng.normal(size=(8, 5)).astype(np.float16),
        "out": rng.normal(size=(5, 1)).astype(np.float16),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vector"]),
        helper.make_node("Cast", ["price"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("Concat", ["vector", "narrow"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["activated"]),
        helper.make_node("MatMul", ["activated", "out"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["click"]),
    ]
    graph = helper.make_graph(
        nodes,
        "clicks",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("price", TensorProto.FLOAT, ["n", 2]),
        ],
        [helper.make_tensor_value_info("click", TensorProto.FLOAT16, ["n", 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "given.onnx")
    with pytest.warns(UserWarning, match="its layers compute in 16 bits, and model files in 32"):
        report = convert(tmp_path / "given.onnx", None, tmp_path, tables="f16")
    assert report.targets["odm"].table_bytes == 40 * 6 * 2
    ids, price = np.array([0, 39, 7]), rng.normal(size=(3, 2)).astype(np.float32)
    wide = {name: array.astype(float) for name, array in constants.items()}
    hidden = np.tanh(np.concatenate([wide["table"][ids], price], 1) @ wide["weight"])
    expected = 1 / (1 + np.exp(-hidden @ wide["out"]))
    agree(tmp_path, {"ids": ids, "price": price}, [expected], rtol=0, atol=1e-6)
    given = onnxruntime.InferenceSession(tmp_path / "given.onnx")
    (rounded,) = given.run(None, {"ids": ids, "price": price})
    assert np.abs(rounded - expected).max() < 5e-3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_rows_named_by_a_buffer_of_small_integers(dtype, tmp_path):
    """As of a clustering of items: the buffer's bytes are numbers, not truths."""

    class Clustered(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(128, 3)
            self.register_buffer("clusters", torch.randint(0, 128, (60, 2)).to(dtype))

        def forward(self, item):
            return torch.sigmoid(self.table(self.clusters[item].long()).sum((1, 2)))

    module, items = Clustered().eval(), torch.arange(60)
    convert(module, (items[:9],), tmp_path, tables="f32")
    with torch.inference_mode():
        agree(tmp_path, {"item": items.numpy()}, [module(items).numpy()], atol=1e-5)


@pytest.mark.parametrize("codec", ["f32", "q8", "q4"])
def test_a_file_that_convert_wrote_converts_again(codec, tmp_path):
    """Its nodes have the names that lookups of the second conversion would get."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.user, self.item = nn.Embedding(50, 4), nn.Embedding(60, 4)
            self.last = nn.Linear(8, 1)

        def forward(self, user, item):
            rows = torch.cat([self.user(user), self.item(item)], 1)
            return torch.sigmoid(self.last(rows)).squeeze(1)

    ids = torch.arange(50)
    convert(Pair().eval(), (ids[:9], ids[:9]), tmp_path / "first", tables=codec)
    convert(tmp_path / "first" / "model.onnx", None, tmp_path / "second", tables=codec)
    values = {"user": ids.numpy(), "item": ids.numpy()}
    session = onnxruntime.InferenceSession(str(tmp_path / "first" / "model.onnx"))
    agree(tmp_path / "second", values, session.run(None, values), atol=1e-5)
