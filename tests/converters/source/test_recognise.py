"""Lookups in every form that a graph may give them: against torch, ONNX Runtime or by hand."""

import itertools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import ondevice
from ondevice.cli import main
from ondevice.converters import convert
from ondevice.converters.pipeline import Stage
from ondevice.converters.source import onnx_source
from ondevice.errors import OnDeviceError, UnsupportedError

ROWS, DIM = 50, 8
IDS = torch.tensor([1, 2, 3, 39])
PAIRS = torch.tensor([[1, 2], [3, 4], [5, 39]])


class Form(nn.Module):
    """One parameter that a function reads by IDs."""

    def __init__(self, read, shape=(ROWS, DIM)):
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.read = nn.Parameter(torch.randn(shape)), read
        self.register_buffer("mask", (torch.rand(ROWS, 1) > 0.3).float())

    def forward(self, ids):
        return torch.sigmoid(self.read(self, ids).flatten(1).sum(-1))


def one_hot(ids, count=ROWS):
    return functional.one_hot(ids, count).float()


# by name: how the rows are read, the parameter's shape, example IDs
FORMS = {
    "index": (lambda m, i: m.weight[i], (ROWS, DIM), IDS),
    "index of a matrix of IDs": (lambda m, i: m.weight[i], (ROWS, DIM), PAIRS),
    "index by int32": (lambda m, i: m.weight[i], (ROWS, DIM), IDS.int()),
    "index_select": (lambda m, i: m.weight.index_select(0, i), (ROWS, DIM), IDS),
    "rows of matrices": (lambda m, i: m.weight[i], (ROWS, 2, 4), PAIRS),
    "one of several tables": (lambda m, i: m.weight[1, i], (2, ROWS, DIM), PAIRS),
    "several indices": (lambda m, i: m.weight[torch.arange(2), i], (2, ROWS, DIM), PAIRS),
    "slice": (lambda m, i: functional.embedding(i, m.weight[10:]), (ROWS, DIM), IDS),
    "columns": (lambda m, i: functional.embedding(i, m.weight[:, 4:]), (ROWS, DIM), IDS),
    "view": (lambda m, i: functional.embedding(i, m.weight.view(ROWS, DIM)), (ROWS * DIM,), IDS),
    "columns are rows": (lambda m, i: m.weight[:, i].T, (DIM, ROWS), IDS),
    "transposed": (lambda m, i: m.weight.T[i], (DIM, ROWS), PAIRS),
    "second axis": (lambda m, i: m.weight.index_select(1, i).T, (DIM, ROWS), IDS),
    "gather": (lambda m, i: m.weight.gather(0, i[:, None].expand(-1, DIM)), (ROWS, DIM), IDS),
    "numbers": (lambda m, i: m.weight[i][:, None], (ROWS,), IDS),
    "numbers of a matrix of IDs": (lambda m, i: m.weight[i], (ROWS,), PAIRS),
    "take": (lambda m, i: torch.take(m.weight, i), (ROWS,), PAIRS),
    "one column": (lambda m, i: functional.embedding(i, m.weight), (ROWS, 1), PAIRS),
    "one-hot": (lambda m, i: one_hot(i) @ m.weight, (ROWS, DIM), IDS),
    "one-hot linear": (lambda m, i: functional.linear(one_hot(i), m.weight), (DIM, ROWS), PAIRS),
    "masked": (lambda m, i: functional.embedding(i, m.weight * m.mask), (ROWS, DIM), IDS),
    "normalised": (
        lambda m, i: functional.embedding(i, functional.normalize(m.weight)),
        (ROWS, DIM),
        PAIRS,
    ),
    "cast": (lambda m, i: m.weight.double().float()[i], (ROWS, DIM), IDS),
}


def answers(folder, ids):
    """The scores of every file of a folder in every engine that runs it, by file and engine."""
    found = {}
    for file in sorted(folder.glob("model.*")):
        if file.suffix not in (".odm", ".onnx", ".tflite"):
            continue
        for engine in ("native", "numpy") if file.suffix == ".odm" else ("auto",):
            model = ondevice.load(file, engine=engine)
            found[f"{file.name} {engine}"] = lambda given=ids, model=model: model.predict(given)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_torch(tmp_path, form):
    read, shape, ids = FORMS[form]
    module = Form(read, shape).eval()
    report = convert(module, (ids,), tmp_path, tables="f32")
    assert report.uncompressed == ()
    with torch.no_grad():
        right = module(ids).numpy()
    scores = answers(tmp_path, {"ids": ids.numpy()})
    assert len(scores) == 4
    for score in scores.values():
        np.testing.assert_allclose(score(), right, atol=1e-5)
    beyond = ids.clone().numpy()
    beyond.reshape(-1)[0] = ROWS
    for score in scores.values():  # as torch refuses it
        with pytest.raises(OnDeviceError):
            score({"ids": beyond})
    whole = report.targets["odm"].table_bytes
    packed = convert(module, (ids,), tmp_path / "q8", tables="q8", targets=["odm"])
    assert packed.codec == "q8"
    assert packed.targets["odm"].table_bytes < whole / 3
    assert "`weight`" in (tmp_path / "q8" / "model.md").read_text()  # by its parameter's name


def test_a_comparison_with_all_ids_has_zeros_for_others(tmp_path):
    module = Form(lambda m, i: (i[:, None] == torch.arange(ROWS)).float() @ m.weight).eval()
    convert(module, (IDS,), tmp_path, tables="q8")
    for name, score in answers(tmp_path, {"ids": np.array([ROWS, -1, 2**40])}).items():
        np.testing.assert_allclose(score(), 0.5, atol=1e-6, err_msg=name)


def test_ids_in_a_column(tmp_path):
    module = Form(lambda m, i: (i == torch.arange(ROWS)).float() @ m.weight).eval()
    column = IDS[:, None]
    report = convert(module, (column,), tmp_path, tables="f32")
    assert report.targets["odm"].table_bytes == (ROWS + 1) * DIM * 4  # and zeros for others
    with torch.no_grad():
        right = module(column).numpy()
    for score in answers(tmp_path, {"ids": column.numpy()}).values():
        np.testing.assert_allclose(score(), right, atol=1e-5)


def test_derived_tables_of_weights_in_files_beside_plain_ones(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(4)
            self.plain, self.columns = nn.Embedding(60, DIM), nn.Parameter(torch.randn(DIM, 70))
            self.scored = nn.Embedding(80, DIM)

        def forward(self, a, b):
            x = self.plain(a) + self.columns.T[b] + self.scored(a)
            return torch.sigmoid(x @ self.scored.weight.T)  # all rows, too: files hold both

    module, ids = Both().eval(), (torch.arange(6), torch.arange(6) * 10)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    report = convert(module, ids, tmp_path / "out", tables="q4", weights=tmp_path / "w.safetensors")
    assert all(item.max_difference <= 1e-5 for item in report.targets.values())
    assert 1e-3 < report.quantisation_difference < 0.5


def onnx_file(path, nodes, constants, kind=TensorProto.INT64):
    """sigmoid(rows "v" times a vector), of IDs "ids" of a type."""
    rng = np.random.default_rng(1)
    constants = {"column": rng.normal(size=(4, 1)).astype(np.float32), **constants}
    node = helper.make_node
    graph = helper.make_graph(
        [*nodes, node("MatMul", ["v", "column"], ["m"]), node("Sigmoid", ["m"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("ids", kind, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)


def stored_forms():
    """Nodes and constants by name: tables of 8 and 16 bits, on other axes, one-hot, shifted IDs."""
    node, rng = helper.make_node, np.random.default_rng(0)
    values = rng.normal(size=(40, 4)).astype(np.float32)
    codes = np.clip(np.round(values / 0.03), -127, 127).astype(np.int8)
    byte, scale = (codes.astype(int) + 128).astype(np.uint8), np.float32(0.03)
    rows, columns = (rng.uniform(0.01, 0.06, n).astype(np.float32) for n in (40, 4))
    gather, gather_scale = (
        node("Gather", [name, "ids"], [out]) for name, out in (("t", "r"), ("s", "rs"))
    )

    def wide(*names, **attributes):
        return node("DequantizeLinear", list(names), ["v"], **attributes)

    before = node("DequantizeLinear", ["t", "s", "z"], ["w"], axis=0)
    read = node("Gather", ["w", "ids"], ["v"])
    hot, values_of_hot = node("OneHot", ["ids", "n", "of"], ["hot"]), np.float32([0, 1])
    return {
        "int8": ([gather, wide("r", "s", "z")], {"t": codes, "s": scale, "z": np.int8(0)}),
        "uint8": ([gather, wide("r", "s", "z")], {"t": byte, "s": scale, "z": np.uint8(128)}),
        "per column": ([gather, wide("r", "s", axis=1)], {"t": codes, "s": columns}),
        "per row before": ([before, read], {"t": byte, "s": rows, "z": np.full(40, 120, np.uint8)}),
        "per row": ([gather, gather_scale, wide("r", "rs", axis=0)], {"t": codes, "s": rows}),
        "by hand": (
            [
                gather,
                gather_scale,
                node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
                node("Unsqueeze", ["rs", "last"], ["column_of_scales"]),
                node("Mul", ["f", "column_of_scales"], ["v"]),
            ],
            {"t": codes, "s": rows, "last": np.array([1])},
        ),
        "float16": (
            [gather, node("Cast", ["r"], ["v"], to=TensorProto.FLOAT)],
            {"t": values.astype(np.float16)},
        ),
        "float16 before": (
            [node("Cast", ["t"], ["w"], to=TensorProto.FLOAT), read],
            {"t": values.astype(np.float16)},
        ),
        "minus one": (
            [node("Sub", ["ids", "one"], ["j"]), node("Gather", ["t", "j"], ["v"])],
            {"t": values, "one": np.int64(1)},
        ),
        "second axis": (
            [node("Gather", ["t", "ids"], ["c"], axis=1), node("Transpose", ["c"], ["v"])],
            {"t": np.ascontiguousarray(values.T)},
        ),
        "indices of one number": (
            [node("Reshape", ["ids", "shape"], ["j"]), node("GatherND", ["t", "j"], ["v"])],
            {"t": values, "shape": np.array([-1, 1])},
        ),
        "one-hot": (
            [hot, node("Gemm", ["hot", "t", "b"], ["v"], transB=1)],
            {
                "t": np.ascontiguousarray(values.T),
                "b": columns,
                "n": np.int64(40),
                "of": values_of_hot,
            },
        ),
    }


@pytest.mark.parametrize("form", stored_forms())
def test_forms_of_onnx(tmp_path, form):
    file = tmp_path / "in.onnx"
    onnx_file(file, *stored_forms()[form])
    ids = np.array([1, 5, 39])
    right = onnxruntime.InferenceSession(str(file)).run(None, {"ids": ids})[0]
    report = convert(file, None, tmp_path / "out", tables="f32")
    assert report.targets["odm"].table_bytes == 40 * 4 * 4
    for score in answers(tmp_path / "out", {"ids": ids}).values():
        np.testing.assert_allclose(score(), right, atol=1e-5)
    packed = convert(file, None, tmp_path / "q8", tables="q8", targets=["odm"])
    assert packed.targets["odm"].table_bytes < 40 * 4 * 4 / 3


@pytest.mark.parametrize(
    "kind", ["BOOL", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "UINT64"]
)
def test_integers_of_every_width(tmp_path, kind):
    kind = getattr(TensorProto, kind)
    rng, node = np.random.default_rng(2), helper.make_node
    table = rng.normal(size=(40, 4)).astype(np.float32)
    nodes = [
        node("Cast", ["ids"], ["j"], to=TensorProto.INT64),
        node("Gather", ["t", "j"], ["v"]),
    ]
    onnx_file(tmp_path / "in.onnx", nodes, {"t": table}, kind)
    ids = np.array([1, 0, 1] if kind == TensorProto.BOOL else [1, 5, 39])
    given = ids.astype(helper.tensor_dtype_to_np_dtype(kind))
    session = onnxruntime.InferenceSession(str(tmp_path / "in.onnx"))
    right = session.run(None, {"ids": given})[0]
    convert(tmp_path / "in.onnx", None, tmp_path / "out", tables="f32")
    for score in answers(tmp_path / "out", {"ids": ids}).values():
        np.testing.assert_allclose(score(), right, atol=1e-5)


def test_a_graph_that_simplifying_spoils_is_simplified_less(tmp_path, monkeypatch):
    def spoiled(model):
        """Simplified wrongly: rows one further."""
        model = model.clone()
        value = model.graph.initializers["t"]
        value.const_value = onnx_source.ir.tensor(
            np.roll(value.const_value.numpy(), 1, 0), name="t"
        )
        return model

    file = tmp_path / "in.onnx"
    table = np.random.default_rng(3).normal(size=(40, 4)).astype(np.float32)
    onnx_file(file, [helper.make_node("Gather", ["t", "ids"], ["v"])], {"t": table})
    right = onnxruntime.InferenceSession(str(file)).run(None, {"ids": np.arange(40)})[0]
    wrong = (*onnx_source.CLEANING, Stage("spoil", spoiled, "a fault"))
    monkeypatch.setattr(onnx_source, "CLEANING", wrong)
    convert(file, None, tmp_path / "out", tables="f32")
    for score in answers(tmp_path / "out", {"ids": np.arange(40)}).values():
        np.testing.assert_allclose(score(), right, atol=1e-5)
    monkeypatch.setattr(onnx_source, "CAREFUL_CLEANING", wrong)
    with pytest.raises(OnDeviceError, match=r"in\.onnx: simplified, output 'y' differs by"):
        convert(file, None, tmp_path / "out")


def test_outputs_that_are_no_tensors_are_named(tmp_path):
    node = helper.make_node
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [
            node("Softmax", ["x"], ["p"]),
            node("SequenceConstruct", ["p", "p"], ["classes"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_value_info("classes", helper.make_sequence_type_proto(kind))],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "in.onnx")
    expected = (
        r"output 'classes' is a sequence of tensors, made by SequenceConstruct.*before it the"
    )
    with pytest.raises(UnsupportedError, match=expected):
        convert(tmp_path / "in.onnx", None, tmp_path / "out")


def test_what_stays_uncompressed_is_named(tmp_path, capsys):
    class Mapped(nn.Module):
        """A table of numbers of rows, which must stay exact, before the rows themselves."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.rows = nn.Embedding(40, 4)
            self.register_buffer("number", torch.randint(0, 40, (2000,)))

        def forward(self, ids):
            return torch.sigmoid(self.rows(self.number[ids]).sum(-1))

    report = convert(Mapped().eval(), (IDS,), tmp_path)
    (item,) = report.uncompressed
    assert (item.name, item.bytes) == ("number", 2000 * 8)
    assert "int64" in item.reason
    line = "not compressed: number, 16,000 bytes that IDs select from: its values are int64"
    assert line in (tmp_path / "model.md").read_text()
    written = json.loads((tmp_path / "model.report.json").read_text())
    assert written["uncompressed"][0]["bytes"] == 16_000
    node = helper.make_node
    file = tmp_path / "in.onnx"
    nodes = [node("Gather", ["number", "ids"], ["j"]), node("Gather", ["t", "j"], ["v"])]
    number = np.random.default_rng(6).integers(0, 40, 2000)
    onnx_file(file, nodes, {"t": np.ones((40, 4), np.float32), "number": number})
    assert main(["convert", str(file), "--out", str(tmp_path / "out")]) == 0
    assert line in capsys.readouterr().out


class Network(nn.Module):
    """Numbers only."""

    def __init__(self, hidden):
        super().__init__()
        torch.manual_seed(7)
        sizes = [3, *hidden, 1]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*[part for x in layers for part in (x, nn.ReLU())][:-1])

    def forward(self, x):
        return torch.sigmoid(self.layers(x)).squeeze(-1)


@pytest.mark.parametrize("hidden", [(), (8, 4)])
def test_a_module_without_tables(tmp_path, capsys, hidden):
    module, x = Network(hidden).eval(), torch.randn(6, 3)
    report = convert(module, (x,), tmp_path)
    assert all(item.table_bytes == 0 for item in report.targets.values())
    with torch.no_grad():
        right = module(x).numpy()
    scores = answers(tmp_path, {"x": x.numpy()})
    assert len(scores) == 4
    for score in scores.values():
        np.testing.assert_allclose(score(), right, atol=1e-5)
    assert "Embedding tables: none." in (tmp_path / "model.md").read_text()
    quick = ["--seconds", "0.05", "--gap-ms", "0", "--batch", "1", "--processes", "1"]
    for target in ("odm", "onnx", "tflite"):
        file = str(tmp_path / f"model.{target}")
        assert main(["inspect", file]) == 0
        assert main(["verify", file]) == 0
        assert main(["bench", file, *quick]) == 0
    capsys.readouterr()
