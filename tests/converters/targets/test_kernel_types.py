"""The table of element types says what the kernels of the TFLite runtime here take."""

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.converters.targets.tflite.kernel_types import KERNEL_TYPES, VALUE_TYPES
from ondevice.converters.targets.tflite.writer import TfliteWriter
from ondevice.errors import UnsupportedError

interpreter = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="LiteRT is not installed"
).Interpreter

UNARY = {
    "ABS": {}, "CEIL": {}, "EXP": {}, "FLOOR": {}, "LEAKY_RELU": {"alpha": 0.1}, "LOG": {},
    "LOGICAL_NOT": {}, "LOGISTIC": {}, "NEG": {}, "RELU": {}, "ROUND": {},
    "SOFTMAX": {"beta": 1.0}, "SQRT": {}, "TANH": {},
}  # fmt: skip
BINARY = (
    "ADD", "DIV", "FLOOR_MOD", "LOGICAL_AND", "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MUL", "POW",
    "SUB",
)  # fmt: skip
COMPARISONS = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL")
REDUCTIONS = ("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM")


def operator(opcode, dtype, writer):
    """One operator on inputs [3, 4] of a type."""
    left, right = (writer.input(name, (3, 4), dtype) for name in ("left", "right"))
    if opcode in UNARY:
        return writer.op(opcode, [left], (3, 4), dtype, **UNARY[opcode])
    if opcode in REDUCTIONS:
        axes = writer.constant([1], np.int32)
        return writer.op(opcode, [left, axes], (3, 1), dtype, keep_dims=True)
    found = np.bool_ if opcode in COMPARISONS else dtype
    return writer.op(opcode, [left, right], (3, 4), found)


def runs(path):
    """Whether the runtime takes a file and a request."""
    try:
        loaded = interpreter(str(path))
        loaded.allocate_tensors()
        for item in loaded.get_input_details():
            loaded.set_tensor(item["index"], np.ones(item["shape"], item["dtype"]))
        loaded.invoke()
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("opcode", [*UNARY, *BINARY, *COMPARISONS, *REDUCTIONS])
def test_kernels_take_what_the_table_says(opcode, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ondevice.converters.targets.tflite.writer.check_kernel", lambda opcode, dtype: None
    )
    taken = set()
    for dtype in VALUE_TYPES:
        writer = TfliteWriter()
        writer.output(operator(opcode, dtype, writer), "out")
        writer.write(tmp_path / "one.tflite", b"")
        if runs(tmp_path / "one.tflite"):
            taken.add(dtype)
    assert taken == set(KERNEL_TYPES.get(opcode, VALUE_TYPES))


class Integers(nn.Module):
    """IDs that go through an operator before they choose a row."""

    def __init__(self, rows):
        super().__init__()
        self.items, self.rows = nn.Embedding(50, 4), rows

    def forward(self, item):
        return torch.sigmoid(self.items(self.rows(item)).sum(-1))


@pytest.mark.parametrize(
    "rows",
    [
        lambda ids: ids.abs().clamp(max=49).clamp(min=0),
        lambda ids: (-ids) % 50,
        lambda ids: ids.sign() + 1,
        lambda ids: torch.maximum(ids, -ids).remainder(50),
        lambda ids: (ids * ids) % 50,
        lambda ids: torch.stack([ids % 7, ids % 50], 1).amax(1),
        lambda ids: torch.stack([ids % 3 == 0, ids > 5], 1).any(1).long(),
        lambda ids: torch.stack([ids, ids // 7, ids - ids % 9], 1).argmax(1),
        lambda ids: torch.stack([ids // 7, ids, ids + ids % 9], 1).argmin(1, keepdim=True)[:, 0],
        lambda ids: torch.stack([ids % 3 == 0, ids > 5], 1).max(1).values.long(),
        lambda ids: torch.stack([ids, ids // 7, 0 * ids], 1).argsort(dim=1, stable=True)[:, 1],
        lambda ids: torch.stack([ids, ids // 7, 0 * ids], 1).topk(2, 1).indices[:, 1],
    ],
    ids=[
        *("abs", "negative", "sign", "maximum", "square", "amax", "any", "argmax", "argmin"),
        *("greatest truth value", "ascending", "largest"),
    ],
)
def test_integers_that_tflite_has_no_kernel_for_are_expressed_by_others(rows, tmp_path):
    module = Integers(rows).eval()
    convert(module, (torch.tensor([1, 2, 3]),), tmp_path, tables="f32")
    ids = np.array([0, 1, -1, 7, -8, 2**24 + 1, -(2**31), 2**62 + 5, 2**63 - 1, -(2**63)])
    with torch.inference_mode():
        expected = module(torch.from_numpy(ids)).numpy()
    for target in ("odm", "onnx", "tflite"):
        got = ondevice.load(tmp_path / f"model.{target}").predict({"item": ids})
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_an_operator_without_a_kernel_is_refused_before_a_file_is_written(tmp_path):
    module = Integers(lambda ids: (ids % 7) ** 5 % 50).eval()
    with pytest.raises(UnsupportedError, match=r"POW of int64: the kernels take float32"):
        convert(module, (torch.tensor([1, 2, 3]),), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_onnx_runtime_lacks_on_integers_is_named(tmp_path):
    module = Integers(lambda ids: ids.relu() % 50).eval()
    with pytest.raises(UnsupportedError, match=r"model\.onnx cannot run .*Relu"):
        convert(module, (torch.tensor([1, 2, 3]),), tmp_path, targets=["onnx"])
    assert not list(tmp_path.iterdir())
    convert(module, (torch.tensor([1, 2, 3]),), tmp_path, targets=["tflite"])
