"""The learner of masks, against Adam on gradients that plain torch computes."""

import numpy as np
import pytest
import torch

from ondevice.models import AdaptiveMask, ClickModel, FullEmbedding
from ondevice.models.training.mask_learner import STEPS_PER_UPDATE, MaskLearner

ROWS, DIMS, BATCH = (30, 50, 20), (4, 4, 6), 64


def make_model():
    torch.manual_seed(0)
    tables = {}
    for number, (rows, dim) in enumerate(zip(ROWS, DIMS, strict=True)):
        counts = np.random.default_rng(number).integers(0, 40, rows)
        mask = AdaptiveMask(counts, dim, hidden=(5,))
        torch.nn.init.normal_(mask.twins.flat)
        tables[f"f{number}"] = FullEmbedding(rows, dim, padding_id=None, std=1.0, mask=mask)
    return ClickModel(tables, (8,))


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            f"f{n}": torch.randint(0, rows, (BATCH,), generator=generator)
            for n, rows in enumerate(ROWS)
        }
        for _ in range(count)
    ]


def flats_of(model):
    return [mask.twins.flat for mask in model.masks().values()]


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("steps", [STEPS_PER_UPDATE, STEPS_PER_UPDATE + 1])
def test_an_update_is_a_step_of_adam_on_the_mean_gradient_and_the_penalty(penalty, steps):
    model, expected = make_model(), make_model()
    learner = MaskLearner(model, 0.01, penalty)
    adam = torch.optim.Adam(flats_of(expected), lr=0.01 * STEPS_PER_UPDATE)
    ids = batches(steps)
    for part in ids:
        model.forward_logits(part, learner.held()).square().mean().backward()
        learner.step()
    learner.update()
    learner.share()
    for start in range(0, steps, STEPS_PER_UPDATE):
        adam.zero_grad()
        parts = ids[start : start + STEPS_PER_UPDATE]
        for part in parts:  # masks are computed anew in every step
            (expected.forward_logits(part).square().mean() / len(parts)).backward()
        rows = sum(ROWS)
        for mask in expected.masks().values():
            (penalty * mask.mean_width() * mask.rows / rows).backward()
        adam.step()
    for got, wanted in zip(flats_of(model), flats_of(expected), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_model_has_the_twins_only_when_they_are_shared():
    model = make_model()
    before = [flat.detach().clone() for flat in flats_of(model)]
    learner = MaskLearner(model, 0.01, 0.1)
    for part in batches(STEPS_PER_UPDATE):
        model.forward_logits(part, learner.held()).mean().backward()
        learner.step()
    assert all(map(torch.equal, flats_of(model), before))
    learner.share()
    after = [flat.detach().clone() for flat in flats_of(model)]
    assert not any(map(torch.equal, after, before))
    with torch.no_grad():  # numbers that the model got from elsewhere are taken up
        for flat, old in zip(flats_of(model), before, strict=True):
            flat.copy_(old)
    for name, levels in model.level_masks().items():
        held = learner.held().levels[name]
        assert torch.equal(held.masks[held.start :], levels.masks[levels.start :])
