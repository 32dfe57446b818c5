"""Shift tables before they are rounded to few bits; the first layer's bias takes the shift back.

Codes of narrow codecs reach further down than up (`ondevice.codecs.CODE_RANGE`), and with 2 bits
that matters: of four levels, -2..1, only one is positive. Where a network reads the vectors by
a linear layer, adding a constant to a column of the table and taking its effect from the layer's
bias changes no prediction, and puts the levels where the values are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.codecs import Codec, quantise
from ondevice.models.networks import ClickModel
from ondevice.models.training.widths import LINEAR_READERS

SHIFTED: tuple[Codec, ...] = ("q2",)
# Shifts tried, in standard deviations of the column's values: four levels span about three.
STEPS = np.linspace(-1.5, 1.5, 25)

FloatArray = npt.NDArray[np.float32]


@torch.no_grad()
def shift_tables(
    model: ClickModel,
    codecs: Mapping[str, Codec],
    counts: Mapping[str, npt.NDArray[np.int64]],
) -> list[str]:
    """Shift the whole tables of SHIFTED codecs where that rounds better, in place.

    Args:
        model: predictions stay the same, to float32 rounding.
        codecs: per field how its table will be stored; fields not named stay as they are.
        counts: per field int64 [rows], how often training reads each row; errors count so often.

    Returns:
        The fields whose tables were shifted.
    """
    layer = model.network[0]
    if model.settings.kind not in LINEAR_READERS or not isinstance(layer, nn.Linear):
        return []
    shifted, start = [], 0
    targets = set(model.histories.values())
    for name in model.fields:
        table = model.embedding(name)
        part = slice(start, start + table.spec.dim)
        start = part.stop
        # a vector that can be zero, a sum of rows or a cut row would not move by just the shift
        whole = table.spec.scheme == "full" and table.spec.padding_id is None
        wanted = codecs.get(name) in SHIFTED and name not in targets
        if not wanted or not whole or table.mask is not None:
            continue
        values = table.weight.numpy(force=True)
        shift = _best_shift(values, codecs[name], np.maximum(counts[name], 1).astype(np.float64))
        if shift.any():
            offset = torch.from_numpy(shift).to(table.weight.device)
            table.weight.add_(offset)
            layer.bias.sub_(layer.weight[:, part] @ offset)
            shifted.append(name)
    return shifted


def _best_shift(values: FloatArray, codec: Codec, weights: npt.NDArray[np.float64]) -> FloatArray:
    """The shift float32 [dim] of a table [rows, dim] with the least weighted squared error."""
    spread, mean = values.std(axis=0), np.average(values, axis=0, weights=weights)
    shifts = [np.zeros_like(spread)]
    shifts += [(step * spread - mean).astype(np.float32) for step in STEPS]

    def error(shift: FloatArray) -> npt.NDArray[np.float64]:
        moved = values + shift
        off = (quantise(moved, codec, scale_axis="column").dequantise() - moved).astype(np.float64)
        squares: npt.NDArray[np.float64] = (off**2 * weights[:, None]).sum(axis=0)
        return squares

    errors = np.stack([error(shift) for shift in shifts])
    best: FloatArray = np.stack(shifts)[errors.argmin(axis=0), np.arange(values.shape[1])]
    return best
