"""Calibration: run a model on sample rows and record the ranges of its dense layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.converters.dense.layers import Range
from ondevice.converters.graph import PackedModel
from ondevice.converters.tables.draft import fill
from ondevice.converters.targets.odm import emit_odm
from ondevice.dense import DENSE
from ondevice.engines.numpy import NumpyEngine
from ondevice.errors import InputError
from ondevice.held_bytes import mapped_files
from ondevice.info import ModelInfo
from ondevice.odm import open_odm
from ondevice.temporary import temporary_folder

BATCH = 1024

Array = npt.NDArray[Any]


def calibrate(
    native: PackedModel,
    info: ModelInfo,
    rows: Mapping[str, Array],
    probes: Sequence[Mapping[str, Array]],
) -> dict[str, Range]:
    """Ranges of every dense layer's input ("NAME.input") and output ("NAME"), 0 included.

    The model runs with float32 layers in the numpy engine, as a native file in a temporary folder.

    Args:
        native: the lowered model, in whose layers those of all targets are.
        info: its description.
        rows: values by input name, int64 or float32 [rows, ...].
        probes: further requests, so that the ranges include those of unseen and extreme IDs.

    Raises:
        UnsupportedError: the native format lacks an operator of the model.
        InputError: a layer is not finite on the rows.
    """
    count = len(next(iter(rows.values())))
    ranges: dict[str, Range] = {}
    with temporary_folder() as folder, mapped_files():
        path = folder / "calibration.odm"
        fill(emit_odm(native, path, info))
        opened = open_odm(path)
        engine = NumpyEngine(opened)
        layers = [node for node in opened.plan.nodes if node.op == DENSE]
        starts = range(0, count, BATCH)
        batches = [{name: values[i : i + BATCH] for name, values in rows.items()} for i in starts]
        for batch in (*batches, *probes):
            values = engine.values(batch)
            for node in layers:
                _widen(ranges, f"{node.outputs[0]}.input", values[node.inputs[0]])
                _widen(ranges, node.outputs[0], values[node.outputs[0]])
    return ranges


def _widen(ranges: dict[str, Range], name: str, values: npt.NDArray[np.float32]) -> None:
    """Extend a range to include these values; raises InputError where they are not finite."""
    before = ranges.get(name, Range(0.0, 0.0))
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"calibration: the layer {name!r} is not finite on the calibration rows")
    ranges[name] = Range(min(before.low, low), max(before.high, high))
