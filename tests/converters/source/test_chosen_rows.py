"""Rows that a network takes out of the batch by a mask: the files score all rows as torch does."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import ondevice
from ondevice.converters import convert
from ondevice.errors import OnDeviceError

STEPS = 4


class Chosen(nn.Module):
    """A recurrent layer over the histories that are not empty; zeros for the others."""

    def __init__(self, by_select):
        super().__init__()
        self.by_select = by_select
        self.table, self.layer = nn.Embedding(30, 4), nn.GRU(4, 6, batch_first=True)
        self.last = nn.Linear(6, 1)

    def forward(self, ids):
        lengths = (ids != 0).sum(1)
        mask = lengths > 0
        found = torch.zeros(ids.shape[0], 6)
        vectors = self.table(ids)
        if self.by_select:
            steps = torch.masked_select(vectors, mask.view(-1, 1, 1)).view(-1, STEPS, 4)
        else:
            steps = vectors[mask]
        packed = pack_padded_sequence(
            steps, lengths[mask].cpu(), batch_first=True, enforce_sorted=False
        )
        found[mask] = self.layer(packed)[1][0]
        return self.last(found)


class Mixed(nn.Module):
    """A mean over the chosen rows: a score depends on the rows beside it."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(30, 4), nn.Linear(4, 1)

    def forward(self, ids):
        vectors = self.table(ids).sum(1)
        return self.last(vectors - vectors[ids[:, 0] > 3].mean(0))


def _histories(rows):
    lengths = torch.arange(rows).unsqueeze(1) % (STEPS + 1)
    return torch.randint(1, 30, (rows, STEPS)) * (torch.arange(STEPS) < lengths)


@pytest.mark.parametrize("by_select", [True, False])
def test_files_equal_torch_with_empty_histories(by_select, tmp_path):
    torch.manual_seed(4)
    module = Chosen(by_select).eval()
    convert(module, (_histories(6),), tmp_path, tables="f32", targets=["odm", "onnx"])
    ids = _histories(13)
    with torch.no_grad():
        expected = module(ids).numpy()
    for name in ("model.odm", "model.onnx"):
        scores = ondevice.load(tmp_path / name).predict({"ids": ids.numpy()})
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        alone = ondevice.load(tmp_path / name).predict({"ids": ids[:1].numpy()})
        np.testing.assert_allclose(alone, expected[:1], atol=1e-5)


def test_a_network_that_mixes_the_chosen_rows_leaves_no_file(tmp_path):
    torch.manual_seed(4)
    with pytest.raises(OnDeviceError):
        convert(Mixed(), (torch.randint(4, 30, (6, 3)),), tmp_path, tables="f32", targets=["odm"])
    assert not list(tmp_path.glob("model*"))
