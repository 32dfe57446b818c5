"""compress_embeddings: least squares and error budgets against references; the result converts."""

import hashlib
import itertools

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
from ondevice.models.layers.replacements import RotatedEmbedding


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


def test_the_fit_is_exact_where_counts_differ_by_orders_of_magnitude():
    """A solver that takes the system as it is stops at an error 0.7 percent above the least."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 4)) * (1 + rng.exponential(size=(3000, 1)))
    counts = np.minimum(rng.zipf(1.3, 3000), 10**6)
    small, (entry,) = compress_embeddings(with_table(values), row_ratio=2, counts={"": counts})
    design = np.zeros((3000, small.spec.rows))
    np.add.at(design, (np.arange(3000)[:, None], small.rows(torch.arange(3000)).numpy()), 1)
    weights = np.sqrt(counts + 1)[:, None]
    best = np.linalg.lstsq(design * weights, values * weights, rcond=None)[0]
    least = np.linalg.norm((design @ best - values) * weights) / np.linalg.norm(values * weights)
    assert 0.01 < least < 0.5
    assert entry.error == pytest.approx(least, rel=1e-5)


def test_widths_against_every_choice():
    """The error stays within the budget, with hardly more dimensions than the best choice has."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, dim = int(rng.integers(2, 6)), int(rng.integers(2, 5))
        values = rng.normal(size=(rows, dim)) * 0.6 ** np.arange(dim)
        counts, error = rng.integers(0, 20, rows), rng.uniform(0.05, 0.6)
        small, _ = compress_embeddings(
            with_table(values), width_error=error, rotate=False, min_rows=1, counts={"": counts}
        )
        energy = values.astype(np.float32).astype(float) ** 2 * (counts + 1)[:, None]

        def lost(widths, energy=energy):
            return sum(energy[row, width:].sum() for row, width in enumerate(widths))

        chosen = small.mask.widths().tolist() if small.mask else [small.spec.dim] * rows
        assert lost(chosen) <= error**2 * energy.sum() * (1 + 1e-9)
        choices = itertools.product(range(1, dim + 1), repeat=rows)
        fits = [sum(widths) for widths in choices if lost(widths) <= error**2 * energy.sum()]
        assert min(fits) <= sum(chosen) <= min(fits) + 2


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
    widths = small.mask.widths().numpy()
    assert widths.mean() == pytest.approx(entry.mean_width)
    assert entry.bytes_after == widths.sum() + (4 * 12 * widths.max() if rotate else 0)


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


@pytest.mark.parametrize("padding", [None, 0, 7])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_every_kind(mode, padding):
    """A table that is kept whole, in other coordinates, gives what nn.EmbeddingBag gives."""
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(1500, 8, mode=mode, padding_idx=padding)
    ids, flat = torch.randint(0, 20, (50, 6)), torch.randint(0, 20, (40,))
    ids[0] = 7 if padding is None else padding  # a bag of padding alone
    offsets = torch.tensor([0, 0, 5, 17, 40])  # an empty bag first
    for last in (False, True):
        bag.include_last_offset = last
        small, (entry,) = compress_embeddings(bag, width_error=1e-6)
        assert entry.mean_width > 7.99  # a row of padding is zero
        calls = [(ids,), (flat, offsets), (ids.int(),)]
        if mode == "sum":
            calls.append((ids, None, torch.rand(50, 6)))
            calls.append((flat, offsets, torch.rand(40)))
        for call in calls:
            torch.testing.assert_close(small(*call), bag(*call), atol=1e-5, rtol=0)


class Bags(nn.Module):
    """A history and an item over one table: a bag and a plain lookup."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(2000, 8)
        self.history = nn.EmbeddingBag(2000, 8, mode="mean", padding_idx=0)
        with torch.no_grad():
            self.items.weight.copy_(torch.from_numpy(decaying(2000, 8)))
        self.history.weight = self.items.weight
        self.mlp = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, item, history):
        x = torch.cat([self.items(item), self.history(history)], -1)
        return torch.sigmoid(self.mlp(x)).squeeze(-1)


@pytest.mark.parametrize("options", [{"width_error": 0.1}, {"row_ratio": 2}])
def test_a_bag_shares_its_table_and_converts(tmp_path, options):
    module = Bags().eval()
    rng = np.random.default_rng(1)
    ids = {"item": rng.integers(0, 2000, 60), "history": rng.integers(0, 2000, (60, 5))}
    ids["history"][::2, 3:] = 0
    example = tuple(torch.from_numpy(values) for values in ids.values())
    small, report = compress_embeddings(module, **options)
    assert [entry.path for entry in report] == ["items"]
    assert small.history.table is small.items
    with torch.inference_mode():
        expected, before = small(*example).numpy(), module(*example).numpy()
    if "width_error" in options:
        assert np.abs(expected - before).max() < 0.05
    result = convert(small, example, tmp_path, tables="f32", original=module, fitted=report)
    change = np.abs(expected - before).max()
    for target, item in result.targets.items():
        got = ondevice.load(tmp_path / f"model.{target}").predict(ids)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        # counted from the trained module, not from the fitted one
        assert item.max_change == pytest.approx(change, abs=1e-5)
    card = (tmp_path / "model.md").read_text()
    assert f"| items | 2,000 x 8 | {report[0].method} |" in card


def test_what_cannot_be_swapped_is_kept():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 3

    once, _ = compress_embeddings(nn.Embedding(2000, 8), width_error=0.2)
    for module, reason in (
        (Scaled(2000, 8), "a subclass with a forward of its own"),
        (nn.utils.parametrizations.weight_norm(nn.Embedding(2000, 8)), "its weight is computed"),
        (nn.Embedding(2000, 8, max_norm=1.0), "it has max_norm"),
        (nn.EmbeddingBag(2000, 8, max_norm=1.0), "it has max_norm"),
        (nn.Embedding(2000, 8, dtype=torch.float64), "not float32"),
        (once, "compressed already"),
    ):
        small, (entry,) = compress_embeddings(nn.Sequential(module), width_error=0.2)
        assert entry.method == f"kept: {reason}"
        assert type(small[0]) is type(module)


def test_fine_tuning_recovers_what_sharing_rows_lost(tmp_path):
    """Gradients reach every new parameter, the loss falls, and the tuned module converts."""
    torch.manual_seed(0)
    module = Pair().eval()
    nn.init.normal_(module.items.weight)
    ids = (torch.arange(2000), torch.arange(2000).flip(0), torch.arange(2000) % 40)
    with torch.no_grad():
        target = (module(*ids) > 0.5).float()
    small, _ = compress_embeddings(module, row_ratio=2, width_error=0.5)
    small.train()
    loss = nn.functional.binary_cross_entropy
    optimiser = torch.optim.Adam(small.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        losses.append(loss(small(*ids), target))
        losses[-1].backward()
        tuned = {name for name, value in small.named_parameters() if value.grad.any()}
        assert {"items.weight", "items.rotation", "cities.weight", "mlp.0.weight"} <= tuned
        optimiser.step()
    assert losses[-1].item() < 0.7 * losses[0].item()
    few = tuple(part[:50] for part in ids)
    report = convert(small.eval(), few, tmp_path, targets=("odm",), tables="f32")
    with torch.inference_mode():
        expected = small(*few).numpy()
    inputs = dict(zip(("item", "other", "city"), (part.numpy() for part in few), strict=True))
    got = ondevice.load(report.targets["odm"].path).predict(inputs)
    np.testing.assert_allclose(got, expected, atol=1e-5)


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
    with pytest.raises(SpecError, match=r"no nn\.Embedding and no nn\.EmbeddingBag"):
        compress_embeddings(nn.Linear(3, 3), width_error=0.1)
    broken = with_table(np.where(np.eye(2000, 8), np.nan, 1.0))
    with pytest.raises(InputError, match="table '0': 8 of 16000 values are NaN or infinite"):
        compress_embeddings(nn.Sequential(broken), width_error=0.1)
    with pytest.raises(InputError, match=r"counts of 'items' must be integers >= 0 of shape"):
        compress_embeddings(module, width_error=0.1, counts={"items": [1, 2]})
