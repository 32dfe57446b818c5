"""IDs as two 32-bit words each: the .onnx for runtimes that compute integers in 32 bits."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.engines.columns import WORDS_INPUT
from ondevice.errors import InputError, SpecError, UnsupportedError
from ondevice.models import AdaptiveMask, BinaryCodeEmbedding, FullEmbedding

GOLDEN = 0x9E3779B97F4A7C15
EXTREME = [
    -(2**63), 2**63 - 1, -1, 0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 7,
    -(2**31), -(2**32), 0x8000_0000_8000_0000 - 2**64, 0x7FFF_FFFF_8000_0001,
]  # fmt: skip
# name: the layer, and what it holds that others do not
CODES = {
    "32 bits": lambda: BinaryCodeEmbedding(8, 32, 11, multiplier=GOLDEN, padding_id=None),
    "64 bits": lambda: BinaryCodeEmbedding(8, 64, 13, multiplier=GOLDEN, padding_id=None),
    "64 bits, no factor": lambda: BinaryCodeEmbedding(8, 64, 9, padding_id=None),
    "40 bits": lambda: BinaryCodeEmbedding(8, 40, 8, multiplier=5, padding_id=None),
    "padded": lambda: BinaryCodeEmbedding(8, 64, 16, multiplier=GOLDEN, padding_id=0),
}


class Codes(nn.Module):
    """A layer of codes for each of two inputs, a plain table, a history of row numbers."""

    def __init__(self, first, second):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = CODES[first](), CODES[second]()
        for table in (self.first, self.second):
            nn.init.normal_(table.weight)
            widths = np.random.default_rng(0).integers(1, 9, table.spec.rows)
            table.mask = AdaptiveMask.from_widths(widths, 8)
        self.shop, self.steps = FullEmbedding(300, 8), nn.Embedding(50, 8)
        self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user, item, shop, history):
        parts = [self.first(user), self.second(item), self.shop(shop), self.steps(history).mean(1)]
        return torch.sigmoid(self.head(torch.cat(parts, 1))).squeeze(-1)


def requests(rows=200):
    rng = np.random.default_rng(1)
    ids = {n: rng.integers(-(2**63), 2**63 - 1, rows, endpoint=True) for n in ("user", "item")}
    for values in ids.values():
        values[: len(EXTREME)] = EXTREME
    ids["shop"] = rng.integers(0, 300, rows)
    ids["shop"][: len(EXTREME)] = EXTREME  # unknown rows, most of them
    return ids | {"history": rng.integers(0, 50, (rows, 5))}


def words_of(ids):
    columns = [ids[name] for name in ("user", "item", "shop")]
    return {WORDS_INPUT: np.stack(columns, 1).view(np.int32), "history": ids["history"]}


def written(first, second, folder, **options):
    module = Codes(first, second).eval()
    example = {
        "user": torch.tensor([1, 2]), "item": torch.tensor([3, 4]), "shop": torch.tensor([5, 6]),
        "history": torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]),
    }  # fmt: skip
    convert(module, example, folder, inputs="words", **{"tables": "f32"} | options)
    ids = requests()
    with torch.inference_mode():
        expected = module(**{name: torch.from_numpy(v) for name, v in ids.items()}).numpy()
    return folder / "model.onnx", ids, expected


@pytest.mark.parametrize(
    ("first", "second"), [*((name, "64 bits") for name in CODES), ("32 bits", "32 bits")]
)
def test_every_pattern_of_an_id_scores_as_in_torch(first, second, tmp_path):
    path, ids, expected = written(first, second, tmp_path, targets=("onnx",))
    session = onnxruntime.InferenceSession(path)
    assert {item.name: item.type for item in session.get_inputs()} == {
        WORDS_INPUT: "tensor(int32)", "history": "tensor(int64)"
    }  # fmt: skip
    np.testing.assert_allclose(session.run(None, words_of(ids))[0], expected, atol=1e-6)
    model = ondevice.load(path)
    np.testing.assert_allclose(model.predict(ids), expected, atol=1e-6)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    widths = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert not widths & {onnx.TensorProto.UINT64, onnx.TensorProto.UINT32}


def test_named_inputs_still_serve_and_others_get_the_matrix(tmp_path):
    path, ids, expected = written("64 bits", "40 bits", tmp_path)
    for suffix in (".odm", ".tflite"):
        model = ondevice.load(path.with_suffix(suffix))
        np.testing.assert_allclose(model.predict(ids), expected, atol=1e-6)
    with pytest.raises(InputError, match="missing input"):
        ondevice.load(path).predict({name: ids[name] for name in ("item", "shop", "history")})


def test_one_input_is_enough(tmp_path):
    table = BinaryCodeEmbedding(4, 64, 16, multiplier=GOLDEN, padding_id=None)
    module = nn.Sequential(table, nn.Linear(4, 1)).eval()
    convert(module, torch.tensor([1, 2]), tmp_path, targets=("onnx",), inputs="words")
    ids = np.array(EXTREME)
    with torch.inference_mode():
        expected = module(torch.from_numpy(ids)).numpy()
    got = ondevice.load(tmp_path / "model.onnx").predict({"input": ids})
    np.testing.assert_allclose(got, expected, atol=0.01)


class Compared(nn.Module):
    """Reads the number itself."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids):
        return self.table(ids).sum(1) * (ids > 3)


class CodedHistory(nn.Module):
    """Codes of a history, which stays int64."""

    def __init__(self):
        super().__init__()
        self.table = BinaryCodeEmbedding(4, 32, 8, padding_id=None)
        self.plain = nn.Embedding(10, 4)

    def forward(self, item, history):
        return (self.plain(item) + self.table(history).mean(1)).sum(1)


def test_whole_ids_are_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"whole IDs: ids \(read by Greater"):
        convert(
            Compared().eval(), torch.tensor([1, 2]), tmp_path, targets=("onnx",), inputs="words"
        )
    example = (torch.tensor([1, 2]), torch.tensor([[1, 2], [3, 4]]))
    with pytest.raises(UnsupportedError, match=r"whole IDs: history \(binary_code"):
        convert(CodedHistory().eval(), example, tmp_path, targets=("onnx",), inputs="words")
    with pytest.raises(SpecError, match="the model has none"):
        convert(
            nn.Linear(3, 1).eval(), torch.ones(2, 3), tmp_path, targets=("onnx",), inputs="words"
        )
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("first", ["32 bits", "64 bits", "40 bits"])
def test_openvino_scores_every_pattern(first, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")
    path, ids, expected = written(first, "64 bits", tmp_path, targets=("onnx",))
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(model(words_of(ids))[0], expected, atol=1e-5)
