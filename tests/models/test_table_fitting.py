"""compress_embeddings: least squares and error budgets against references; the result converts."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError, SpecError
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    compress_embeddings,
    save_checkpoint,
)
from ondevice.models.table_fitting import RotatedEmbedding


class Pair(nn.Module):
    """A model by somebody else: a table used twice, one tied to it, a small one, and a matrix."""

    def __init__(self, rows=2000, dim=8):
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(rows, dim, padding_idx=0)
        self.tied = nn.Embedding(rows, dim, padding_idx=0)
        self.tied.weight = self.items.weight
        self.cities = nn.Embedding(40, dim)
        self.mlp = nn.Sequential(nn.Linear(3 * dim, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, item, other, city):
        x = torch.cat([self.items(item), self.tied(other), self.cities(city)], -1)
        return torch.sigmoid(self.mlp(x)).squeeze(-1)


def decaying(rows, dim, seed=0):
    """A table whose principal axes have energies 1, 1/2, 1/4 ..., in directions of their own."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (rng.normal(size=(rows, dim)) * 0.5 ** np.arange(dim)) @ axes


def with_table(values, **options):
    module = nn.Embedding(*values.shape, **options)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(values))
    return module


def vectors(module, rows):
    with torch.inference_mode():
        return module(torch.arange(rows)).numpy().astype(np.float64)


def test_binary_codes_are_the_weighted_least_squares_fit():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(60, 3))
    counts = rng.integers(0, 50, 60)
    small, (entry,) = compress_embeddings(
        with_table(values), row_ratio=3, counts={"": counts}, min_rows=1
    )
    spec = small.spec
    assert spec.kind == "binary code"
    assert spec.rows <= 20
    # the same by dense linear algebra, from the rows that the layer itself reads
    design = np.zeros((60, spec.rows))
    for number, rows in enumerate(small.rows(torch.arange(60)).tolist()):
        for row in rows:
            design[number, row] += 1
    weights = np.sqrt(counts + 1)[:, None]
    best = np.linalg.lstsq(design * weights, values * weights, rcond=None)[0]
    np.testing.assert_allclose(vectors(small, 60), design @ best, atol=1e-4)
    lost = ((design @ best - values) ** 2).sum(1) @ (counts + 1)
    expected = np.sqrt(lost / ((values**2).sum(1) @ (counts + 1)))
    assert entry.error == pytest.approx(expected, rel=1e-4)


def test_a_table_that_is_a_binary_code_is_found_exactly():
    source = BinaryCodeEmbedding(4, 10, 6, multiplier=0x9E3779B97F4A7C15, padding_id=None, std=1.0)
    values = vectors(source, 1024)
    small, (entry,) = compress_embeddings(with_table(values), row_ratio=12.8)
    assert small.spec.rows == 2**6 + 2**4
    np.testing.assert_allclose(vectors(small, 1024), values, atol=1e-4)
    assert entry.error < 1e-4


@pytest.mark.parametrize("rotate", [True, False])
def test_widths_keep_the_error_budget(rotate):
    values = decaying(3000, 12)
    small, (entry,) = compress_embeddings(with_table(values), width_error=0.2, rotate=rotate)
    error = np.sqrt(((vectors(small, 3000) - values) ** 2).sum() / (values**2).sum())
    assert entry.error == pytest.approx(error, rel=1e-3)
    assert 0.19 < error <= 0.2001
    assert isinstance(small, RotatedEmbedding) == rotate
    # energies 1, 1/4, 1/16, ...: beyond 2 dimensions lies 1/16 of all, 0.25 squared
    assert (1.5 < entry.mean_width < 3) if rotate else entry.mean_width > 6
    kept = small.mask.widths().numpy()
    assert kept.mean() == pytest.approx(entry.mean_width)
    assert entry.bytes_after == kept.sum() + (4 * 12 * kept.max() if rotate else 0)


def test_frequent_rows_are_kept_better():
    values = decaying(2000, 8)
    counts = np.where(np.arange(2000) % 2 == 0, 1000, 0)
    small, _ = compress_embeddings(with_table(values), width_error=0.1, counts={"": counts})
    widths = small.mask.widths().numpy()
    assert widths[::2].mean() > widths[1::2].mean() + 1


def test_modules_are_swapped_where_they_are_used():
    module = Pair()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    small, report = compress_embeddings(module, width_error=0.3, row_ratio=2)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert small.items is small.tied
    assert isinstance(small.cities, nn.Embedding)
    assert [(item.path, item.new_rows) for item in report] == [
        ("items", small.items.spec.rows),
        ("cities", 40),
    ]
    assert report[1].method == "kept: under 1,000 rows"
    assert not small.items(torch.tensor([0])).any()  # padding
    with torch.no_grad():  # the copy's layers are its own
        small.mlp[0].weight.zero_()
    assert module.mlp[0].weight.any()
    out = small(torch.tensor([3, 4]), torch.tensor([5, 6]), torch.tensor([7, 8]))
    out.sum().backward()  # it trains as before
    assert small.items.weight.grad is not None


def test_converts_and_the_rotation_joins_the_next_layer(tmp_path):
    module = Pair()
    with torch.no_grad():
        module.items.weight.copy_(torch.from_numpy(decaying(2000, 8)))
        module.items.weight[0] = 0
    small, _ = compress_embeddings(module, width_error=0.3)
    rng = np.random.default_rng(0)
    rows = {"item": 2000, "other": 2000, "city": 40}
    ids = {name: rng.integers(0, most, 50) for name, most in rows.items()}
    example = tuple(torch.from_numpy(values) for values in ids.values())
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        again, _ = compress_embeddings(module, width_error=0.3)
        report = convert(again.eval(), example, folder, tables="q8")
        files = sorted(folder.iterdir())
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    with torch.inference_mode():
        expected = small.eval()(*example).numpy()
    for target, item in report.targets.items():
        assert item.max_difference < 1e-6
        # one product for each layer of the module, none for the rotations
        most = int(small.items.mask.widths().max())
        assert [(layer.features, layer.units) for layer in item.layers] == [
            (2 * most + 8, 16),
            (16, 1),
        ]
        got = ondevice.load(tmp_path / "a" / f"model.{target}").predict(ids)
        np.testing.assert_allclose(got, expected, atol=5e-3)


def test_click_models(tmp_path):
    torch.manual_seed(0)
    tables = {"user": FullEmbedding(1500, 8, std=1.0), "item": FullEmbedding(1200, 8, std=1.0)}
    model = ClickModel(tables, (8,)).eval()
    ids = {"user": torch.tensor([0, 1, 700, 2**40]), "item": torch.tensor([0, 2, 1, -5])}
    small, report = compress_embeddings(model, width_error=0.05)
    with torch.inference_mode():
        np.testing.assert_allclose(small(ids).numpy(), model(ids).numpy(), atol=0.03)
    assert [item.path for item in report] == ["embeddings.user", "embeddings.item"]
    with pytest.raises(SpecError, match="convert it, or fit it with rotate=False"):
        save_checkpoint(tmp_path / "x", small, None)


def test_bad_requests():
    module = Pair()
    for options, fault in (
        ({}, "give row_ratio, width_error or both"),
        ({"row_ratio": 1}, "row_ratio must be above 1"),
        ({"width_error": 1.5}, "width_error must be between 0 and 1"),
        ({"width_error": 0.1, "only": ["mlp"]}, "no embedding mlp.*items, tied, cities"),
        ({"row_ratio": 500}, "too large for 2,000 rows; binary codes reach"),
    ):
        with pytest.raises(SpecError, match=fault):
            compress_embeddings(module, **options)
    with pytest.raises(InputError, match=r"counts of 'items' must be integers >= 0 of shape"):
        compress_embeddings(module, width_error=0.1, counts={"items": [1, 2]})
