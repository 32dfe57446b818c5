"""Shifts before rounding: same predictions, smaller rounding error, and tables that must stay."""

import numpy as np
import pytest
import torch

from ondevice.codecs import quantise
from ondevice.models import ClickModel, FullEmbedding, HashEmbedding, NetworkConfig
from ondevice.models.layers.adaptive_mask import AdaptiveMask
from ondevice.models.training.shift import shift_tables


def skewed_model(**network):
    """Fields "plain" (may move), "padded", "cut", "hashed" and "wide bits" (may not)."""
    torch.manual_seed(0)
    cut = FullEmbedding(200, 2, padding_id=None)
    cut.mask = AdaptiveMask.from_widths(np.ones(200, np.int64), 2)
    tables = {
        "plain": FullEmbedding(400, 2, padding_id=None),
        "padded": FullEmbedding(200, 2),
        "cut": cut,
        "hashed": HashEmbedding(200, 2, padding_id=None),
        "wide bits": FullEmbedding(200, 2, padding_id=None),
    }
    model = ClickModel(tables, NetworkConfig(hidden=(8,), **network)).eval()
    draws = np.random.default_rng(0)
    with torch.no_grad():
        for table in model.field_tables():
            values = draws.gamma(2.0, 0.1, table.weight.shape).astype(np.float32)
            table.weight.copy_(torch.from_numpy(values))
    return model


CODECS = dict.fromkeys(("plain", "padded", "cut", "hashed"), "q2") | {"wide bits": "q4"}


def test_predictions_stay_and_rounding_gets_finer():
    model = skewed_model()
    draws = np.random.default_rng(1)
    ids = {name: torch.from_numpy(draws.integers(0, 200, 500)) for name in model.fields}
    counts = {name: draws.integers(0, 9, model.embedding(name).spec.rows) for name in model.fields}
    before = model.forward_logits(ids).detach()
    tables = {name: model.embedding(name).weight.detach().clone() for name in model.fields}
    assert shift_tables(model, CODECS, counts) == ["plain"]
    torch.testing.assert_close(model.forward_logits(ids).detach(), before, rtol=0, atol=1e-5)
    for name in ("padded", "cut", "hashed", "wide bits"):
        assert torch.equal(model.embedding(name).weight, tables[name])
    moved = model.embedding("plain").weight.detach().numpy()
    steps = moved - tables["plain"].numpy()
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-6)

    def error(values):
        off = quantise(values, "q2", scale_axis="column").dequantise() - values
        return float((off.astype(np.float64) ** 2 * np.maximum(counts["plain"], 1)[:, None]).sum())

    # four levels at the values' places instead of two or three on one side of zero
    assert error(moved) < 0.7 * error(tables["plain"].numpy())


@pytest.mark.parametrize("kind", ["deepfm", "dcn"])
def test_networks_that_read_vectors_otherwise_keep_their_tables(kind):
    model = skewed_model(kind=kind)
    counts = {name: np.ones(model.embedding(name).spec.rows, np.int64) for name in model.fields}
    assert shift_tables(model, CODECS, counts) == []
