"""Integers that a network reads as numbers: the same scores in every engine, or a stated limit."""

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

ENGINES = (("odm", "native"), ("odm", "numpy"), ("onnx", "onnx"), ("tflite", "tflite"))
TOP, LEAST = 2**63 - 1, -(2**63)
BORDERS = [2**bits + step for bits in (24, 31, 32, 53) for step in (-1, 0, 1)]
VALUES = [0, 1, -1, 2, 5, 30, 1000, *BORDERS, *(-border for border in BORDERS), TOP, LEAST]
ITEM = torch.arange(12) % 40
COUNT = torch.tensor([[3, 1, 20], [0, 7, 29]] * 6)


class Clicks(nn.Module):
    """A table and a logit; subclasses say what the counts do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.head = nn.Embedding(40, 8), nn.Linear(8, 1)
        self.weights = nn.Parameter(torch.randn(3, 1) * 0.1)
        self.register_buffer("whole", torch.tensor([3, -2, 5]))
        self.register_buffer("matrix", torch.tensor([[3, -2], [5, 1], [2**33, 7]]))
        self.norm = nn.BatchNorm1d(3)
        self.mlp = nn.Sequential(nn.Linear(11, 8), nn.ReLU(), nn.Linear(8, 1))

    def score(self, item, more):
        return torch.sigmoid(self.head(self.items(item)).squeeze(-1) + more)


class Weighted(Clicks):
    def forward(self, item, count):
        return self.score(item, (count.float() @ self.weights).squeeze(-1) * 0.01)


class Logit(Clicks):
    def forward(self, item, count):
        return self.mlp(torch.cat([self.items(item), count.float()], -1)).squeeze(-1)


class WholeWeights(Clicks):
    def forward(self, item, count):
        return self.score(item, (count * self.whole).sum(-1).float() * 1e-3)


class WholeVector(Clicks):
    def forward(self, item, count):
        return self.score(item, (count @ self.whole).float() * 1e-3)


class WholeMatrix(Clicks):
    def forward(self, item, count):
        return self.score(item, (count @ self.matrix).float().sum(-1) * 1e-3)


class Divided(Clicks):
    def forward(self, item, count):
        mean = self.items(item).sum(-1) / count.sum(-1).clamp(min=1)
        return self.score(item, mean + count[:, 0] / (count[:, 1].abs() + 1))


class Normed(Clicks):
    def forward(self, item, count):
        return self.score(item, self.norm(count.float()).sum(-1) * 0.01)


class Product(Clicks):
    def forward(self, item, count):
        return self.score(item, count.prod(-1).float() * 1e-3)


class RowOfASum(Clicks):
    def forward(self, item, count):
        rows = self.items(count.sum(-1) % 40).sum(-1) + self.items(count.sum((1,)) % 7).sum(-1)
        return self.score(item, rows)


AGREEING = (
    Weighted, Logit, WholeWeights, WholeVector, WholeMatrix, Divided, Normed, Product, RowOfASum,
)  # fmt: skip


def requests():
    """One count of a row of every size, and pairs whose sum or product exceeds 64 bits."""
    one = [
        [value if place == at else 3 for place in range(3)] for at in range(3) for value in VALUES
    ]
    wraps = [[TOP, 7, 1], [TOP, TOP, 5], [LEAST, -1, 5], [2**53 + 1, 1, 1], [2**24 - 1] * 3]
    return np.array([*one, *wraps], np.int64)


@pytest.mark.parametrize("kind", AGREEING, ids=lambda kind: kind.__name__)
def test_counts_of_every_magnitude_give_torchs_scores(kind, tmp_path):
    module = kind().eval()
    convert(module, (ITEM, COUNT), tmp_path, tables="f32")
    counts = requests()
    items = np.arange(len(counts)) % 40
    with torch.no_grad():
        right = module(torch.from_numpy(items), torch.from_numpy(counts)).numpy()
    for suffix, engine in ENGINES:
        got = ondevice.load(tmp_path / f"model.{suffix}", engine=engine).predict(
            {"item": items, "count": counts}
        )
        apart = np.abs(got - right) / np.maximum(np.abs(right), 1)
        assert apart.max() < 1e-5, (engine, counts[apart.argmax()])


class Wave(Clicks):
    def forward(self, item, count):
        return self.score(item, torch.sin(count.float() * 0.26).sum(-1))


def test_where_engines_differ_every_file_states_the_limit(tmp_path):
    module = Wave().eval()
    convert(module, (ITEM, COUNT), tmp_path, tables="f32")
    for suffix, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{suffix}", engine=engine)
        spec = next(item for item in model.inputs if item.name == "count")
        limit = spec.id_limit
        assert 1000 < limit <= 2**53
        assert spec.id_low == 1 - limit
        counts = np.array([[limit - 1, 3, 1], [1 - limit, 4, 2], [limit // 3, limit // 7, 0]])
        with torch.no_grad():
            right = module(ITEM[:3], torch.from_numpy(counts)).numpy()
        got = model.predict({"item": ITEM[:3], "count": counts})
        np.testing.assert_allclose(got, right, atol=1e-5)
        for beyond in (limit, -limit, TOP, LEAST):
            with pytest.raises(InputError, match=rf"{beyond} .*outside {1 - limit}\.\.{limit - 1}"):
                model.predict({"item": [1], "count": [[beyond, 0, 0]]})


class Narrow(Clicks):
    def forward(self, item, count):
        return self.score(item, count.float().sum(-1) * 0.01)


def test_numbers_of_fewer_bits_have_the_limits_of_these(tmp_path):
    module = Narrow().eval()
    convert(module, (ITEM, COUNT.to(torch.int16)), tmp_path, tables="f32")
    for suffix, engine in ENGINES:
        model = ondevice.load(tmp_path / f"model.{suffix}", engine=engine)
        counts = np.array([[32767, -32768, 0], [32767, 32767, 32767]])
        with torch.no_grad():
            right = module(ITEM[:2], torch.from_numpy(counts).to(torch.int16)).numpy()
        got = model.predict({"item": ITEM[:2], "count": counts})
        np.testing.assert_allclose(got, right, atol=1e-6)
        with pytest.raises(InputError, match=r"32768 .*outside -32768\.\.32767"):
            model.predict({"item": [1], "count": [[32768, 0, 0]]})


class FreeLength(Clicks):
    def forward(self, item, count):
        rows = self.items(count.sum(1, keepdim=True) % 40).sum((1, 2))
        return self.score(item, rows + self.items((count + 1).sum(-1) % 7).sum(-1))


def test_sums_of_free_length_are_exact(tmp_path):
    module = FreeLength().eval()
    axes = {"count": {1: "steps"}}
    convert(module, (ITEM, COUNT), tmp_path, tables="f32", dynamic_axes=axes)
    rng = np.random.default_rng(3)
    for steps in (1, 3, 9):
        counts = rng.integers(LEAST, TOP, (5, steps), endpoint=True)
        with torch.no_grad():
            right = module(ITEM[:5], torch.from_numpy(counts)).numpy()
        for suffix in ("odm", "onnx", "tflite"):
            model = ondevice.load(tmp_path / f"model.{suffix}")
            got = model.predict({"item": ITEM[:5], "count": counts})
            np.testing.assert_allclose(got, right, atol=1e-6, err_msg=f"{suffix} {steps}")
