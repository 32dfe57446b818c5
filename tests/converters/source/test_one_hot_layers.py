"""One-hot vectors joined with other features before a dense layer: tables, recognised as such."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

SHOPS, CITIES = 1000, 300
EXAMPLE = (
    torch.arange(12), torch.arange(12) * 80, torch.arange(12) * 20, torch.arange(12) % 7,
    torch.rand(12, 2, generator=torch.Generator().manual_seed(0)),
)  # fmt: skip
NAMES = ("item", "shop", "city", "day", "price")


def one_hots(shop, city, day):
    places = ((shop, SHOPS), (city, CITIES), (day, 7))
    return [functional.one_hot(ids, count) for ids, count in places]


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.out = nn.Embedding(40, 8), nn.Linear(16, 1)
        self.layer = nn.Linear(8 + SHOPS + CITIES + 7 + 2, 16)

    def joined(self, item, shop, city, day, price):
        shops, cities, days = (part.float() for part in one_hots(shop, city, day))
        return torch.cat([self.items(item), shops, price, cities, days], -1)

    def forward(self, item, shop, city, day, price):
        hidden = self.layer(self.joined(item, shop, city, day, price))
        return torch.sigmoid(self.out(torch.relu(hidden)).squeeze(-1))


class JoinedInside(Joined):
    """A join of integers, cast and joined again."""

    def joined(self, item, shop, city, day, price):
        whole = torch.cat(one_hots(shop, city, day), -1).float()
        return torch.cat([whole, price, self.items(item)], -1)


class NoBias(Joined):
    """A parameter as the matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(self.layer.in_features, 16) * 0.3)

    def forward(self, item, shop, city, day, price):
        hidden = self.joined(item, shop, city, day, price) @ self.weight
        return torch.sigmoid(self.out(torch.relu(hidden)).squeeze(-1))


@pytest.mark.parametrize("kind", [Joined, JoinedInside, NoBias], ids=lambda kind: kind.__name__)
def test_rows_behind_one_hot_vectors_are_tables(kind, tmp_path):
    module = kind().eval()
    convert(module, EXAMPLE, tmp_path, tables="f32")
    small = convert(module, EXAMPLE, tmp_path / "q8", tables="q8")
    dense = (8 + 7 + 2) * 16 * 4  # bytes of what is no table
    tables = (40 * 8 + (SHOPS + CITIES) * 16) * 4
    for report in small.targets.values():
        assert report.table_bytes < tables * 0.3
        assert report.bytes < tables * 0.3 + dense + 12_000
    rng = np.random.default_rng(1)
    request = {
        "item": rng.integers(0, 40, 50), "shop": rng.integers(0, SHOPS, 50),
        "city": rng.integers(0, CITIES, 50), "day": rng.integers(0, 7, 50),
        "price": rng.random((50, 2), np.float32),
    }  # fmt: skip
    with torch.no_grad():
        right = module(*(torch.from_numpy(request[name]) for name in NAMES)).numpy()
    for suffix, engine in (("odm", "native"), ("odm", "numpy"), ("onnx", None), ("tflite", None)):
        model = ondevice.load(tmp_path / f"model.{suffix}", engine=engine or "auto")
        np.testing.assert_allclose(model.predict(request), right, atol=1e-6)
        for name, count in (("shop", SHOPS), ("city", CITIES), ("day", 7)):
            for wrong in (-1, count):
                with pytest.raises(InputError, match=f"ID {wrong} "):
                    model.predict({**request, name: np.full(50, wrong)})


class Truncated(Joined):
    """A cast of prices to integers, which must stay."""

    def joined(self, item, shop, city, day, price):
        shops, cities, days = one_hots(shop, city, day)
        whole = torch.cat([self.items(item), price * 9], -1).long()
        return torch.cat([whole, shops, cities, days], -1).float()


def test_casts_that_change_numbers_stay(tmp_path):
    module = Truncated().eval()
    convert(module, EXAMPLE, tmp_path, tables="f32")
    with torch.no_grad():
        right = module(*EXAMPLE).numpy()
    request = dict(zip(NAMES, (tensor.numpy() for tensor in EXAMPLE), strict=True))
    for suffix in ("odm", "onnx", "tflite"):
        got = ondevice.load(tmp_path / f"model.{suffix}").predict(request)
        np.testing.assert_allclose(got, right, atol=1e-6)
