"""Quantisation-aware training: tables rounded in the forward pass as a codec will store them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ondevice.codecs import CODE_RANGE, CODECS, Codec, QuantTable
from ondevice.errors import SpecError
from ondevice.sections import Section, TableCodec, quantise_sections


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

    `refresh` asks `ondevice.codecs.quantise` itself for scales and levels, section by section;
    between refreshes rows are rounded with these. In evaluation mode, after a refresh, rows equal
    the dequantised table bit for bit.
    """

    def __init__(self, codec: TableCodec, counts: npt.ArrayLike | None = None) -> None:
        """For a table that is stored as `codec` says.

        Args:
            codec: of all rows, or the sections of the table.
            counts: how often each row is read [rows]: what its error counts where scales are
                chosen; None: rows count alike.
        """
        super().__init__()
        self.codec = codec
        self._counts = None if counts is None else np.asarray(counts)
        self._starts: Tensor | None = None  # the first row of each section but the first
        self.sections = nn.ModuleList()

    @torch.no_grad()
    def refresh(self, weight: Tensor, widths: Tensor | None) -> None:
        """Take the scales of a table, float32 [rows, dim], cut to widths [rows] if given.

        Raises:
            SpecError: the codec cannot hold the table, or its sections are of another one.
        """
        values = weight.numpy(force=True)
        row_widths = None if widths is None else widths.numpy(force=True)
        sections = (Section(None, self.codec),) if isinstance(self.codec, str) else self.codec
        stored = quantise_sections(values, sections, self._counts, widths=row_widths)
        ends = np.cumsum([part.rows for part in stored.sections])
        self._starts = torch.from_numpy(ends[:-1]).to(weight.device)
        first_rows = [0, *ends[:-1].tolist()]
        self.sections = nn.ModuleList(
            _SectionRounding(part, start, weight.device)
            for part, start in zip(stored.sections, first_rows, strict=True)
        )

    def forward(self, values: Tensor, rows: Tensor) -> Tensor:
        """Rounded values float32 [..., dim], already cut, of rows int64 [...]."""
        exact = values.detach()
        if len(self.sections) == 1:
            rounded = self.sections[0](exact, rows)
        else:
            rounded = torch.empty_like(exact)
            section_of = torch.bucketize(rows, self._starts, right=True)  # type: ignore[arg-type]
            for number, section in enumerate(self.sections):
                chosen = section_of == number
                rounded[chosen] = section(exact[chosen], rows[chosen])
        # the value is exactly the rounded one, the gradient that of the values
        passed: Tensor = _PassThrough.apply(values, rounded)  # type: ignore[no-untyped-call]
        return passed


class _SectionRounding(nn.Module):
    """Rounds rows of consecutive numbers to the grid of one quantised table.

    Attributes:
        scales: float32 [rows] or [dim] of q codecs, or levels [dim, 2**bits]; None otherwise.
    """

    scales: Tensor | None

    def __init__(self, table: QuantTable, start: int, device: torch.device) -> None:
        super().__init__()
        self._codec, self._width, self._start = table.codec, table.dim, start
        self._axis = table.scale_axis
        scales = None
        if table.scales is not None:
            scales = torch.from_numpy(table.scales.astype(np.float32)).to(device)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, exact: Tensor, rows: Tensor) -> Tensor:
        """Rounded values float32 [..., dim] of rows int64 [...]; zero beyond the stored width."""
        rounded = torch.zeros_like(exact)
        rounded[..., : self._width] = self._rounded(exact[..., : self._width], rows)
        return rounded

    def _rounded(self, exact: Tensor, rows: Tensor) -> Tensor:
        if self._codec == "f16":
            return exact.half().float()
        if self.scales is None:
            return exact
        if self._axis == "levels":
            return _nearest_levels(exact, self.scales)
        by_row = self._axis == "row"
        scales = self.scales[rows - self._start].unsqueeze(-1) if by_row else self.scales
        low, high = CODE_RANGE[self._codec]
        # a scale of zero stores zeros
        codes = torch.where(scales != 0, exact / scales, 0.0).round_()
        return codes.clamp_(low, high) * scales


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
