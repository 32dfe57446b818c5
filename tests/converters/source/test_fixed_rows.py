"""The message names the line of a module that turns the number of rows into a Python number."""

import inspect
import logging

import pytest
import torch
from torch import nn

import ondevice
from ondevice.converters import convert
from ondevice.converters.source.fixed_rows import numbers_of_rows
from ondevice.errors import UnsupportedError

EXAMPLE = (torch.tensor([1, 2, 3, 4, 5]),)


class Sized(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.items, self.function = nn.Embedding(50, 8), function

    def forward(self, ids):
        return self.function(self.items(ids), ids)


def by_len(x, ids):
    rows = [x[row].sum() for row in range(len(ids))]
    return torch.stack(rows)


def by_int(x, ids):
    bias = torch.zeros(int(x.shape[0]), 8)
    return (x + bias).sum(1)


def by_range(x, ids):
    rows = [x[row].sum() for row in range(ids.size(0))]
    return torch.stack(rows)


def by_comparison(x, ids):
    if x.size(0) == 5:
        return x.sum(1)
    return x.mean(1)


@pytest.mark.parametrize("function", [by_len, by_int, by_range, by_comparison])
def test_the_line_is_named(function, tmp_path):
    line = inspect.getsourcelines(function)[1] + 1  # the first of its body
    with pytest.raises(UnsupportedError, match=f"at {__file__}:{line},"):
        convert(Sized(function), EXAMPLE, tmp_path, tables="f32")


def test_a_size_that_stays_free_is_no_number(tmp_path):
    def free(x, ids):
        return (x.view(x.size(0), -1) + torch.zeros(x.shape[0], 8)).sum(1)

    convert(Sized(free), EXAMPLE, tmp_path, tables="f32", targets=["odm"])
    assert (tmp_path / "model.odm").is_file()


def test_len_as_a_size_stays_free(tmp_path):
    def counted(x, ids):
        if len(x) != len(ids) or len([ids]) != 1:
            raise ValueError
        return (x.reshape(len(ids), 2, 4) + torch.zeros(len(x), 2, 4)).flatten(1).sum(1)

    module = Sized(counted)
    convert(module, EXAMPLE, tmp_path, tables="f32", targets=["odm"])
    ids = torch.arange(9)
    found = ondevice.load(tmp_path / "model.odm").predict({"ids": ids.numpy()})
    assert found == pytest.approx(module(ids).detach().numpy(), abs=1e-5)
    assert "len" not in globals()


def test_the_logger_of_torch_is_left_as_it_was():
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = logger.level, logger.propagate, list(logger.handlers)
    with pytest.raises(RuntimeError), numbers_of_rows(5) as places:
        raise RuntimeError
    assert places == []
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
