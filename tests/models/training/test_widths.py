"""Dimension selection: every method yields frozen widths; rules and thresholds by hand."""

import numpy as np
import pytest
import torch
from support.torch import make_log, planted_log

from ondevice.errors import SpecError
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    NetworkConfig,
    QuotientRemainderEmbedding,
    Splits,
)
from ondevice.models.layers.rounding import Rounding
from ondevice.models.layers.soft_threshold import SoftThreshold
from ondevice.models.networks import table_counts
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.trainer import TrainConfig, evaluate
from ondevice.models.training.widths import (
    Widths,
    attach_thresholds,
    frequency_widths,
    order_dimensions,
    pruned_widths,
)

SPLITS = Splits(planted_log(6000, 1), planted_log(2000, 2), planted_log(2000, 3))
QUICK = TrainConfig(epochs=3, batch=128, learning_rate=5e-3)


def make_model(dim=8, seed=0):
    torch.manual_seed(seed)
    tables = {
        "user": FullEmbedding(52, dim),
        "item": BinaryCodeEmbedding(dim, 6, 3, padding_id=None),
    }
    return ClickModel(tables, (16,))


def kept_share(model):
    masks = model.masks().values()
    return sum(int(m.widths().sum()) for m in masks) / sum(m.rows * m.dim for m in masks)


@pytest.mark.parametrize("method", ["whole", "frequency", "prune", "amtl"])
@pytest.mark.parametrize("trained", [False, True])
def test_every_method_gives_frozen_widths_and_a_model_that_works(method, trained):
    model = make_model()
    if trained:
        fit(model, SPLITS, FitConfig(QUICK, Widths("whole")), progress=False)
    widths = Widths(method, keep=0.5, penalty=0.05)
    config = FitConfig(QUICK, widths, Rounding("q4"))
    fitted = fit(model, SPLITS, config, trained=trained, progress=False)
    assert evaluate(model, SPLITS.test).auc > 0.84
    assert not model.training and not fitted.interrupted
    assert ("train" in fitted.phases) == (not trained) and "rounding" in fitted.phases
    assert all(np.array_equal(fitted.counts[n], c) for n, c in counted(model).items())
    masks = model.masks()
    assert set(masks) == (set() if method == "whole" else {"user", "item"})
    assert all(mask.frozen for mask in masks.values())
    assert all(t.threshold is None and t.rounding is None for t in model.field_tables())
    if method in ("frequency", "prune"):
        assert 0.4 < kept_share(model) <= 0.51


def counted(model):
    return table_counts(model, SPLITS.train)


def test_the_rule_by_hand():
    counts = {"a": np.array([0, 3, 8, 99]), "b": np.array([0, 15])}
    widths = frequency_widths(counts, {"a": 16, "b": 4}, keep=0.25, alpha=0.5)
    # scale s: widths round(s * (1, 2, 3, 10)) and round(s * (1, 4)), unread rows 1; 18 of 72 fit
    best = max(
        (
            [np.rint(s * np.array(p)).clip(1, d) for p, d in (((2, 3, 10), 16), ((4,), 4))]
            for s in np.arange(0, 3, 0.001)
        ),
        key=lambda w: sum(x.sum() for x in w) if sum(x.sum() for x in w) + 2 <= 18 else -1,
    )
    assert widths["a"].tolist() == [1, *best[0]] and widths["b"].tolist() == [1, *best[1]]
    equal = frequency_widths(counts, {"a": 16, "b": 16}, keep=0.5, alpha=0.0)
    assert equal["a"].tolist()[1:] == [equal["b"][1]] * 3  # no exponent: one width for all
    whole = frequency_widths(counts, {"a": 16, "b": 4}, keep=1.0, alpha=0.5)
    assert whole["a"].tolist()[3] == 16 and whole["a"].tolist()[0] == 1
    least = frequency_widths(counts, {"a": 16, "b": 4}, keep=1e-9, alpha=0.5)
    assert sum(item.sum() for item in least.values()) == 6


def test_the_threshold_by_hand_with_its_gradient():
    shrink = SoftThreshold(3)
    with torch.no_grad():
        shrink.thresholds.copy_(torch.logit(torch.tensor([[0.1], [0.5], [0.9]])))
    values = torch.tensor([[0.3, -0.6], [0.3, -0.6]], requires_grad=True)
    out = shrink(values, torch.tensor([0, 1]), sparse=False)
    torch.testing.assert_close(out, torch.tensor([[0.2, -0.5], [0.0, -0.1]]))
    out.backward(torch.tensor([[1.0, 2.0], [4.0, 8.0]]))
    assert values.grad.tolist() == [[1.0, 2.0], [0.0, 8.0]]
    # -sign(v) * d sigmoid/ds where the entry survives
    expected = [[0.1 * 0.9 * (2.0 - 1.0)], [0.5 * 0.5 * 8.0], [0.0]]
    torch.testing.assert_close(shrink.thresholds.grad, torch.tensor(expected))


def test_pruning_keeps_the_largest_entries_of_all_tables_together():
    model = ClickModel({"a": FullEmbedding(3, 4), "b": FullEmbedding(2, 4)}, (4,))
    attach_thresholds(model)
    values = {
        "a": [[9.0, -8, 1, 1], [0.1, 0.1, 0.1, 0.1], [7.0, 6, 5, 4]],
        "b": [[3.0, 0, 0, 2], [10.0, 11, 12, 0.2]],
    }
    with torch.no_grad():
        for name, rows in values.items():
            model.embedding(name).weight.copy_(torch.tensor(rows))
        model.embedding("b").threshold.thresholds[1] = 50.0  # a threshold of 1: 9, 10, 11 remain
    widths = pruned_widths(model, keep=0.5)  # ten of twenty: 11 .. 2
    assert widths["a"].tolist() == [2, 1, 4] and widths["b"].tolist() == [1, 3]
    with pytest.raises(SpecError, match="no thresholds"):
        pruned_widths(make_model(), 0.5)


def test_rotation_leaves_predictions_and_puts_the_strong_dimensions_first():
    torch.manual_seed(0)
    tables = {
        "a": FullEmbedding(40, 6, std=1.0),
        "b": BinaryCodeEmbedding(6, 9, 3, fuse="concat", std=1.0),
        "c": BinaryCodeEmbedding(6, 9, 3, std=1.0),
        "d": BinaryCodeEmbedding(6, 9, 3, fuse="mul", std=1.0),
    }
    with torch.no_grad():  # all energy of a on one hidden direction, but for little noise
        line = torch.randn(6)
        tables["a"].weight.copy_(torch.randn(40, 1) * line + 0.01 * torch.randn(40, 6))
        tables["a"].weight[0].zero_()
        tables["d"].weight.mul_(torch.tensor([1.0, 3.0, 0.5, 2.0, 0.25, 4.0]))
    model = ClickModel(tables, (8,), {"h": "a"}).eval()
    draws = np.random.default_rng(0)
    columns = {name: draws.integers(1, 40, 500) for name in "abcd"}
    log = make_log(columns, draws.random(500) < 0.5)
    ids = {name: torch.from_numpy(values) for name, values in log.ids.items()}
    ids["h"] = torch.from_numpy(draws.integers(0, 40, (500, 3)))
    before = model.forward_logits(ids)
    product = model.embedding("d")
    products = product.weight.detach().clone()
    assert order_dimensions(model, table_counts(model, log))
    torch.testing.assert_close(model.forward_logits(ids), before, rtol=1e-4, atol=1e-4)
    energy = model.embedding("a").weight.detach().square().sum(0)
    assert energy[0] > 0.99 * energy.sum()
    columns_before, columns_after = (item.sort(0).values for item in (products, product.weight))
    assert sorted(columns_before.T.tolist()) == sorted(columns_after.T.tolist())  # only permuted
    read = torch.from_numpy(table_counts(model, log)["d"]).unsqueeze(1)
    strength = (product.weight.square() * read).sum(0)
    assert (strength[:-1] > strength[1:]).all()


def turned_model(kind, **settings):
    """A model with large random weights, IDs and counts of its rows."""
    torch.manual_seed(0)
    tables = {
        "a": FullEmbedding(40, 6, std=1.0),
        "b": BinaryCodeEmbedding(6, 9, 3, std=1.0),
        "c": FullEmbedding(40, 6, std=1.0),
    }
    model = ClickModel(tables, NetworkConfig(kind=kind, **settings), {"h": "a"})
    draws = np.random.default_rng(0)
    log = make_log({name: draws.integers(1, 40, 500) for name in "abc"}, draws.random(500) < 0.5)
    ids = {name: torch.from_numpy(values) for name, values in log.ids.items()}
    ids["h"] = torch.from_numpy(draws.integers(0, 40, (500, 3)))
    return model.eval(), ids, table_counts(model, log)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("deepfm", {"hidden": (8,)}),
        ("dcn", {"hidden": (8, 4), "batch_norm": True}),
        ("dcn", {"hidden": (8,), "cross_rank": 3}),
        ("dcn", {"hidden": (), "cross_layers": 2}),
        ("dcn_v1", {"hidden": (8,), "cross_layers": 2}),
        ("dcn_v1", {"hidden": ()}),
        ("dnn", {"hidden": ()}),
    ],
)
def test_networks_that_read_vectors_otherwise_keep_their_predictions_too(kind, settings):
    model, ids, counts = turned_model(kind, **settings)
    before = model.forward_logits(ids)
    weights = {name: model.embedding(name).weight.detach().clone() for name in "abc"}
    assert order_dimensions(model, counts)
    torch.testing.assert_close(model.forward_logits(ids), before, rtol=1e-4, atol=1e-3)
    energies = []
    for name, earlier in weights.items():
        weight = model.embedding(name).weight.detach()
        assert not torch.allclose(weight, earlier)
        energies.append(((weight**2).T @ torch.from_numpy(counts[name]).float()).numpy())
    ordered = [sum(energies)] if kind == "deepfm" else energies  # of one rotation the sum falls
    assert all((np.diff(energy) <= 1e-3).all() for energy in ordered)


def test_networks_without_a_turn_are_left_as_they_are():
    for model, counts in (
        (turned_model("din", hidden=(8,))[::2]),
        (
            ClickModel(
                {
                    "a": FullEmbedding(5, 4),
                    "b": QuotientRemainderEmbedding(9, 4, remainders=3, fuse="mul"),
                },
                NetworkConfig(kind="deepfm"),
            ),
            {"a": np.ones(5, np.int64), "b": np.ones(6, np.int64)},
        ),
    ):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert not order_dimensions(model, counts)
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_rounding_keeps_what_it_began_with_if_that_is_better():
    """Random training labels can only harm: the weights, rounded as they were, stay."""
    model = make_model()
    fit(model, SPLITS, FitConfig(QUICK, Widths("whole")), progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    draws = np.random.default_rng(0)
    noise = make_log(SPLITS.train.ids, draws.random(len(SPLITS.train)) < 0.5)
    splits = Splits(noise, SPLITS.validation, SPLITS.test)
    config = FitConfig(QUICK, Widths("whole"), Rounding("q4", 2, slower=1.0))
    fitted = fit(model, splits, config, trained=True, progress=False)
    assert list(fitted.phases) == ["rounding"] and len(fitted.phases["rounding"].epochs) == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_masks_from_the_start_take_one_phase_and_a_price_narrows_them():
    shares = {}
    for penalty in (0.0, 0.1):
        model = make_model()
        widths = Widths("amtl", warm=False, penalty=penalty)
        fitted = fit(model, SPLITS, FitConfig(QUICK, widths), progress=False)
        assert list(fitted.phases) == ["train"]
        assert fitted.phases["train"].best.mean_width is not None
        assert all(mask.frozen for mask in model.masks().values())
        assert evaluate(model, SPLITS.test).auc > 0.84
        shares[penalty] = kept_share(model)
    assert shares[0.1] < shares[0.0]


class Interrupting(ClickModel):
    """Presses Ctrl-C at a given forward pass."""

    presses = 10**9

    def forward_logits(self, ids, levels=None):
        self.presses -= 1
        if self.presses < 0:
            raise KeyboardInterrupt
        return super().forward_logits(ids, levels)


@pytest.mark.parametrize("method", ["prune", "amtl"])
def test_ctrl_c_in_a_later_phase_keeps_the_model_of_the_one_before(method):
    tables = make_model().embeddings
    torch.manual_seed(0)
    model = Interrupting({name: tables[name] for name in ("user", "item")}, (16,))
    steps = -(-6000 // 128) + 1
    model.presses = 3 * steps + 5  # in the first epoch of the second phase
    fitted = fit(model, SPLITS, FitConfig(QUICK, Widths(method), Rounding()), progress=False)
    assert fitted.interrupted and list(fitted.phases) == ["train", "widths"]
    model.presses = 10**9
    best = fitted.phases["train"].best.validation.auc
    assert evaluate(model, SPLITS.validation).auc == pytest.approx(best, abs=1e-4)
    assert all(mask.frozen for mask in model.masks().values())


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "nas"},
        {"keep": 0.0},
        {"keep": 1.1},
        {"alpha": -1.0},
        {"penalty": float("nan")},
        {"epochs": 0},
        {"method": "frequency", "raise_penalty": True},
        {"warm": False, "raise_penalty": True},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SpecError):
        Widths(**settings)
