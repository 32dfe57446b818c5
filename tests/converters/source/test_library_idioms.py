"""What libraries write in forward that would fix the rows of a graph: their files equal torch."""

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert

PART = 4  # rows that a ghost batch norm normalises at once
ROWS = 11


class GhostNorm(nn.Module):
    """A batch norm over parts of a batch, as TabNet has it."""

    def __init__(self, width):
        super().__init__()
        self.virtual_batch_size, self.norm = PART, nn.BatchNorm1d(width)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        parts = x.chunk(int(np.ceil(x.shape[0] / self.virtual_batch_size)), 0)
        return torch.cat([self.norm(part) for part in parts], dim=0)


class Ghost(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.last = nn.Embedding(30, 4), GhostNorm(12), nn.Linear(12, 1)

    def forward(self, ids):
        return self.last(self.norm(self.table(ids).flatten(1)))


class Tiled(nn.Module):
    """Positions of a history by numpy.tile."""

    def __init__(self):
        super().__init__()
        self.table, self.places, self.last = (
            nn.Embedding(30, 4),
            nn.Embedding(3, 4),
            nn.Linear(4, 1),
        )

    def forward(self, ids):
        places = np.tile(np.array(range(ids.shape[1])), [ids.shape[0], 1])
        vectors = self.table(ids) * self.places(torch.LongTensor(places))
        return self.last(vectors.tanh().sum(1))


class Flagged(nn.Module):
    """Columns that a plain attribute of flags chooses."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(30, 4), nn.Linear(4, 1)
        self.doubled = torch.tensor([True, False, True])

    def forward(self, ids):
        vectors = self.table(ids)
        total = 0.0
        for place, doubled in enumerate(self.doubled):
            total = total + (2 * vectors[:, place] if doubled else vectors[:, place].tanh())
        return self.last(total)


@pytest.mark.parametrize("kind", [Ghost, Tiled, Flagged])
def test_files_equal_torch_with_any_number_of_rows(kind, tmp_path):
    torch.manual_seed(2)
    module = kind().eval()
    convert(
        module, (torch.randint(0, 30, (5, 3)),), tmp_path, tables="f32", targets=["odm", "onnx"]
    )
    ids = torch.randint(0, 30, (ROWS, 3))
    expected = module(ids).detach().numpy()
    for name in ("model.odm", "model.onnx"):
        model = ondevice.load(tmp_path / name)
        for rows in (1, PART, ROWS):
            scores = model.predict({"ids": ids[:rows].numpy()})
            np.testing.assert_allclose(scores, expected[:rows], atol=1e-5)


def test_the_module_and_numpy_stay_as_they_were(tmp_path):
    tile, module = np.tile, Ghost().eval()
    convert(module, (torch.randint(0, 30, (5, 3)),), tmp_path, tables="f32", targets=["odm"])
    assert np.tile is tile
    assert "forward" not in vars(module.norm)


def test_a_ghost_norm_without_running_statistics_is_refused(tmp_path):
    module = Ghost().eval()
    module.norm.norm = nn.BatchNorm1d(12, track_running_stats=False)
    with pytest.raises(ondevice.errors.UnsupportedError):
        convert(module, (torch.randint(0, 30, (5, 3)),), tmp_path, tables="f32", targets=["odm"])
