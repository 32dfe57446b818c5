"""Refitting rows: the prior's sum and optimum by hand, a network that stays as it is."""

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from support.torch import make_log, planted_log
from torch.nn import functional

from ondevice.errors import SpecError
from ondevice.models import (
    BinaryCodeEmbedding,
    ClickModel,
    FullEmbedding,
    HashEmbedding,
    NetworkConfig,
    Splits,
)
from ondevice.models.networks import table_counts
from ondevice.models.training import phases
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.refit import Refit, RowPrior, fixed_network
from ondevice.models.training.trainer import TrainConfig, evaluate, train
from ondevice.models.training.widths import Widths

SPLITS = Splits(planted_log(6000, 1), planted_log(2000, 2), planted_log(2000, 3))
QUICK = TrainConfig(epochs=2, batch=128, learning_rate=5e-3)


def make_model(**network):
    torch.manual_seed(0)
    tables = {
        "user": FullEmbedding(52, 8),
        "item": BinaryCodeEmbedding(8, 6, 3, padding_id=None),
    }
    return ClickModel(tables, NetworkConfig(hidden=(16,), **network))


def test_batches_of_an_epoch_add_up_to_the_prior_of_every_row_read():
    """With rows of a head, of a tail, and padding that reads nothing."""
    torch.manual_seed(0)
    tables = {"a": HashEmbedding(7, 3, head=4, padding_id=0), "b": BinaryCodeEmbedding(3, 4, 2)}
    model = ClickModel(tables, (4,))
    draws = np.random.default_rng(0)
    log = make_log({name: draws.integers(0, 16, 60) for name in "ab"}, draws.random(60) < 0.5)
    prior = RowPrior(model, table_counts(model, log), 2.5)
    total = 0.0
    for start in range(0, 60, 20):
        ids = {name: torch.from_numpy(log.ids[name][start : start + 20]) for name in "ab"}
        total += float(prior(ids).detach()) * 20
    counts = {name: np.zeros(table.spec.rows) for name, table in tables.items()}
    for name, table in tables.items():
        rows = table.rows(torch.from_numpy(log.ids[name])).numpy()[log.ids[name] != 0]
        np.add.at(counts[name], rows[rows >= 0], 1)
    squares = {name: table.weight.detach().square().sum(1) for name, table in tables.items()}
    expected = sum(float(squares[name][counts[name] > 0].sum()) for name in "ab")
    assert total == pytest.approx(2.5 * expected, rel=1e-5)


def test_a_row_ends_where_its_posterior_is_largest():
    """Logistic regression by row: the root of its gradient, by scipy."""
    model = ClickModel({"a": FullEmbedding(4, 1)}, ())
    with torch.no_grad():
        model.network[-1].weight.fill_(1.0)
        model.network[-1].bias.fill_(0.3)
    clicks = {1: [1, 1, 1, 0], 2: [1, 0], 3: [1] * 6}
    ids = np.concatenate([np.full(len(labels), row) for row, labels in clicks.items()])
    labels = torch.tensor(np.concatenate(list(clicks.values())), dtype=torch.float32)
    inputs = {"a": torch.from_numpy(ids)}
    prior = RowPrior(model, {"a": np.bincount(ids, minlength=4)}, 0.25)
    optimizer = torch.optim.LBFGS([model.embedding("a").weight], max_iter=200)

    def loss():
        optimizer.zero_grad()
        logits = model.forward_logits(inputs)
        total = functional.binary_cross_entropy_with_logits(logits, labels) + prior(inputs)
        total.backward()
        return total

    with fixed_network(model):
        optimizer.step(loss)
    optimum = model.embedding("a").weight.detach()
    for row, labels in clicks.items():

        def slope(value, labels=labels):
            chance = 1 / (1 + np.exp(-value - 0.3))
            return sum(chance - label for label in labels) + 2 * 0.25 * value

        assert float(optimum[row, 0]) == pytest.approx(brentq(slope, -9, 9), abs=1e-3)


def test_the_network_stays_and_learns_again_afterwards():
    model = make_model(batch_norm=True, dropout=0.5)
    fit(model, SPLITS, FitConfig(QUICK, Widths("whole")), progress=False)
    network = {name: value.clone() for name, value in model.network.state_dict().items()}
    rows = model.embedding("user").weight.detach().clone()
    config = TrainConfig(epochs=1, batch=128, learning_rate=1e-2, row_penalty=1.0)
    with fixed_network(model):
        train(model, SPLITS.train, SPLITS.validation, config, progress=False)
    after = model.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in network.items())
    assert not torch.equal(model.embedding("user").weight, rows)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_refit_helps_rare_rows_and_keeps_the_better_model():
    """Few impressions a user: rows trained on for long are learned by heart."""
    few = SPLITS.train.take(np.arange(400))
    splits = Splits(few, SPLITS.validation, SPLITS.test)
    overfit = TrainConfig(epochs=12, batch=64, learning_rate=2e-2, patience=12)
    plain, refitted = make_model(), make_model()
    fit(plain, splits, FitConfig(overfit, Widths("whole")), progress=False)
    config = FitConfig(overfit, Widths("whole"), refit=Refit((0.3, 3.0)))
    fitted = fit(refitted, splits, config, progress=False)
    assert list(fitted.phases) == ["train", "refit 0.3", "refit 3"]
    before, after = (evaluate(model, SPLITS.validation).auc for model in (plain, refitted))
    assert after > before
    noise = make_log(few.ids, np.random.default_rng(0).random(len(few)) < 0.5)
    weights = {name: value.clone() for name, value in refitted.state_dict().items()}
    splits = Splits(noise, SPLITS.validation, SPLITS.test)
    fit(refitted, splits, config, trained=True, progress=False)
    assert all(torch.equal(value, weights[name]) for name, value in refitted.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [{"penalties": (-1.0,)}, {"penalties": (float("inf"),)}, {"epochs": 0}, {"slower": 0.5}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SpecError, match="refit"):
        Refit(**settings)


def test_masks_are_learned_on_refitted_rows_and_these_settle_once_they_are_cut():
    model = make_model()
    fit(model, SPLITS, FitConfig(QUICK, Widths("whole")), progress=False)
    config = FitConfig(QUICK, Widths("amtl", penalty=0.1), refit=Refit((1.0,)))
    fitted = fit(model, SPLITS, config, trained=True, progress=False)
    names = ["refit 1", "widths", "retrain", "refit 1 of cut rows"]
    assert list(fitted.phases) == names
    learned, *after = (fitted.phases[name] for name in names[1:])
    cut = {epoch.mean_width for history in after for epoch in history.epochs}
    assert cut == {learned.best.mean_width} and 1 <= learned.best.mean_width < 8
    # no phase loses what was reached before it
    reached = evaluate(model, SPLITS.validation).auc
    bests = [history.best.validation.auc for history in (learned, *after)]
    assert reached == max(bests)


def test_masks_under_a_refit_are_learned_with_the_network_fixed():
    model = make_model()
    fit(model, SPLITS, FitConfig(QUICK, Widths("whole")), progress=False)
    network = {name: value.clone() for name, value in model.network.state_dict().items()}
    seen = {}

    def on_epoch(phase, epoch):
        seen[phase] = {n: v.clone() for n, v in model.network.state_dict().items()}

    config = FitConfig(QUICK, Widths("amtl", penalty=0.1), refit=Refit((1.0,)))
    fit(model, SPLITS, config, trained=True, progress=False, on_epoch=on_epoch)
    first, *others = network
    assert all(torch.equal(seen["widths"][name], network[name]) for name in others)
    # only the first layer is turned to the tables' axes, which keeps its columns' norms together
    torch.testing.assert_close(seen["widths"][first].norm(), network[first].norm())
    assert not torch.equal(seen["retrain"][first], seen["widths"][first])
    assert evaluate(model, SPLITS.test).auc > 0.84


@pytest.mark.parametrize(
    "tolerance, tried", [(0.5, (0.1,)), (0.0, (0.1, 0.03, 0.01))], ids=["spare", "none_to_spare"]
)
def test_the_highest_price_is_kept_whose_model_validates_as_well(tolerance, tried, monkeypatch):
    """Prices fall until one loses nothing; each begins with the whole, refitted model."""
    model = make_model()
    fit(model, SPLITS, FitConfig(QUICK, Widths("whole")), progress=False)
    whole = evaluate(model, SPLITS.validation).auc
    config = FitConfig(
        QUICK,
        Widths("amtl", penalty=0.01, tolerance=tolerance, raise_penalty=True),
        refit=Refit((1.0,)),
    )
    floors = []
    learn = phases._Phases._learn_masks

    def worse(self, price, what):
        floors.append(self._validation_auc())
        assert not self.model.masks()
        learn(self, price, what)
        if not tolerance:  # no price is good enough
            with torch.no_grad():
                self.model.embedding("user").weight.zero_()

    monkeypatch.setattr(phases._Phases, "_learn_masks", worse)
    fitted = fit(model, SPLITS, config, trained=True, progress=False)
    assert len(set(floors)) == 1 and floors[0] >= whole
    learned = [name for name in fitted.phases if name.startswith("widths")]
    assert learned == [f"widths at {price:g}" for price in tried]
    after = fitted.phases[f"refit 1 of cut rows at {tried[-1]:g}"]
    kept = {name: mask.widths().float().mean() for name, mask in model.masks().items()}
    rows = {name: model.embedding(name).spec.rows for name in kept}
    mean = sum(kept[name] * rows[name] for name in kept) / sum(rows.values())
    assert float(mean) == pytest.approx(after.best.mean_width)


def test_a_raised_price_saves_more_and_loses_nothing():
    """With a real floor: the model kept validates no worse, at most as wide as at the low price."""
    start = make_model()
    fit(start, SPLITS, FitConfig(QUICK, Widths("whole"), refit=Refit((1.0,))), progress=False)
    floor = evaluate(start, SPLITS.validation).auc
    reached = {}
    for raised in (False, True):
        model = copy.deepcopy(start)
        torch.manual_seed(1)
        widths = Widths("amtl", penalty=1e-5, raise_penalty=raised)
        config = FitConfig(QUICK, widths, refit=Refit((1.0,)))
        fit(model, SPLITS, config, trained=True, progress=False)
        kept = sum(int(mask.widths().sum()) for mask in model.masks().values())
        reached[raised] = kept, evaluate(model, SPLITS.validation).auc
    assert reached[True][0] < reached[False][0]
    assert reached[True][1] >= floor
