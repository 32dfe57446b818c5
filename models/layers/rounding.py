"""Quantisation-aware training: tables rounded in the forward pass as a codec will store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ondevice.codecs import CODE_RANGE, CODECS, Codec, quantise
from ondevice.errors import SpecError


@dataclass(frozen=True)
class Rounding:
    """Train the last epochs with tables as a codec stores them.

    Attributes:
        codec: how the tables will be stored.
        epochs: at most this many more epochs.
        slower: the learning rate is divided by this.

    Raises:
        SpecError: a setting out of range.
    """

    codec: Codec = "q4"
    epochs: int = 1
    slower: float = 4.0

    def __post_init__(self) -> None:
        if self.codec not in CODECS or self.epochs < 1 or not 1 <= self.slower < float("inf"):
            known = ", ".join(CODECS)
            raise SpecError(
                f"rounding: a codec of {known}, epochs >= 1, slower >= 1 needed; got {self}"
            )


class TableRounding(nn.Module):
    """Rounds rows of one table to its codec's grid; gradients pass straight through.

    `refresh` asks `ondevice.codecs.quantise` itself for the scales; between refreshes rows are
    rounded with these. In evaluation mode, after a refresh, rows equal the dequantised table bit
    for bit.

    Attributes:
        scales: float32 [rows] or [dim] of q codecs, or levels [dim, 2**bits]; None otherwise.
    """

    scales: Tensor | None

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.by_row = False
        self.register_buffer("scales", None, persistent=False)

    @torch.no_grad()
    def refresh(self, weight: Tensor, widths: Tensor | None) -> None:
        """Take the scales of a table, float32 [rows, dim], cut to widths [rows] if given.

        Raises:
            SpecError: the codec cannot hold the table.
        """
        row_widths = None if widths is None else widths.numpy(force=True)
        table = quantise(weight.numpy(force=True), self.codec, widths=row_widths)
        self.by_row = table.scale_axis == "row"
        if table.scales is not None:
            scales = torch.from_numpy(table.scales.astype(np.float32))
            self.scales = scales.to(weight.device)

    def forward(self, values: Tensor, rows: Tensor) -> Tensor:
        """Rounded values float32 [..., dim], already cut, of rows int64 [...]."""
        exact = values.detach()
        if self.codec == "f16":
            rounded = exact.half().float()
        elif self.scales is None:
            return values
        elif self.scales.ndim == 2:
            rounded = _nearest_levels(exact, self.scales)
        else:
            scales = self.scales[rows].unsqueeze(-1) if self.by_row else self.scales
            low, high = CODE_RANGE[self.codec]
            # a scale of zero stores zeros
            codes = torch.where(scales != 0, exact / scales, 0.0).round_()
            rounded = codes.clamp_(low, high) * scales
        # the value is exactly the rounded one, the gradient that of the values
        passed: Tensor = _PassThrough.apply(values, rounded)  # type: ignore[no-untyped-call]
        return passed


def _nearest_levels(values: Tensor, levels: Tensor) -> Tensor:
    """The nearest level of each value [..., dim], the lower of two; levels [dim, 2**bits]."""
    wide = levels.double()
    middles = (wide[:, 1:] + wide[:, :-1]) / 2
    codes = torch.zeros(values.shape, dtype=torch.int64, device=values.device)
    for middle in middles.T:
        codes += values > middle
    nearest: Tensor = levels[torch.arange(len(levels), device=levels.device), codes]
    return nearest


class _PassThrough(torch.autograd.Function):
    """The second argument forward, the gradient to the first backward."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: Tensor) -> Tensor:
        """The rounded values."""
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient, unchanged."""
        return gradient, None
