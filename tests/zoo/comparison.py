"""Trains a network of the zoo a little, converts it to every target, compares each with torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from zoo import (
    field_networks,
    gated_networks,
    matrix_networks,
    next_item_networks,
    sequence_networks,
    tabular_networks,
)
from zoo.click_log import Log, make_log

import ondevice
from ondevice.converters import convert
from ondevice.converters.source.arguments import arguments_of
from ondevice.converters.source.torch_source import TorchSource
from ondevice.converters.verify.report import ConversionReport

NETWORKS = (
    *matrix_networks.NETWORKS,
    *field_networks.NETWORKS,
    *tabular_networks.NETWORKS,
    *sequence_networks.NETWORKS,
    *next_item_networks.NETWORKS,
    *gated_networks.NETWORKS,
)
ENGINES = {
    "native": ("odm", "native"),
    "numpy": ("odm", "numpy"),
    "ONNX Runtime": ("onnx", "onnx"),
    "LiteRT": ("tflite", "tflite"),
}
TOLERANCE = 1e-5  # of a click probability, with float tables
ROWS, BATCH, EPOCHS = 8192, 256, 3
HELD_OUT = 4096
BATCHES = (1, 3, 250)


@dataclass(frozen=True)
class Trained:
    """A network and the rows that it was trained and is tested on."""

    network: type[nn.Module]
    module: nn.Module
    log: Log
    held_out: Log

    @property
    def source(self) -> TorchSource:
        """The module as a function of named arrays, with a few rows as examples."""
        return TorchSource(self.module, self.network.inputs(self.log.rows(0, 64)))

    def values(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Held-out rows as the model files take them."""
        found = arguments_of(self.module, self.network.inputs(self.held_out), {}).examples
        return {name: array[start:stop] for name, array in found.items()}

    def auc(self, scores: np.ndarray) -> float:
        """AUC of click probabilities of the held-out rows."""
        return float(roc_auc_score(self.held_out.click.numpy(), scores))


def train(network: type[nn.Module], rows: int = ROWS, epochs: int = EPOCHS) -> Trained:
    """A network after a short training on clicks (and purchases, where it has two outputs)."""
    torch.manual_seed(11)
    log, held_out = make_log(rows, seed=1), make_log(HELD_OUT, seed=2)
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for epoch in range(epochs):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch))
        shuffled = Log(*(getattr(log, name)[order] for name in Log.__dataclass_fields__))
        for start in range(0, rows - BATCH + 1, BATCH):
            part = shuffled.rows(start, start + BATCH)
            optimizer.zero_grad()
            _loss(module(*network.inputs(part)), part).backward()
            optimizer.step()
    return Trained(network, module.eval(), log, held_out)


def _loss(returned: object, rows: Log) -> torch.Tensor:
    outputs = list(returned.values()) if isinstance(returned, dict) else returned
    if isinstance(outputs, torch.Tensor):
        outputs = [outputs]
    columns = [column for one in outputs for column in one.reshape(len(rows.click), -1).unbind(1)]
    labels = (rows.click, rows.buy)
    return sum(
        nn.functional.binary_cross_entropy(column.clamp(1e-6, 1 - 1e-6), label)
        for column, label in zip(columns, labels, strict=False)
    )


def convert_to(trained: Trained, folder: Path, tables: str = "f32", **options) -> ConversionReport:
    """Convert a trained network; `convert` itself compares every file with torch."""
    examples = trained.network.inputs(trained.log.rows(0, 64))
    return convert(trained.module, examples, folder, tables=tables, **options)


def differences(trained: Trained, folder: Path) -> dict[str, float]:
    """Largest |probability difference| from torch on held-out rows, by engine."""
    source, found = trained.source, {}
    for name, (suffix, engine) in ENGINES.items():
        model = ondevice.load(folder / f"model.{suffix}", engine=engine)
        largest = 0.0
        for rows in BATCHES:
            values = trained.values(rows, 2 * rows)
            expected = source(values)
            got = model.predict(values)
            got = got if isinstance(got, dict) else {model.outputs[0]: got}
            assert list(got) == list(expected)
            for output, right in expected.items():
                assert got[output].shape == right.shape, output
                largest = max(largest, float(np.abs(got[output] - right).max()))
        found[name] = largest
    return found


def first_score(outputs: object) -> np.ndarray:
    """The click probability [rows] among a model's outputs."""
    first = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    return first.reshape(len(first), -1)[:, 0]
