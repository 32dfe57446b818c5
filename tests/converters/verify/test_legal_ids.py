"""Files refuse the IDs that a module refuses, whatever the module computes with them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import ondevice
from ondevice.converters import convert
from ondevice.converters.source.torch_source import TorchSource
from ondevice.converters.tables.pack import pack, pack_tables
from ondevice.converters.verify.requests import domain_of, requests_of
from ondevice.errors import InputError, UnsupportedError
from ondevice.models.layers.embeddings import FullEmbedding

TARGETS = ("odm", "onnx", "tflite")
TOP, LEAST = 2**63 - 1, -(2**63)
ITEM = torch.tensor([1, 2, 30, 4])


class Clicks(nn.Module):
    """A table and a score; subclasses say what the rows are."""

    def __init__(self, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(50, 8)
        self.head = nn.Linear(width, 1)

    def score(self, *parts):
        return torch.sigmoid(self.head(torch.cat(parts, -1))).squeeze(-1)


class OneHot(Clicks):
    def __init__(self):
        super().__init__(15)

    def forward(self, item, day):
        return self.score(self.items(item), functional.one_hot(day, 7).float())


class OneHots(Clicks):
    def __init__(self):
        super().__init__(20)

    def forward(self, item, days):
        first = functional.one_hot(days[:, 0], 7)
        second = functional.one_hot(days[:, 1] - 3, 5)
        return self.score(self.items(item), torch.cat([first, second], -1).float())


class LastStep(Clicks):
    def forward(self, history, length):
        return self.score(self.items(history)[torch.arange(history.shape[0]), length - 1])


class Halved(Clicks):
    def forward(self, item):
        return self.score(self.items(item // 2))


class Buffer(Clicks):
    def __init__(self):
        super().__init__()
        self.register_buffer("group", torch.arange(30) % 7)

    def forward(self, item):
        return self.score(self.items(self.group[item % 1000]))


class Added(Clicks):
    def forward(self, item):
        return self.score(self.items(item + 5))


class Quotient(Clicks):
    def forward(self, item):
        return self.score(self.items(item // 10 % 50))


class Narrow(Clicks):
    def forward(self, item):
        return self.score(self.items(item.long() % 50))


class Sum(Clicks):
    def forward(self, item, user):
        return self.score(self.items(item + user))


STEPS = torch.tensor([[1, 2, 3, 4, 5]] * 4)
DAYS = torch.tensor([[0, 3], [6, 7], [3, 4], [2, 5]])
CASES = {
    "one_hot": (OneHot, (ITEM, torch.tensor([0, 6, 3, 2])), "day", [(0, 6)]),
    "one_hots": (OneHots, (ITEM, DAYS), "days", [(0, 6), (3, 7)]),
    "last_step": (LastStep, (STEPS, torch.tensor([1, 2, 5, 3])), "length", [(-4, 5)]),
    "halved": (Halved, (ITEM,), "item", [(0, 99)]),
    "added": (Added, (ITEM,), "item", [(-5, 44)]),
    "quotient": (Quotient, (ITEM,), "item", [(LEAST, TOP)]),
    "narrow": (Narrow, (ITEM.int(),), "item", [(-(2**31), 2**31 - 1)]),
}


@pytest.mark.parametrize("case", CASES)
def test_legal_values_are_those_of_the_module(case, tmp_path):
    kind, example, name, intervals = CASES[case]
    module = kind().eval()
    convert(module, example, tmp_path, tables="f32")
    names = module.forward.__code__.co_varnames[1 : len(example) + 1]
    ordinary = {key: value[:1].long().numpy() for key, value in zip(names, example, strict=True)}
    models = [ondevice.load(tmp_path / f"model.{target}") for target in TARGETS]
    for place, (low, high) in enumerate(intervals):
        for value in {low - 1, low, high, high + 1}:
            if not LEAST <= value <= TOP:
                continue
            request = {key: array.copy() for key, array in ordinary.items()}
            request[name].reshape(1, -1)[0, place] = value
            for model in models:
                if low <= value <= high:
                    given = [
                        torch.from_numpy(request[key]).to(tensor.dtype)
                        for key, tensor in zip(names, example, strict=True)
                    ]
                    with torch.inference_mode():
                        expected = module(*given).numpy()
                    np.testing.assert_allclose(model.predict(request), expected, atol=1e-6)
                else:
                    with pytest.raises(InputError, match=f"ID {value} .*outside {low}..{high}"):
                        model.predict(request)


@pytest.mark.parametrize("kind", [Buffer, Sum])
def test_values_that_are_no_interval_of_one_input_are_refused_by_every_file(kind, tmp_path):
    module = kind().eval()
    example = (ITEM,) if kind is Buffer else (ITEM, torch.tensor([3, 4, 5, 6]))
    example = (example[0] % 25, *example[1:])
    convert(module, example, tmp_path, tables="f32")
    request = {"item": np.array([31 if kind is Buffer else 48])}
    if kind is Sum:
        request["user"] = np.array([2])
    with pytest.raises(IndexError):
        module(*map(torch.from_numpy, request.values()))
    for target in TARGETS:
        with pytest.raises(InputError):
            ondevice.load(tmp_path / f"model.{target}").predict(request)


def test_a_refusal_outside_the_graph_is_warned_of(tmp_path):
    class Doubled(Clicks):
        def forward(self, item, user):
            if not torch.compiler.is_compiling() and (item == user).any():
                raise ValueError("one row twice")
            return self.score(self.items(item % 5 + user % 3))

    example = (ITEM, torch.tensor([3, 4, 5, 6]))
    with pytest.warns(UserWarning, match=r"model\.odm answers requests that the module refuses"):
        convert(Doubled().eval(), example, tmp_path, tables="f32", targets=["odm"])


def test_probes_reach_every_magnitude_of_computed_ids_and_the_graphs_constants():
    class Compared(Clicks):
        def forward(self, item):
            return self.score(self.items(torch.where(item > 123_456_789, item % 50, item % 7)))

    source = TorchSource(Compared().eval(), (ITEM,))
    captured = source.capture()
    packed = pack(captured, pack_tables(captured, "f32"))
    values = requests_of(source, domain_of(packed, source), 1024).answered["item"]
    for border in (0, 1, -1, 123_456_788, 123_456_789, 123_456_790, TOP, LEAST):
        assert border in values
    for bits in (24, 31, 53):
        for step in (-1, 0, 1):
            assert 2**bits + step in values
    sizes = np.log2(np.abs(values[values != LEAST]).astype(float) + 1)
    assert (np.histogram(sizes, bins=8, range=(0, 63.1))[0] > 10).all()


@pytest.mark.parametrize(("padding", "low", "limit"), [(-1, -1, 9), (0, 0, 9), (9, 0, 10)])
@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_a_padding_id_beside_the_rows_is_legal(tmp_path, padding, low, limit, pooling):
    """A plain table without a row for unknown IDs: the file takes what the layer takes, no more."""

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = FullEmbedding(9, 4, padding_id=padding, oov_row=None, std=1.0)

        def forward(self, a):
            return self.table(a, pooling=pooling)

    module = Padded().eval()
    ids = np.array([[1, padding, 8], [padding, padding, padding], [0, 2, 3]])
    convert(module, (torch.from_numpy(ids),), tmp_path, tables="f32")
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)).numpy()
    for path in (tmp_path / f"model.{kind}" for kind in ("odm", "onnx", "tflite")):
        model = ondevice.load(path)
        (spec,) = model.inputs
        assert (spec.id_low, spec.id_limit) == (low, limit)
        np.testing.assert_allclose(model.predict({"a": ids}), expected, atol=1e-6)
        for wrong in (low - 1, limit):
            with pytest.raises(InputError, match=str(wrong)):
                model.predict({"a": np.where(ids == 2, wrong, ids)})


def test_a_padding_id_far_from_the_rows_is_refused(tmp_path):
    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = FullEmbedding(9, 4, padding_id=77, oov_row=None)

        def forward(self, a):
            return self.table(a)

    with pytest.raises(UnsupportedError, match=r"padding ID 77; expected -1\.\.9, or a row"):
        convert(Far().eval(), (torch.arange(5),), tmp_path)
    assert not list(tmp_path.iterdir())
