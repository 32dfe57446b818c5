"""Integers of .onnx files: no operator that some release of ONNX Runtime computes inexactly.

The releases that do are not installed here, so tests look at the operators, and the oldest one
(tests/legacy) repeats the test vectors of the file. Scores are compared in the newest.
"""

import numpy as np
import onnx
import pytest
import torch
from support.converters import legacy_dir
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError

pytest.importorskip("onnxruntime")

LEAST, TOP = -(2**63), 2**63 - 1
BORDERS = [0, 1, -1, 7, LEAST, LEAST + 1, TOP] + [
    sign * 2**power + one
    for power in (24, 31, 32, 53, 62)
    for sign in (1, -1)
    for one in (-1, 0, 1)
]
INEXACT = {"Clip", "Max", "Min", "ReduceProd", "ReduceSum", "Sign"}
PRIME = 65521


class Integers(nn.Module):
    """Numbers computed from two IDs, as residues that float32 holds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.users = nn.Embedding(50, 4)

    def forward(self, item, user):
        other = user * 2**31 - item // 3
        both = torch.stack([item, other], 1)
        numbers = [
            item.clamp(-5, 7), item.clamp(min=2**31), item.clamp(max=2**31 + 1),
            torch.maximum(item, other), torch.minimum(item, other), item.sign(), both.sum(1),
            both.prod(1), both.sum(1, keepdim=True)[:, 0], torch.fmod(item, 24),
            torch.fmod(item, -(2**61) - 1), torch.fmod(item, other), item % other, item // other,
        ]  # fmt: skip
        score = torch.sigmoid(self.users(user).sum(-1))
        return {"numbers": torch.stack(numbers, 1).remainder(PRIME).float(), "score": score}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    legacy = legacy_dir("operators")
    folder = tmp_path_factory.mktemp("out") if legacy is None else legacy / "exact_integers"
    examples = {"item": torch.tensor([1, 2, 3, 40]), "user": torch.tensor([1, 2, 3, 4])}
    convert(Integers().eval(), examples, folder, targets=["odm", "onnx"], tables="f32")
    return folder


def test_integers_of_every_size_are_torchs(files):
    item = np.repeat(np.array(BORDERS, np.int64), 4)
    user = np.tile(np.array([1, 2, 4, 49]), len(BORDERS))
    keep = user * 2**31 - item // 3 != 0
    item, user = item[keep], user[keep]
    with torch.inference_mode():
        right = Integers().eval()(torch.from_numpy(item), torch.from_numpy(user))["numbers"]
    for name in ("model.onnx", "model.odm"):
        got = ondevice.load(files / name).predict({"item": item, "user": user})["numbers"]
        wrong = np.argwhere(got != right.numpy())
        assert not len(wrong), (name, item[wrong[0][0]], wrong[0])


def test_no_operator_is_inexact_in_any_release(files):
    graph = onnx.shape_inference.infer_shapes(onnx.load(files / "model.onnx")).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)
    }
    types |= {value.name: value.data_type for value in graph.initializer}
    constants = {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"
    }
    constants |= {value.name: value for value in graph.initializer}
    integers = [
        node
        for node in graph.node
        if node.input and types.get(node.input[0]) == onnx.TensorProto.INT64
    ]
    assert len(integers) > 40
    assert not [node.op_type for node in integers if node.op_type in INEXACT]
    divided = [node for node in integers if node.op_type in ("Div", "Mod")]
    assert len(divided) > 5
    assert not [node for node in divided if any(item.i for item in node.attribute)]  # fmod
    for node in divided:  # a constant, or what a choice leaves of the request's numbers
        if node.input[1] in constants:
            number = onnx.numpy_helper.to_array(constants[node.input[1]])
            assert not np.isin(number, (0, -1)).any()
        else:
            (maker,) = (other for other in graph.node if node.input[1] in other.output)
            assert maker.op_type == "Where"


@pytest.mark.parametrize("name", ["model.onnx", "model.odm"])
def test_division_by_zero_is_an_error(files, name):
    model = ondevice.load(files / name)
    model.predict({"item": [3 * 2**31 + 3], "user": [1]})
    with pytest.raises(InputError):
        model.predict({"item": [1, 3 * 2**31], "user": [1, 1]})
