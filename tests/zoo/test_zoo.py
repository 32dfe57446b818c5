"""Sixty click networks, written the ways public libraries write them, in every target."""

import shutil
import warnings

import pytest
import torch
from support.converters import legacy_dir
from support.module_state import state_of, surroundings
from zoo.comparison import (
    ENGINES,
    NETWORKS,
    TOLERANCE,
    convert_to,
    differences,
    first_score,
    train,
)

import ondevice

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")


def _half_trained(part):
    """Flags and gradients of a module that is still in training, of some parts only."""
    if isinstance(part, torch.nn.Embedding | torch.nn.BatchNorm1d | torch.nn.Dropout):
        part.train()
    if isinstance(part, torch.nn.Linear):
        part.weight.requires_grad_(False)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_every_target_equals_torch(network, tmp_path):
    trained = train(network, rows=2048, epochs=1)
    trained.module.apply(_half_trained)
    before = state_of(trained.module), surroundings()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the C engine must run it
        report = convert_to(trained, tmp_path)
    assert (state_of(trained.module), surroundings()) == before
    trained.module.eval()
    found = differences(trained, tmp_path)
    assert set(found) == set(ENGINES)
    assert max(found.values()) <= TOLERANCE
    assert max(target.max_difference for target in report.targets.values()) <= TOLERANCE
    if legacy := legacy_dir("zoo"):
        shutil.copytree(tmp_path, legacy / network.__name__)


@pytest.mark.parametrize("name", ["FactorizationMachine", "DeepFM", "DIN"])
def test_quantised_tables_keep_the_auc(name, tmp_path):
    trained = train(next(network for network in NETWORKS if network.__name__ == name))
    values = trained.values(0, len(trained.held_out.click))
    full = trained.auc(first_score(trained.source(values)))
    assert full > 0.53  # it has learnt something that rounding could lose
    for tables, lost in (("q8", 0.002), ("q4", 0.02)):
        convert_to(trained, tmp_path / tables, tables, targets=["odm", "tflite"])
        for suffix in ("odm", "tflite"):
            model = ondevice.load(tmp_path / tables / f"model.{suffix}")
            assert trained.auc(first_score(model.predict(values))) > full - lost
