"""AMTL: hand-computed features, logits and gradients, and the properties of its masks."""

import math

import numpy as np
import pytest
import torch
from support.torch import make_log

from ondevice.errors import SpecError
from ondevice.models import AdaptiveMask, ClickModel, FullEmbedding, attach_masks
from ondevice.models.layers.adaptive_mask import MAX_LEVELS, frequency_features, level_masks


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
        layers = mask.twins.layers()
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
    rows = mask.inputs[mask.level_of_row.int()].numpy()
    np.testing.assert_allclose(rows[:, 0], [(v - mean) / spread for v in logs], atol=1e-6)
    np.testing.assert_allclose(rows[:, 1], below, atol=1e-6)
    assert mask.levels == 7
    same = frequency_features(np.array([5]), np.array([3]))
    assert same.tolist() == [[0.0, 0.5]]  # equal counts: nothing to tell apart


def test_logits_and_widths_follow_the_formula():
    for seed in range(20):
        mask = scrambled(COUNTS, 8, seed)
        expected = reference_logits(mask)
        logits = mask._logits()[mask.level_of_row.int()].detach()
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
        assert torch.equal(mask.level_table()[mask.level_index.int()[rows].long()], live)
    assert len(seen) > 4


def test_gradient_matches_the_softmax_by_hand():
    """Two dimensions, one row: m = (1, t_2), so dL/dh = dL/dm_2 * d softmax_2 / dh."""
    temperature = 2.0
    mask = AdaptiveMask([5], 2, temperature=temperature, hidden=())
    with torch.no_grad():  # s = (0, 0.5), gate 1/2: the biases alone set the logits
        weight, bias = mask.twins.layers()[0]
        weight.zero_()
        bias.copy_(torch.tensor([[[0.4, 1.0]], [[0.2, 0.0]]]))
    row = torch.tensor([0])
    out = mask.mask(row)
    assert out.tolist() == [[1.0, 1.0]]  # h = (0.3, 0.5): the second logit wins
    (out * torch.tensor([10.0, 3.0])).sum().backward()
    p2 = 1 / (1 + math.exp(-(0.5 - 0.3) / temperature))
    slope = 3.0 * p2 * (1 - p2) / temperature
    expected = [[[-slope / 2, slope / 2]], [[-slope / 2, slope / 2]]]  # halved by the gate
    weight, bias = mask.twins.layers(mask.twins.flat.grad)[0]
    torch.testing.assert_close(bias, torch.tensor(expected))
    # the input is (0, 1/2), so the second feature's weights get half of the biases' gradient
    torch.testing.assert_close(weight[:, 1], torch.tensor(expected)[:, 0] / 2)
    assert not weight[:, 0].any()


def test_gradient_equals_autograd_through_the_relaxed_mask():
    mask = scrambled(COUNTS, 6, temperature=0.7)
    rows = torch.arange(10).repeat(3)
    upstream = torch.randn(30, 6)
    mask.mask(rows).backward(upstream)
    straight = [parameter.grad.clone() for parameter in mask.parameters()]
    mask.zero_grad()
    relaxed = torch.softmax(mask._logits() / 0.7, -1)[mask.level_of_row[rows].int()]
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
        mask.twins.layers()[-1][1].copy_(
            torch.tensor([[[0.0, 0.0, 0.0, 9.0]], [[9.0, 0.0, 0.0, 0.0]]])
        )  # h-AML wants 4 dimensions, l-AML 1
        for weight, _ in mask.twins.layers():
            weight.mul_(0.01)
    assert mask.widths().tolist() == [1] * 50 + [4] * 50
    upper, lower = torch.zeros(2), torch.zeros(2)
    for place, row in enumerate((0, 99)):  # a rare and a frequent row: who learns more from each?
        mask.zero_grad()
        (mask.mask(torch.tensor([row])) * torch.tensor([0.0, 1.0, 2.0, 3.0])).sum().backward()
        last = mask.twins.layers(mask.twins.flat.grad)[-1][1]
        upper[place], lower[place] = last.abs().sum((1, 2))
    assert lower[0] > 2 * upper[0]
    assert upper[1] > 2 * lower[1]


def test_starts_whole_and_able_to_learn():
    torch.manual_seed(0)
    mask = AdaptiveMask(np.random.default_rng(0).zipf(1.5, 500).clip(max=10**6), 16)
    assert mask.widths().tolist() == [16] * 500
    mask.mean_width().backward()
    assert all(bool(parameter.grad.any()) for parameter in mask.parameters())


def test_mean_width_by_hand_and_its_gradient_is_that_of_the_expected_width():
    mask = scrambled(COUNTS, 5, temperature=1.5)
    width = mask.mean_width()
    assert float(width.detach()) == pytest.approx((reference_logits(mask).argmax(1) + 1).mean())
    width.backward()
    got = [parameter.grad.clone() for parameter in mask.parameters()]
    mask.zero_grad()
    chances = torch.softmax(mask._logits() / 1.5, -1)[mask.level_of_row.int()]
    (chances @ torch.arange(1.0, 6.0)).mean().backward()
    for gradient, parameter in zip(got, mask.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_many_counts_share_levels_of_nearly_equal_counts():
    counts = np.random.default_rng(0).permutation(np.arange(20_000))
    mask = scrambled(counts, 8)
    assert mask.levels <= MAX_LEVELS and mask.level_of_row.dtype == torch.uint8
    level = mask.level_of_row.numpy()
    by_count = level[np.argsort(counts)]
    assert (np.diff(by_count.astype(int)) >= 0).all()  # levels follow the counts
    assert len(set(by_count[:5])) == 5  # rare counts are told apart
    logs = np.log1p(counts)
    for number in range(mask.levels):
        assert np.ptp(logs[level == number]) <= np.log(20_001) / MAX_LEVELS
    scores = (logs - logs.mean()) / logs.std()
    assert np.abs(mask.inputs.numpy()[level, 0] - scores).max() < 0.2
    expected = reference_logits(mask)
    assert mask.widths().tolist() == (expected.argmax(1) + 1).tolist()


def test_masks_of_several_tables_in_one_pass_equal_each_alone():
    masks = [
        scrambled(COUNTS, 6, seed=1),
        scrambled(np.arange(40), 6, seed=2),
        scrambled(COUNTS, 4, seed=3),
        scrambled([5], 6, seed=4, temperature=0.5),
    ]
    together = level_masks(masks)
    upstream = [torch.randn(mask.levels, mask.dim) for mask in masks]
    tables = [
        levels.masks[levels.start : levels.start + mask.levels]
        for mask, levels in zip(masks, together, strict=True)
    ]
    for table, gradient in zip(tables, upstream, strict=True):
        (table * gradient).sum().backward(retain_graph=True)
    got = [[parameter.grad.clone() for parameter in mask.parameters()] for mask in masks]
    for mask, table, gradient, before in zip(masks, tables, upstream, got, strict=True):
        mask.zero_grad()
        alone = level_masks([mask])[0].masks
        assert torch.equal(table, alone)
        alone.backward(gradient)
        for first, parameter in zip(before, mask.parameters(), strict=True):
            torch.testing.assert_close(first, parameter.grad, rtol=1e-4, atol=1e-6)


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
    assert float(mask.mean_width()) == float(mask.widths().float().mean())


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
    distinct = {
        name: mask.inputs[mask.level_of_row.int(), 0] for name, mask in model.masks().items()
    }
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
