"""AMTL: hand-computed features, logits and gradients, and the properties of its masks."""

import math

import numpy as np
import pytest
import torch
from torch_helpers import make_log

from ondevice.errors import SpecError
from ondevice.models import AdaptiveMask, ClickModel, FullEmbedding, attach_masks
from ondevice.models.adaptive_mask import frequency_features


def scrambled(counts, dim, seed=0, **settings):
    """A mask whose twins give varied widths."""
    torch.manual_seed(seed)
    mask = AdaptiveMask(counts, dim, **settings)
    with torch.no_grad():
        for parameter in mask.parameters():
            parameter.normal_()
    return mask


def reference_logits(mask):
    """h for every row, in float64 numpy, straight from the formula."""
    inputs = mask.inputs.double().numpy()[mask.level_of_row.numpy()]
    outputs = []
    for twin in (0, 1):
        values = inputs
        layers = list(zip(mask.twins.weights, mask.twins.biases, strict=True))
        for number, (weight, bias) in enumerate(layers):
            values = values @ weight[twin].detach().double().numpy()
            values = values + bias[twin].detach().double().numpy()
            if number < len(layers) - 1:
                values = np.maximum(values, 0)
        outputs.append(values)
    gate = 1 / (1 + np.exp(-inputs[:, :1]))
    return gate * outputs[0] + (1 - gate) * outputs[1]


COUNTS = np.array([0, 3, 3, 1, 250, 40, 7, 7, 7, 9000])


def test_features_by_hand():
    mask = AdaptiveMask(COUNTS, 4)
    logs = [math.log(1 + count) for count in COUNTS]
    mean = sum(logs) / 10
    spread = math.sqrt(sum((value - mean) ** 2 for value in logs) / 10)
    below = [(sum(c > COUNTS) + sum(c == COUNTS) / 2) / 10 for c in COUNTS]
    rows = mask.inputs[mask.level_of_row].numpy()
    np.testing.assert_allclose(rows[:, 0], [(v - mean) / spread for v in logs], atol=1e-6)
    np.testing.assert_allclose(rows[:, 1], below, atol=1e-6)
    assert mask.levels == 7
    same = frequency_features(np.array([5]), np.array([3]))
    assert same.tolist() == [[0.0, 0.5]]  # equal counts: nothing to tell apart


def test_logits_and_widths_follow_the_formula():
    for seed in range(20):
        mask = scrambled(COUNTS, 8, seed)
        expected = reference_logits(mask)
        logits = mask._logits(None)[mask.level_of_row].detach()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        assert mask.widths().tolist() == (expected.argmax(1) + 1).tolist()


@pytest.mark.parametrize("rows", [[3], list(range(10)), [[0, 9], [4, 4], [1, 2]] * 9])
def test_masks_are_k_ones_then_zeros_and_equal_in_both_modes(rows):
    rows = torch.tensor(rows)
    seen = set()
    for seed in range(20):
        mask = scrambled(COUNTS, 8, seed)
        live = mask.mask(rows)
        widths = mask.widths()
        seen |= set(widths.tolist())
        assert live.requires_grad
        assert int(widths.min()) >= 1
        expected = [[1.0] * k + [0.0] * (8 - k) for k in widths[rows.flatten()].tolist()]
        assert live.reshape(-1, 8).tolist() == expected
        assert torch.equal(mask.eval().mask(rows), live)
        assert torch.equal(mask.table()[rows], live)
    assert len(seen) > 4


def test_gradient_matches_the_softmax_by_hand():
    """Two dimensions, one row: m = (1, t_2), so dL/dh = dL/dm_2 * d softmax_2 / dh."""
    temperature = 2.0
    mask = AdaptiveMask([5], 2, temperature=temperature, hidden=())
    with torch.no_grad():  # s = (0, 0.5), gate 1/2: the biases alone set the logits
        for weight in mask.twins.weights:
            weight.zero_()
        mask.twins.biases[0].copy_(torch.tensor([[[0.4, 1.0]], [[0.2, 0.0]]]))
    row = torch.tensor([0])
    out = mask.mask(row)
    assert out.tolist() == [[1.0, 1.0]]  # h = (0.3, 0.5): the second logit wins
    (out * torch.tensor([10.0, 3.0])).sum().backward()
    p2 = 1 / (1 + math.exp(-(0.5 - 0.3) / temperature))
    slope = 3.0 * p2 * (1 - p2) / temperature
    expected = [[[-slope / 2, slope / 2]], [[-slope / 2, slope / 2]]]  # halved by the gate
    torch.testing.assert_close(mask.twins.biases[0].grad, torch.tensor(expected))
    # the input is (0, 1/2), so the second feature's weights get half of the biases' gradient
    torch.testing.assert_close(mask.twins.weights[0].grad[:, 1], torch.tensor(expected)[:, 0] / 2)
    assert not mask.twins.weights[0].grad[:, 0].any()


def test_gradient_equals_autograd_through_the_relaxed_mask():
    mask = scrambled(COUNTS, 6, temperature=0.7)
    rows = torch.arange(10).repeat(3)
    upstream = torch.randn(30, 6)
    mask.mask(rows).backward(upstream)
    straight = [parameter.grad.clone() for parameter in mask.parameters()]
    mask.zero_grad()
    relaxed = torch.softmax(mask._logits(None) / 0.7, -1)[mask.level_of_row[rows]]
    soft = torch.stack([relaxed[:, j:].sum(-1) for j in range(6)], -1)
    soft.backward(upstream)
    for got, parameter in zip(straight, mask.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-5)
        assert got[0].any() and got[1].any()  # both twins learn


def test_gradients_are_the_same_on_the_path_for_few_rows():
    mask = scrambled(np.arange(50), 6)
    upstream = torch.randn(8, 6)
    rows = torch.tensor([3, 3, 49, 0, 7, 7, 7, 20])
    mask.mask(rows).backward(upstream)  # 8 lookups < 50 levels
    few = [parameter.grad.clone() for parameter in mask.parameters()]
    mask.zero_grad()
    mask.mask(rows.repeat(10)).backward(torch.cat([upstream, torch.zeros(72, 6)]))
    for got, parameter in zip(few, mask.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-5)


def test_frequent_rows_obey_h_aml_and_rare_rows_l_aml():
    counts = np.concatenate([np.ones(50), np.full(50, 100_000)]).astype(np.int64)
    mask = AdaptiveMask(counts, 4)
    with torch.no_grad():
        mask.twins.biases[-1].copy_(
            torch.tensor([[[0.0, 0.0, 0.0, 9.0]], [[9.0, 0.0, 0.0, 0.0]]])
        )  # h-AML wants 4 dimensions, l-AML 1
        for weight in mask.twins.weights:
            weight.mul_(0.01)
    assert mask.widths().tolist() == [1] * 50 + [4] * 50
    upper, lower = torch.zeros(2), torch.zeros(2)
    for place, row in enumerate((0, 99)):  # a rare and a frequent row: who learns more from each?
        mask.zero_grad()
        (mask.mask(torch.tensor([row])) * torch.tensor([0.0, 1.0, 2.0, 3.0])).sum().backward()
        upper[place], lower[place] = mask.twins.biases[-1].grad.abs().sum((1, 2))
    assert lower[0] > 2 * upper[0]
    assert upper[1] > 2 * lower[1]


def test_starts_whole_and_able_to_learn():
    torch.manual_seed(0)
    mask = AdaptiveMask(np.random.default_rng(0).zipf(1.5, 500).clip(max=10**6), 16)
    assert mask.widths().tolist() == [16] * 500
    assert (
        8 < float(mask.expected_width().detach()) < 14
    )  # half of the softmax is on the full width
    (mask.expected_width()).backward()
    assert all(bool(parameter.grad.any()) for parameter in mask.parameters())


def test_expected_width_by_hand():
    mask = scrambled(COUNTS, 5, temperature=1.5)
    logits = reference_logits(mask) / 1.5
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = (chances @ np.arange(1, 6)).mean()
    assert float(mask.expected_width().detach()) == pytest.approx(expected, rel=1e-4)


def test_saved_fraction_counts_the_width_bytes():
    mask = AdaptiveMask.from_widths([1, 2, 4, 1], 4)
    assert mask.saved_fraction() == pytest.approx(1 - (8 * 4 + 4) / (16 * 4))
    assert mask.saved_fraction(1.0) == pytest.approx(1 - (8 + 4) / 16)
    wide = AdaptiveMask.from_widths([300, 100], 300)
    assert wide.widths().tolist() == [300, 100]
    assert wide.saved_fraction(2.0) == pytest.approx(1 - (400 * 2 + 2 * 2) / (600 * 2))


def test_truncated_rows_equal_the_straight_through_forward():
    seen = set()
    for seed in range(8):
        mask = scrambled(np.arange(30) ** 3, 8, seed)
        layer = FullEmbedding(30, 8, std=1.0, mask=mask)
        ids = torch.randint(0, 30, (64,))
        live = layer(ids)
        widths = mask.widths()
        seen |= set(widths.tolist())
        stored = [layer.weight[row, : int(k)].tolist() for row, k in enumerate(widths)]
        padded = torch.tensor([row + [0.0] * (8 - len(row)) for row in stored])
        padded[0] = 0.0
        assert torch.equal(live, padded[ids])
        assert torch.equal(layer.eval()(ids), padded[ids])
    assert len(seen) > 4


def test_freezing_keeps_one_byte_a_row_and_the_same_masks():
    mask = scrambled(COUNTS, 8)
    rows = torch.arange(10)
    before = mask.mask(rows).detach()
    mask.freeze()
    assert mask.frozen and list(mask.state_dict()) == ["kept"]
    assert mask.kept.dtype == torch.uint8
    assert not list(mask.parameters())
    for mode in (True, False):
        assert torch.equal(mask.train(mode).mask(rows), before)
    assert float(mask.expected_width()) == float(mask.widths().float().mean())


def test_warm_start_keeps_predictions_and_counts_the_training_split_only():
    torch.manual_seed(0)
    model = ClickModel({"a": FullEmbedding(6, 4, std=1.0), "b.c": FullEmbedding(5, 4, std=1.0)})
    ids = {"a": torch.tensor([0, 2, 5]), "b.c": torch.tensor([1, 3, 99])}
    before = model.eval()(ids)
    train = make_log({"a": [2, 2, 5, 9], "b.c": [2, 3, 4, 4]}, [0, 1, 0, 1])
    attach_masks(model, train, ["a"])
    assert list(model.masks()) == ["a"]
    assert torch.equal(model(ids), before)
    attach_masks(model, train)
    assert torch.equal(model(ids), before)
    distinct = {name: mask.inputs[mask.level_of_row, 0] for name, mask in model.masks().items()}
    order = distinct["a"].argsort(stable=True).tolist()
    assert order == [0, 3, 4, 1, 5, 2]  # counts 0, 1 (out of range), 2, 0, 0, 1
    assert not model.embedding("a").mask.training


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveMask([1, -1], 4),
        lambda: AdaptiveMask([0.5], 4),
        lambda: AdaptiveMask([], 4),
        lambda: AdaptiveMask([1], 0),
        lambda: AdaptiveMask([1], 4, temperature=0),
        lambda: AdaptiveMask([1], 4, hidden=(0,)),
        lambda: AdaptiveMask.from_widths([0, 1], 4),
        lambda: AdaptiveMask.from_widths([5], 4),
        lambda: AdaptiveMask.from_widths([1.0], 4),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(SpecError):
        make()
