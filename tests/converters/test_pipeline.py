"""The pipeline: every stage leaves the model that it was given as it was."""

import onnx_ir as ir
import pytest
import torch
from support.converters import click_ids, click_model, torch_inputs
from torch import nn

from ondevice.converters import convert, pipeline
from ondevice.converters.graph import PackedModel
from ondevice.converters.source.torch_source import TorchSource
from ondevice.converters.tables.pack import pack, pack_tables


class Mixed(nn.Module):
    """Something for every stage: float64, rotated lookups, batch norm, attention over a history."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(40, 8), nn.Embedding(30, 8)
        self.turn = nn.Linear(8, 8, bias=False)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Sequential(nn.Linear(24, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 1))

    def forward(self, history, item, user):
        steps = self.items(history).transpose(0, 1)
        seen, _ = self.attention(steps, steps, steps)
        parts = [seen.mean(0), self.turn(self.users(user)), self.items(item)]
        return torch.sigmoid(self.head(torch.cat(parts, -1))).squeeze(-1)


def written(model):
    """A model as bytes, its tables left out: they are not the graph's."""
    if not isinstance(model, ir.Model):
        lookups = [(item.node.name, item.spec) for item in model.lookups]
        return lookups, list(model.tables), written(model.model)
    return ir.to_proto(model).SerializeToString(deterministic=True)


def observed(stages, log):
    """The same stages, each of which notes whether its argument is what it was."""

    def watch(stage):
        def run(model):
            before = written(model)
            after = stage.run(model)
            log[stage.name] = (written(model) == before, written(after) != before)
            return after

        return pipeline.Stage(stage.name, run, stage.reason)

    return tuple(map(watch, stages))


@pytest.mark.parametrize("double", [False, True])
def test_no_stage_changes_its_argument(double):
    history, ids = torch.randint(0, 30, (6, 5)), torch.arange(6)
    module = Mixed().eval()
    source = TorchSource(module.double() if double else module, (history, ids, ids))
    log = {}
    exported = source.exported()
    model = pipeline.run(exported, observed(pipeline.CLEANING, log))
    captured = pipeline.capture(source.named(model))
    captured = pipeline.run(captured, observed(pipeline.CAPTURED, log))
    before = written(captured)
    packed = pack(captured, pack_tables(captured, "q8"))
    assert written(captured) == before
    for target in pipeline.TARGETS.values():
        pipeline.run(packed, observed(target, log))
    names = {stage.name for stages in pipeline.TARGETS.values() for stage in stages}
    names |= {stage.name for stage in (*pipeline.CLEANING, *pipeline.CAPTURED)}
    assert set(log) == names
    assert all(unchanged for unchanged, _ in log.values()), log
    assert log["simplify"][1] and log["batch first"][1] and log["replace operators"][1]
    assert log["single precision"][1] == double


def test_merging_does_not_change_its_argument():
    source = TorchSource(click_model(), (torch_inputs(click_ids(16)),))
    captured = source.capture()
    packed = pack(captured, pack_tables(captured, "q8"))
    log = {}
    merged = pipeline.run(packed, observed(pipeline.TARGETS["onnx"], log))
    expected = {"split cells": (True, False), "merge lookups": (True, True)}
    assert log == {**expected, "exact integers": (True, False)}
    assert len(merged.lookups) < len(packed.lookups)


def test_a_stage_on_one_model_runs_once(monkeypatch):
    runs = []

    def counted(name):
        def run(model: PackedModel) -> PackedModel:
            runs.append(name)
            return model.cloned()

        return pipeline.Stage(name, run, "")

    stages = {"a": (counted("x"), counted("y")), "b": (counted("x"), counted("z")), "c": ()}
    monkeypatch.setitem(pipeline.TARGETS_BY_INPUT, "named", stages)
    source = TorchSource(click_model(), (torch_inputs(click_ids(16)),))
    captured = source.capture()
    packed = pack(captured, pack_tables(captured, "q8"))
    models = pipeline.TargetModels(packed)
    assert models.of("c") is packed
    assert models.of("a") is models.of("a") and models.of("b") is not models.of("a")
    assert runs == ["x", "y", "z"]


def test_a_conversion_leaves_the_module_as_it_was(tmp_path):
    module = Mixed().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    history, ids = torch.randint(0, 30, (6, 5)), torch.arange(6)
    convert(module, (history, ids, ids), tmp_path, targets=["odm"])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
