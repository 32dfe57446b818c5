"""Rows that a network takes out of the batch by a mask: the files score all rows as torch does."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import ondevice
from ondevice.converters import convert
from ondevice.errors import OnDeviceError

STEPS = 4
ENGINES = {"native": "odm", "numpy": "odm", "onnx": "onnx", "tflite": "tflite"}


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


class Interests(nn.Module):
    """Chooses fields and rows at once, and has a loss over the steps that are no padding."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(30, 4), nn.GRU(4, 4, batch_first=True)
        self.last = nn.Linear(8, 1)

    def loss(self, states, vectors, valid):
        states, following = states[:, :-1][valid[:, 1:]], vectors[:, 1:][valid[:, 1:]]
        if states.size(0) == 0:
            return torch.tensor(0.0)
        return torch.sigmoid((states * following).sum(-1)).log().mean()

    def forward(self, ids):
        fields = torch.stack([self.table(ids), self.table(29 - ids)], dim=1)
        valid = ids != 0
        chosen, total = valid.any(dim=1), 0.0
        found = torch.zeros(ids.size(0), 2, 4)
        for field in range(2):
            states = torch.zeros_like(fields[:, field])
            if chosen.any():
                packed = pack_padded_sequence(
                    fields[chosen, field, :, :],
                    valid.sum(dim=1).cpu()[chosen].clamp(min=1),
                    batch_first=True,
                    enforce_sorted=False,
                )
                steps, last = self.layer(packed)
                states[chosen] = pad_packed_sequence(steps, True, total_length=STEPS)[0]
                found[chosen, field] = last[0]
            total = total + self.loss(states, fields[:, field], valid)
        return {"score": self.last(found.flatten(1)), "loss": total}


class Scored(nn.Module):
    """The score of `Interests` without the loss."""

    def __init__(self):
        super().__init__()
        self.network = Interests()

    def forward(self, ids):
        return self.network(ids)["score"]


class LastStep(nn.Module):
    """The vectors of the last steps, chosen by masks written in several ways."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(30, 4), nn.Linear(20, 1)
        self.register_buffer("places", torch.arange(STEPS))

    def forward(self, ids):
        lengths = (ids != 0).sum(1).clamp(min=1)
        vectors, place = self.table(ids), (lengths - 1).unsqueeze(1)
        places = torch.arange(STEPS, device=ids.device)
        masks = [
            places.repeat(ids.shape[0], 1) == (lengths.view(-1, 1) - 1),
            places[None, :].expand(ids.shape[0], -1).eq(place),
            torch.eq(lengths.reshape(-1, 1), places + 1),
            functional.one_hot(lengths - 1, STEPS) == 1,
            functional.one_hot(lengths - 1, STEPS) > 0,
        ]
        found = [vectors[mask] for mask in masks]
        return self.last(torch.cat(found, dim=1)) + ids[masks[0]].unsqueeze(1)


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


@pytest.mark.parametrize("network", [Scored, LastStep])
def test_every_file_equals_torch_whatever_is_chosen(network, tmp_path):
    torch.manual_seed(4)
    module = network().eval()
    convert(module, (_histories(6),), tmp_path, tables="f32")
    for ids in (_histories(1), _histories(3), _histories(50), _histories(5)[4:]):
        expected = module(ids).detach().numpy()
        for engine, suffix in ENGINES.items():
            model = ondevice.load(tmp_path / f"model.{suffix}", engine=engine)
            np.testing.assert_allclose(model.predict({"ids": ids.numpy()}), expected, atol=1e-5)
