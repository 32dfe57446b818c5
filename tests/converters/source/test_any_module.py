"""Modules by anybody: inputs and outputs of any structure, .onnx files, the command line."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

import ondevice
from ondevice.cli import main
from ondevice.converters import convert
from ondevice.errors import FileFormatError, InputError, SpecError, UnsupportedError

TARGETS = ("odm", "onnx", "tflite")
ROWS = 6


class Several(nn.Module):
    """IDs int32 and bool beside numbers, keyword arguments, two outputs of other ranks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(20, 4), nn.Linear(5, 3)

    def forward(self, ids, *, price, flag):
        x = torch.cat([self.table(ids), price[:, None]], 1)
        scores = torch.sigmoid(self.out(x))
        return {"all": scores, "best": torch.where(flag, scores[:, 0], scores[:, 1])}


def several_inputs(rows=ROWS):
    rng = np.random.default_rng(rows)
    return {
        "ids": torch.from_numpy(rng.integers(0, 20, rows).astype(np.int32)),
        "price": torch.from_numpy(rng.random(rows, dtype=np.float32)),
        "flag": torch.from_numpy(rng.random(rows) < 0.5),
    }


def as_given(inputs):
    """Arrays as a model file takes them."""
    return {
        name: value.numpy().astype(np.float32 if value.is_floating_point() else np.int64)
        for name, value in inputs.items()
    }


def test_keywords_types_and_several_outputs(tmp_path):
    module = Several().eval()
    convert(module, several_inputs(), tmp_path, tables="f32")
    inputs = several_inputs(9)
    with torch.no_grad():
        expected = module(**inputs)
    for target in TARGETS:
        model = ondevice.load(tmp_path / f"model.{target}")
        assert model.outputs == ("all", "best")
        assert [item.dtype for item in model.inputs] == ["int64", "float32", "int64"]
        got = model.predict(as_given(inputs))
        for name, right in expected.items():
            np.testing.assert_allclose(got[name], right.numpy(), atol=1e-6)
        ranked = model.rank(
            {"ids": [3]}, {"price": np.float32([0.1, 0.9]), "flag": np.array([1, 0])}
        )
        assert {name: array.shape for name, array in ranked.items()} == {
            "all": (2, 3),
            "best": (2,),
        }
        with pytest.raises(InputError, match="expected numbers, got dtype"):
            model.predict({**as_given(inputs), "price": ["a"] * 9})


class Offsets(nn.Module):
    """Columns of one float matrix: two IDs of one table at their offsets, then a number."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(30, 4)

    def forward(self, x):
        ids = x[:, :2].long() + torch.tensor([0, 10])
        return torch.sigmoid(self.table(ids).sum((1, 2)) * x[:, 2])


class Named(nn.Module):
    """A dictionary of IDs, a table for each of its keys, and a dictionary of outputs."""

    def __init__(self, names, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleDict({name: nn.Embedding(9, 2) for name in names})
        self.scale = {name: place + 1.0 for place, name in enumerate(names)}
        self.outputs = outputs

    def forward(self, ids):
        terms = [self.scale[name] * table(ids[name]) for name, table in self.tables.items()]
        scores = torch.sigmoid(sum(terms))
        return {name: scores[:, place] for place, name in enumerate(self.outputs)}


# Each is a syntax error of its own in the code that torch makes of a graph.
ODD_NAMES = [
    "from",
    "None",
    "q'uo\"te",
    "back\\",
    "line\r\nfeed",
    "a b",
    "größe",
    "\u2028",
    "%s{x}",
    "#",
]


@pytest.mark.parametrize("outputs", [("p", "q"), ("in", "q'uote")])
def test_names_that_are_no_names_of_code(outputs, tmp_path):
    module = Named(ODD_NAMES, outputs).eval()
    rng = np.random.default_rng(3)
    ids = {name: torch.from_numpy(rng.integers(0, 9, 6)) for name in ODD_NAMES}
    convert(module, (ids,), tmp_path, tables="f32")
    with torch.no_grad():
        expected = module(ids)
    for target in TARGETS:
        model = ondevice.load(tmp_path / f"model.{target}")
        assert [spec.name for spec in model.inputs] == ODD_NAMES
        scores = model.predict({name: values.numpy() for name, values in ids.items()})
        assert list(scores) == list(outputs)
        for name, values in expected.items():
            np.testing.assert_allclose(scores[name], values, atol=1e-6)
    assert "forward" not in module.__dict__


def test_limits_of_columns(tmp_path):
    example = torch.tensor([[1.0, 2.0, 0.5], [9.0, 19.0, 0.25]])
    convert(Offsets(), example, tmp_path, tables="q8")
    for target in TARGETS:
        model = ondevice.load(tmp_path / f"model.{target}")
        assert model.inputs[0].id_limit == (30, 20, None)
        good = np.array([[9.9, 0, -4.5], [0, 19.5, 1e9]], np.float32)
        assert np.isfinite(model.predict({"x": good})).all()
        # -1 in the second column would be row 9 of the first one's share of the table
        for bad in ([0, -1, 0], [30, 0, 0], [0, 20, 0], [0, np.nan, 0]):
            with pytest.raises(InputError, match=r"input 'x': ID .* at \[0, \d\] is outside 0\.\."):
                model.predict({"x": np.array([bad], np.float32)})


class Tied(nn.Module):
    """Two embeddings that are one, a table read with computed positions, and one at a buffer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = nn.Embedding(500, 8), nn.Embedding(500, 8)
        self.second.weight = self.first.weight
        self.register_buffer("frozen", torch.randn(50, 8))

    def forward(self, a, b):
        frozen = nn.functional.embedding(b % 50, self.frozen)
        return torch.sigmoid((self.first(a) * self.second(b) + frozen).sum(1))


def test_shared_tables_are_stored_once(tmp_path):
    example = (torch.arange(8), torch.arange(8) * 60)
    report = convert(Tied(), example, tmp_path, tables="q8")
    for target in TARGETS:
        # 500 rows of 8 values and a scale, and the buffer's 50 rows
        assert report.targets[target].table_bytes <= 550 * 10 + 64 * 2


def test_tiny_constants_survive(tmp_path):
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 2)
            nn.init.zeros_(self.table.weight)

        def forward(self, ids):
            return torch.log(self.table(ids).sum(1).abs() + 1e-9) / 30 + 1

    convert(Log(), (torch.arange(4),), tmp_path, tables="f32")
    for target in TARGETS:
        got = ondevice.load(tmp_path / f"model.{target}").predict({"ids": [1]})
        np.testing.assert_allclose(got, np.log(1e-9) / 30 + 1, atol=1e-6)


def test_what_is_no_row_is_refused(tmp_path):
    class Loss(Several):
        def forward(self, ids, *, price, flag):
            return super().forward(ids, price=price, flag=flag)["best"], price.mean()

    with pytest.raises(UnsupportedError, match=r"\[1\] is of shape \[\]"):
        convert(Loss(), several_inputs(), tmp_path)
    with pytest.raises(SpecError, match="one batch size"):
        convert(Several(), {**several_inputs(), "price": torch.ones(3)}, tmp_path)
    assert not list(tmp_path.iterdir())


def onnx_model(opset=17, ids_type=TensorProto.INT64):
    """Vectors of two tables, one at a computed ID, through a matrix and a sigmoid."""
    rng = np.random.default_rng(0)
    constants = {
        "items": rng.normal(size=(40, 4)).astype(np.float32),
        "users": rng.normal(size=(9, 4)).astype(np.float32),
        "one": np.array(1, np.int64),
        "matrix": rng.normal(size=(4, 1)).astype(np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["items", "item"], ["v"]),
        helper.make_node("Add", ["user", "one"], ["next"]),
        helper.make_node("Gather", ["users", "next"], ["u"]),
        helper.make_node("Mul", ["v", "u"], ["product"]),
        helper.make_node("MatMul", ["product", "matrix"], ["m"]),
        helper.make_node("Squeeze", ["m", "axis"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["click"]),
    ]
    graph = helper.make_graph(
        nodes,
        "clicks",
        [
            helper.make_tensor_value_info("item", ids_type, ["n"]),
            helper.make_tensor_value_info("user", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("click", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), constants


@pytest.mark.parametrize("tables", ["f32", "q8"])
def test_an_onnx_file_is_a_source(tmp_path, tables):
    model, constants = onnx_model()
    onnx.save(model, tmp_path / "mine.onnx")
    report = convert(tmp_path / "mine.onnx", None, tmp_path / "out", tables=tables)
    item, user = np.array([0, 39, 7]), np.array([0, 7, 3])
    product = constants["items"][item] * constants["users"][user + 1]
    expected = 1 / (1 + np.exp(-(product @ constants["matrix"])[:, 0]))
    for target in TARGETS:
        converted = ondevice.load(tmp_path / "out" / f"model.{target}")
        got = converted.predict({"item": item, "user": user})
        np.testing.assert_allclose(got, expected, atol=1e-6 if tables == "f32" else 0.02)
        assert report.targets[target].max_difference <= 1e-6
        with pytest.raises(InputError, match="input 'user': ID 8 at"):
            converted.predict({"item": [0], "user": [8]})


def test_command_takes_onnx_files_and_modules(tmp_path, monkeypatch, capsys):
    onnx.save(onnx_model(ids_type=TensorProto.INT32)[0], tmp_path / "mine.onnx")
    out = str(tmp_path / "out")
    assert main(["convert", str(tmp_path / "mine.onnx"), "--out", out, "--targets", "odm"]) == 0
    assert "model.odm" in capsys.readouterr().out

    (tmp_path / "nets_of_a_test.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(7, 2)\n\n"
        "    def forward(self, ids):\n"
        "        return self.table(ids).sum(1).sigmoid()\n"
    )
    monkeypatch.chdir(tmp_path)
    weight = torch.arange(14.0).reshape(7, 2) / 10
    save_file({"table.weight": weight}, tmp_path / "net.safetensors")
    np.savez(tmp_path / "rows.npz", ids=np.arange(7))
    command = ["convert", "nets_of_a_test:Net", "--weights", "net.safetensors", "--out", out]
    command += ["--tables", "f32", "--targets", "odm", "--name", "net", "--force"]
    assert main([*command, "--example", "rows.npz"]) == 0
    got = ondevice.load(tmp_path / "out" / "net.odm").predict({"ids": [0, 6]})
    np.testing.assert_allclose(got, torch.sigmoid(weight[[0, 6]].sum(1)), atol=1e-6)

    capsys.readouterr()
    faults = {
        "a module needs --example": command,
        "rows.csv: expected .npz": [*command, "--example", "rows.npz", "--validation", "rows.csv"],
        "net.safetensors: expected .npz": [*command, "--example", "net.safetensors"],
        "not an .npz file": [*command, "--example", "text.npz"],
        "has no attribute 'Nothing'": [
            *("convert", "nets_of_a_test:Nothing", "--out", out, "--force", "--example", "rows.npz")
        ],
        "not an ONNX file": ["convert", "rows.npz.onnx", "--out", out, "--force"],
    }
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "rows.npz.onnx").write_bytes(b"\x01\x02nonsense")
    for fault, arguments in faults.items():
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert fault in error, error
        assert error.count("\n") == 1
    sys.modules.pop("nets_of_a_test", None)


def test_weights_that_do_not_fit(tmp_path):
    save_file({"weight": torch.ones(2, 3)}, tmp_path / "net.safetensors")
    with pytest.raises(FileFormatError, match=r"weight"):
        convert(Offsets(), torch.ones(2, 3), tmp_path, weights=tmp_path / "net.safetensors")


def agrees(module, inputs, folder, targets=TARGETS):
    """Every target of a converted module against torch, on other rows than the example's."""
    with torch.inference_mode():
        expected = module(*inputs).numpy()
    names = ondevice.load(folder / f"model.{targets[0]}").inputs
    values = as_given({spec.name: value for spec, value in zip(names, inputs, strict=True)})
    for target in targets:
        got = ondevice.load(folder / f"model.{target}").predict(values)
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=target)


class Shared(nn.Module):
    """One embedding under two names in float64, parameters named as input and output, squeeze."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.tables = nn.ModuleDict({"item": nn.Embedding(30, 4)})
        self.tables["history"] = self.tables["item"]
        self.output = nn.Parameter(torch.rand(4, 1))
        self.item = nn.Parameter(torch.rand(1))
        self.unused = nn.Embedding(1000, 4)
        self.double()

    def forward(self, item, history):
        x = self.tables["item"](item) * self.tables["history"](history).mean(1)
        return torch.sigmoid((x.unsqueeze(1) @ self.output).squeeze() + self.item)


def test_names_types_and_shared_modules(tmp_path):
    module = Shared().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.integers(0, 30, shape)) for shape in ((6,), (6, 3))]
    report = convert(module, tuple(inputs), tmp_path, tables="f32")
    agrees(module, inputs, tmp_path)
    assert report.targets["odm"].table_bytes <= 30 * 16 + 64  # once, and without the unused one
    assert all(part.training for part in module.modules())
    for name, value in module.state_dict().items():  # what files store has left no trace
        assert type(value) is torch.Tensor
        assert torch.equal(value, before[name])
    with pytest.raises(UnsupportedError, match=r"weights of 16 bits .*give module\.float\(\)"):
        convert(Shared().half(), tuple(inputs), tmp_path / "half")


class Last(nn.Module):
    """Reads the last step of a history, and fails where there is none; a dropout that stays on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(30, 4)

    def forward(self, history):
        steps = (history > 0).sum(1) - 1
        if not torch.compiler.is_compiling() and (steps < 0).any():
            raise IndexError("an empty history")
        x = self.table(history)[torch.arange(history.shape[0]), steps.clamp(min=0)]
        return torch.sigmoid(nn.functional.dropout(x, 0.5).sum(1))


def test_rows_that_a_module_cannot_take_and_dropout(tmp_path):
    history = torch.tensor([[4, 9, 0], [7, 0, 0], [1, 2, 3]])
    with pytest.warns(UserWarning, match="dropout that is on in evaluation mode too is left out"):
        convert(Last().eval(), (history,), tmp_path, tables="f32")
    table = Last().table.weight.detach().numpy()
    expected = 1 / (1 + np.exp(-table[[9, 7, 3]].sum(1)))
    for target in TARGETS:
        got = ondevice.load(tmp_path / f"model.{target}").predict({"history": history.numpy()})
        np.testing.assert_allclose(got, expected, atol=1e-6)


class Attention(nn.Module):
    """A candidate and self-attention over a history of any length."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.table = nn.Embedding(40, 8)
        self.own = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unit = nn.Sequential(nn.Linear(32, 8), nn.PReLU(), nn.Linear(8, 1))

    def forward(self, item, history):
        query, x = self.table(item), self.table(history)
        x = self.own(x, x, x, key_padding_mask=history == 0)[0]
        each = query.unsqueeze(1).expand(-1, x.size(1), -1)
        pairs = torch.cat([each, x, each - x, each * x], -1)
        scores = self.unit(pairs.view(-1, 32)).view(-1, x.size(1))
        known = torch.arange(x.size(1)) < (history > 0).sum(1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(~known, -1e9), -1)
        return torch.sigmoid(torch.einsum("bl,bld->bd", weights, x).sum(-1))


@pytest.mark.filterwarnings("ignore:.*the slower numpy engine runs it")
def test_histories_of_any_length(tmp_path):
    module = Attention().eval()

    def inputs(rows, steps):
        rng = np.random.default_rng(steps)
        history = rng.integers(1, 40, (rows, steps)) * (np.arange(steps) < rng.integers(1, steps))
        return [torch.from_numpy(rng.integers(0, 40, rows)), torch.from_numpy(history)]

    axes = {"history": {1: "steps"}}
    convert(module, tuple(inputs(5, 6)), tmp_path, tables="f32", dynamic_axes=axes)
    for rows, steps in ((2, 3), (7, 6), (3, 17)):
        agrees(module, inputs(rows, steps), tmp_path)


class Bags(nn.Module):
    """Bags of one ID, by offsets that count the rows, as DLRM writes single IDs."""

    def __init__(self, offsets=True):
        super().__init__()
        torch.manual_seed(7)
        self.bag, self.offsets = nn.EmbeddingBag(30, 4, mode="sum"), offsets

    def forward(self, ids):
        offsets = torch.arange(ids.shape[0]) if self.offsets else ids
        return torch.sigmoid(self.bag(ids, offsets).sum(1))


def test_bags_by_offsets(tmp_path):
    ids = torch.tensor([3, 0, 29, 7])
    convert(Bags().eval(), (ids,), tmp_path, tables="f32")
    agrees(Bags().eval(), [ids.flip(0)], tmp_path)
    with pytest.raises(UnsupportedError, match="EmbeddingBag with offsets; give a matrix of IDs"):
        convert(Bags(offsets=False).eval(), (torch.arange(4),), tmp_path / "more")


def test_a_graph_for_the_rows_of_the_example_alone_is_refused(tmp_path):
    class Counted(Offsets):
        def forward(self, x):
            return super().forward(x) + torch.ones(int(x.shape[0]))

    with pytest.raises(UnsupportedError, match="for the 2 rows of the example only"):
        convert(Counted(), torch.ones(2, 3), tmp_path)


@pytest.mark.parametrize("opset", [13, 18])
def test_onnx_files_of_other_opsets_with_external_data(tmp_path, opset):
    model, _ = onnx_model(opset)
    where = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 100}
    onnx.save(model, tmp_path / "mine.onnx", **where)
    assert (tmp_path / "weights.bin").exists()
    report = convert(tmp_path / "mine.onnx", None, tmp_path / "out", tables="f32", targets=["odm"])
    assert report.targets["odm"].max_difference <= 1e-6
    fixed, _ = onnx_model(opset)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, tmp_path / "fixed.onnx")
    with pytest.raises(UnsupportedError, match="takes only 4 rows"):
        convert(tmp_path / "fixed.onnx", None, tmp_path / "out")


def test_encoders_pad_as_torch_does_in_inference(tmp_path):
    class Encoded(nn.Module):
        """Averages over all steps, the padded ones too: torch's inference path has zeros there."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(8)
            self.table = nn.Embedding(40, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, history):
            x = self.encoder(self.table(history), src_key_padding_mask=history == 0)
            return torch.sigmoid(x.mean(1)[:, 0])

    history = torch.tensor([[3, 5, 7, 0], [9, 0, 0, 0], [1, 2, 3, 4]])
    convert(Encoded().eval(), (history,), tmp_path, tables="f32")
    agrees(Encoded().eval(), [history.flip(0)], tmp_path)
