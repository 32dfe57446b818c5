"""Conversions that fail say why: batch statistics, negative IDs that torch counts from the end."""

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.errors import InputError, ParityError, UnsupportedError


class BatchStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.norm = nn.Embedding(50, 8), nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, ids):
        return torch.sigmoid(self.norm(self.table(ids)).sum(-1))


def test_batch_norm_without_running_statistics(tmp_path):
    with pytest.raises(UnsupportedError) as caught:
        convert(BatchStatistics().eval(), (torch.arange(20),), tmp_path, tables="f32")
    said = str(caught.value)
    assert "BatchNormalization at norm (it has no running statistics: it would mix the rows" in said
    assert "track_running_stats=True" in said
    assert "not constant" not in said


class Rows(nn.Module):
    """Rows of a parameter by plain indexing, which torch counts from the end below 0."""

    def __init__(self, wraps=False):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.wraps = nn.Parameter(torch.randn(50, 4)), wraps

    def forward(self, ids):
        return torch.sigmoid(self.table[ids % 50 if self.wraps else ids].sum(-1))


def test_negative_examples_of_plain_indexing(tmp_path):
    with pytest.raises(ParityError, match=r"examples of ids hold negative IDs: .* from 0 on"):
        convert(Rows().eval(), (torch.arange(-20, 20),), tmp_path, tables="f32")


def test_files_refuse_negative_ids_of_plain_indexing(tmp_path):
    convert(Rows().eval(), (torch.arange(20),), tmp_path, tables="f32")
    for target in ("odm", "onnx", "tflite"):
        with pytest.raises(InputError, match=r"'ids': ID -1 at \[0\] is outside 0\.\.49"):
            ondevice.load(tmp_path / f"model.{target}").predict({"ids": [-1]})


def test_a_remainder_counts_from_the_end(tmp_path):
    """What the documentation proposes."""
    module, ids = Rows(wraps=True).eval(), torch.arange(-50, 50)
    convert(module, (ids,), tmp_path, tables="f32")
    with torch.inference_mode():
        expected = Rows().eval()(ids).numpy()
    for target in ("odm", "onnx", "tflite"):
        got = ondevice.load(tmp_path / f"model.{target}").predict({"ids": ids.numpy()})
        np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0, err_msg=target)
