"""One matrix of IDs as input: the same scores and refusals as with named inputs."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.engines.columns import MATRIX_INPUT
from ondevice.errors import InputError, SpecError
from ondevice.models import BinaryCodeEmbedding

TARGETS = ("odm", "onnx", "tflite")


class Mixed(nn.Module):
    """Merged codes, merged plain tables, an ID that arithmetic reads, a history, numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.codes = nn.ModuleList([BinaryCodeEmbedding(4, 16, 8) for _ in range(2)])
        self.plain = nn.ModuleList([nn.Embedding(rows, 4) for rows in (30, 40)])
        self.steps = nn.Embedding(20, 4)
        for table in (*self.codes, *self.plain, self.steps):
            nn.init.normal_(table.weight)
        self.head = nn.Linear(22, 1)

    def forward(self, user, item, city, day, hour, history, price):
        parts = [self.codes[0](user), self.codes[1](item), self.plain[0](city), self.plain[1](day)]
        parts += [self.steps(history).mean(1), hour.unsqueeze(1).float() / 24, price.unsqueeze(1)]
        return torch.sigmoid(self.head(torch.cat(parts, 1))).squeeze(-1)


def request(rows, seed=0):
    rng = np.random.default_rng(seed)
    ids = {name: rng.integers(-(2**63), 2**63 - 1, rows) for name in ("user", "item")}
    ids |= {"city": rng.integers(0, 30, rows), "day": rng.integers(0, 40, rows)}
    ids |= {"hour": rng.integers(0, 24, rows), "history": rng.integers(0, 20, (rows, 3))}
    return ids | {"price": rng.normal(size=rows).astype(np.float32)}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder, module = tmp_path_factory.mktemp("matrix"), Mixed().eval()
    example = {name: torch.from_numpy(values) for name, values in request(4).items()}
    convert(module, example, folder, tables="f32", inputs="matrix")
    return module, folder


@pytest.mark.parametrize("target", TARGETS)
def test_scores_of_named_inputs_equal_torch(converted, target):
    module, folder = converted
    model = ondevice.load(folder / f"model.{target}")
    for rows in (1, 33):
        ids = request(rows, seed=rows)
        with torch.inference_mode():
            expected = module(*map(torch.from_numpy, ids.values())).numpy()
        np.testing.assert_allclose(model.predict(ids), expected, atol=2e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_ids_beyond_a_plain_table_are_refused(converted, target):
    model = ondevice.load(converted[1] / f"model.{target}")
    for name, value in (("city", 30), ("city", -1), ("day", 40), ("day", 2**40)):
        ids = request(3)
        ids[name][1] = value
        with pytest.raises(InputError):
            model.predict(ids)


def test_the_runtime_sees_one_matrix(converted):
    module, folder = converted
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    shapes = {item.name: item.shape for item in session.get_inputs()}
    assert list(shapes) == [MATRIX_INPUT, "history", "price"]
    assert shapes[MATRIX_INPUT][1:] == [5]
    ids = request(5)
    matrix = np.stack([ids[name] for name in ("user", "item", "city", "day", "hour")], 1)
    got = session.run(
        None, {MATRIX_INPUT: matrix, "history": ids["history"], "price": ids["price"]}
    )
    with torch.inference_mode():
        expected = module(*map(torch.from_numpy, ids.values())).numpy()
    np.testing.assert_allclose(got[0], expected, atol=2e-6)


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 2)

    def forward(self, item):
        return self.table(item).sum(1)


def test_a_matrix_needs_two_inputs(tmp_path):
    with pytest.raises(SpecError, match="the model has 1 of them"):
        convert(Single().eval(), torch.arange(4), tmp_path, targets=("onnx",), inputs="matrix")
    with pytest.raises(SpecError, match="unknown inputs 'rows'; choose from named, matrix"):
        convert(Single().eval(), torch.arange(4), tmp_path, targets=("onnx",), inputs="rows")
    assert not list(tmp_path.iterdir())
