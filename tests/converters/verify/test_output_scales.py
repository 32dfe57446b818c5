"""Outputs of any scale: good files of regressions, counts, embeddings pass, wrong ones do not."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.converters import convert
from ondevice.converters.convert import DENSE_TOLERANCE
from ondevice.converters.verify.verification import Expected, check_parity, measure_file
from ondevice.errors import ParityError
from ondevice.model import load
from ondevice.verify import verify

ROWS = 200


class Regression(nn.Module):
    """A watch time: large terms of both signs, whose sum is close to 0 for some rows."""

    def __init__(self, scale, offset=0.0, wide=64):
        super().__init__()
        torch.manual_seed(4)
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(60, 8)
        self.layers = nn.Sequential(nn.Linear(16, wide), nn.ReLU(), nn.Linear(wide, 1))
        self.scale, self.offset = scale, offset

    def forward(self, user, item):
        x = torch.cat([self.users(user), self.items(item)], -1)
        return (self.layers(x).squeeze(-1) + self.offset) * self.scale


class Towers(nn.Module):
    """Embeddings of two towers, and their product, as outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.users, self.items = nn.Embedding(50, 16), nn.Embedding(60, 16)
        self.user_tower, self.item_tower = nn.Linear(16, 32), nn.Linear(16, 32)

    def forward(self, user, item):
        left = self.user_tower(self.users(user)) * 30
        right = self.item_tower(self.items(item)) * 30
        return left, right, (left * right).sum(-1)


class Counts(nn.Module):
    """A click probability beside the expected number of views, in one output [batch, 2]."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(60, 8)
        self.head = nn.Linear(16, 2)

    def forward(self, user, item):
        x = self.head(torch.cat([self.users(user), self.items(item)], -1))
        return torch.stack([torch.sigmoid(x[:, 0]), torch.relu(x[:, 1]) * 4000], 1)


def example():
    rng = np.random.default_rng(0)
    return {
        "user": torch.tensor(rng.integers(0, 50, ROWS)),
        "item": torch.tensor(rng.integers(0, 60, ROWS)),
    }


def outputs_of(file):
    """A file's outputs for the example, by name."""
    model = load(file)
    got = model.predict({name: values.numpy() for name, values in example().items()})
    return got if isinstance(got, dict) else {model.outputs[0]: got}


def judged(file, right, tolerance):
    """Whether verification accepts a file where `right` is expected of it."""
    request = {name: values.numpy() for name, values in example().items()}
    expected = Expected([request], [right], [right], [(request, right)])
    report = measure_file(file, expected, tolerance)
    return all(item.passed for item in report.parity), report, expected


@pytest.mark.parametrize("dense", ["f32", "f16"])
@pytest.mark.parametrize("scale", [1e-3, 1e4, 1e7])
def test_a_regression_at_any_scale(tmp_path, scale, dense):
    report = convert(
        Regression(scale).eval(), example(), tmp_path, targets=("odm",), tables="f32", dense=dense
    )
    assert verify(tmp_path / "model.odm").passed
    tolerance = DENSE_TOLERANCE[dense]
    assert report.targets["odm"].max_difference <= tolerance
    good = outputs_of(tmp_path / "model.odm")
    assert judged(tmp_path / "model.odm", good, tolerance)[0]
    for share in (0.5, 1.5, 0.0):
        wrong = {name: values * np.float32(share) for name, values in good.items()}
        accepted, found, expected = judged(tmp_path / "model.odm", wrong, tolerance)
        assert not accepted
        with pytest.raises(ParityError, match="differ from the torch module's by more than"):
            check_parity([found], probabilities=expected.probabilities)


def test_rows_close_to_zero_among_large_ones(tmp_path):
    """Sums of terms of 1e4 whose result is near 0: relative to the result nothing would pass."""
    module = Regression(1e4, wide=512).eval()
    report = convert(module, example(), tmp_path, targets=("odm", "onnx", "tflite"), tables="f32")
    right = module(**example()).detach().numpy()
    assert np.abs(right).max() > 3000 and np.abs(right).min() < 100
    for target, item in report.targets.items():
        assert item.max_difference < 1e-5 and verify(tmp_path / f"model.{target}").passed
    assert not report.probabilities
    wrong = dataclasses.replace(report.targets["odm"].parity[0], max_difference=0.5)
    faulty = dataclasses.replace(report.targets["odm"], parity=(wrong,))
    with pytest.raises(ParityError, match=r"^outputs differ .* more than 1e-05 of their scale"):
        check_parity([faulty], probabilities=report.probabilities)
    card = (tmp_path / "model.md").read_text()
    assert "probability" not in card and "an output, in units of its scale" in card


def test_embeddings_of_two_towers(tmp_path):
    report = convert(Towers().eval(), example(), tmp_path, targets=("odm", "onnx"), tables="q8")
    assert max(item.max_difference for item in report.targets.values()) < 1e-5
    good = outputs_of(tmp_path / "model.odm")
    assert len(good) == 3
    for name, values in good.items():
        wrong = {**good, name: np.roll(values, 1, axis=-1)}
        assert not judged(tmp_path / "model.odm", wrong, 1e-5)[0]


def test_a_wrong_probability_is_not_hidden_by_a_count_beside_it(tmp_path):
    convert(Counts().eval(), example(), tmp_path, targets=("odm",), tables="f32")
    ((name, good),) = outputs_of(tmp_path / "model.odm").items()
    assert good[:, 1].max() > 1000
    assert judged(tmp_path / "model.odm", {name: good}, 1e-5)[0]
    for column, error in ((0, 1e-4), (1, 0.5)):
        wrong = good.copy()
        wrong[7, column] += error
        assert not judged(tmp_path / "model.odm", {name: wrong}, 1e-5)[0]


def test_the_report_speaks_of_probabilities_where_outputs_are_some(tmp_path):
    class Clicks(Regression):
        def forward(self, user, item):
            return torch.sigmoid(super().forward(user, item))

    report = convert(Clicks(1.0).eval(), example(), tmp_path, targets=("odm",))
    assert report.probabilities
    assert "largest change of a probability" in (tmp_path / "model.md").read_text()
    faulty = dataclasses.replace(
        report.targets["odm"],
        parity=(dataclasses.replace(report.targets["odm"].parity[0], max_difference=0.5),),
    )
    with pytest.raises(ParityError, match=r"^probabilities differ from .* by more than 1e-05: "):
        check_parity([faulty], probabilities=report.probabilities)
