"""AMTL: learns, from frequency alone, how many leading dimensions each table row keeps.

Source: "Learning Effective and Efficient Embedding via an Adaptively-Masked Twins-based Layer",
CIKM 2021 (arXiv 2108.11513).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ondevice.errors import SpecError

FREQUENCY_FEATURES = 2  # z-scored log count, rank percentile


class AdaptiveMask(nn.Module):
    """Kept widths of a table's rows: the first k_i entries of row i stay, the rest are masked.

    While training, k_i comes from the twins; its mask is hard (0 or 1) in the forward pass and
    carries the gradient of the softmax in the backward pass (straight-through). In evaluation
    mode the widths are the buffer `kept`, refreshed by every switch from training to evaluation;
    after changing parameters in evaluation mode by hand call `refresh()`.

    k_i depends on the row's count alone, so rows of equal count share one level, and the twins
    run once per distinct count instead of once per row (exact, not an approximation).

    The last bias of both twins starts at T * ln(dim - 1) for the full width and 0 elsewhere: each
    row begins whole, with half of the softmax on the full width so that gradients flow. This start,
    the two input features, the twins' size and the penalty are choices of this project.

    Attributes:
        kept: uint8 [rows] (int64 from 256 dimensions on), the hard widths, each 1..dim.
        level_of_row: int32 [rows], the distinct count that a row has; None once frozen.
        inputs: float32 [levels, 2], frequency features s of each level; None once frozen.
        row_share: float32 [levels], share of the rows that have this count; None once frozen.
    """

    kept: Tensor
    leading_ones: Tensor
    twins: Twins | None
    level_of_row: Tensor | None
    inputs: Tensor | None
    row_share: Tensor | None

    def __init__(
        self,
        counts: npt.ArrayLike,
        dim: int,
        temperature: float = 1.0,
        hidden: tuple[int, ...] = (32, 32),
    ) -> None:
        """Start learning widths.

        Args:
            counts: int64 [rows], how often the *training* split reads each row.
            dim: width of a whole row.
            temperature: T of the relaxed one-hot softmax(h / T).
            hidden: hidden layer sizes of each twin.

        Raises:
            SpecError: counts that are not non-negative integers [rows], or bad settings.
        """
        super().__init__()
        values = _checked_counts(counts)
        distinct, level_of_row, sizes = np.unique(values, return_inverse=True, return_counts=True)
        self._allocate(len(values), dim, len(distinct), temperature, hidden)
        assert self.inputs is not None and self.level_of_row is not None  # noqa: S101
        assert self.row_share is not None  # noqa: S101
        with torch.no_grad():
            self.inputs.copy_(torch.from_numpy(frequency_features(distinct, sizes)))
            self.level_of_row.copy_(torch.from_numpy(level_of_row))
            self.row_share.copy_(torch.from_numpy(sizes / len(values)))
        self.refresh()

    @classmethod
    def blank(
        cls,
        rows: int,
        dim: int,
        levels: int,
        temperature: float = 1.0,
        hidden: tuple[int, ...] = (32, 32),
    ) -> AdaptiveMask:
        """A mask of the right shapes whose state is about to be loaded; levels 0 means frozen."""
        mask = cls.__new__(cls)
        nn.Module.__init__(mask)
        mask._allocate(rows, dim, levels, temperature, hidden)
        return mask

    @classmethod
    def from_widths(cls, widths: npt.ArrayLike, dim: int) -> AdaptiveMask:
        """A frozen mask with given widths, integers [rows] in 1..dim. Raises SpecError."""
        values = np.asarray(widths)
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
            raise SpecError(
                f"widths must be integers [rows], got {values.dtype} {list(values.shape)}"
            )
        if values.min() < 1 or values.max() > dim:
            raise SpecError(f"widths must be 1..{dim}, got {values.min()}..{values.max()}")
        mask = cls.blank(len(values), dim, 0)
        mask.kept.copy_(torch.from_numpy(values.astype(np.int64)))
        return mask

    def _allocate(
        self, rows: int, dim: int, levels: int, temperature: float, hidden: tuple[int, ...]
    ) -> None:
        if dim < 1 or not (temperature > 0 and math.isfinite(temperature)):
            raise SpecError(f"mask: dim >= 1, temperature > 0 needed, got {dim}, {temperature}")
        if any(size < 1 for size in hidden):
            raise SpecError(f"mask: hidden layer sizes must be positive, got {hidden}")
        self.dim = dim
        self.temperature = float(temperature)
        self.hidden = tuple(hidden)
        dtype = torch.uint8 if dim < 256 else torch.int64
        self.register_buffer("kept", torch.full((rows,), dim, dtype=dtype))
        live = levels > 0
        self.register_buffer("level_of_row", torch.zeros(rows, dtype=torch.int32) if live else None)
        self.register_buffer("inputs", torch.zeros(levels, FREQUENCY_FEATURES) if live else None)
        self.register_buffer("row_share", torch.zeros(levels) if live else None)
        self.twins = Twins(dim, self.hidden, self.temperature) if live else None
        # row k: k ones, then zeros; made on the CPU even under a meta device
        ones = torch.ones(dim + 1, dim, device="cpu").tril(-1)
        self.register_buffer("leading_ones", ones, persistent=False)

    @property
    def frozen(self) -> bool:
        """Whether the widths are fixed for good."""
        return self.inputs is None

    @property
    def levels(self) -> int:
        """Number of distinct counts; 0 once frozen."""
        return 0 if self.inputs is None else int(self.inputs.shape[0])

    @property
    def rows(self) -> int:
        """Number of table rows."""
        return int(self.kept.shape[0])

    def freeze(self) -> None:
        """Fix the widths and drop the twins; what remains is one byte a row."""
        self.refresh()
        self.level_of_row = self.inputs = self.row_share = None
        self.twins = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute `kept` from the twins' present parameters (nothing happens once frozen)."""
        if self.level_of_row is None:
            return
        best = self._logits(None).argmax(-1) + 1
        self.kept.copy_(best[self.level_of_row.long()])

    def train(self, mode: bool = True) -> AdaptiveMask:
        """Switch mode; leaving training mode refreshes the widths."""
        if self.training and not mode:
            self.refresh()
        return super().train(mode)

    def forward(self, rows: Tensor) -> Tensor:
        """Mask of the given rows: int64 [...] -> float32 [..., dim]; see `mask`."""
        return self.mask(rows)

    def mask(self, rows: Tensor) -> Tensor:
        """Mask of the given rows, int64 [...] -> float32 [..., dim], each exactly 0 or 1.

        m_ij = sum over p >= j of t_ip, with t_i the one-hot argmax of the logits; in training mode
        the gradient is that of softmax(h_i / T) in the place of t_i.
        """
        if not self.training or self.level_of_row is None:
            return functional.embedding(self.kept[rows].long(), self.leading_ones)
        levels = self.level_of_row[rows].long()
        if levels.numel() < self.levels:  # fewer lookups than levels: run the twins on these
            few = self._straight_through(self._logits(levels.flatten()))
            return few.reshape(*levels.shape, self.dim)
        masks = self._straight_through(self._logits(None))
        return masks.index_select(0, levels.flatten()).reshape(*levels.shape, self.dim)

    def table(self) -> Tensor:
        """The mask of every row, float32 [rows, dim]."""
        if not self.training or self.level_of_row is None:
            return functional.embedding(self.kept.long(), self.leading_ones)
        return self._straight_through(self._logits(None)).index_select(0, self.level_of_row)

    def widths(self) -> Tensor:
        """Hard widths k int64 [rows], each 1..dim, of the present parameters."""
        if self.training:
            self.refresh()
        return self.kept.long()

    def expected_width(self) -> Tensor:
        """Mean over the rows of sum_p p * softmax(h_i / T)_p, a differentiable scalar.

        Once frozen, the constant mean width.
        """
        if self.row_share is None:
            return self.kept.float().mean()
        relaxed = torch.softmax(self._logits(None) / self.temperature, -1)
        steps = torch.arange(1, self.dim + 1, dtype=relaxed.dtype, device=relaxed.device)
        return self.row_share @ (relaxed @ steps)

    def saved_fraction(self, bytes_per_value: float = 4.0) -> float:
        """1 - sum k / (rows * dim), less the bytes that store k (1 a row, 2 from 256 dims on)."""
        width_bytes = 1 if self.dim < 256 else 2
        kept = float(self.widths().sum()) * bytes_per_value + self.rows * width_bytes
        return 1.0 - kept / (self.rows * self.dim * bytes_per_value)

    def _logits(self, levels: Tensor | None) -> Tensor:
        """h_i = alpha_i * hAML(s_i) + (1 - alpha_i) * lAML(s_i), [levels or all, dim]."""
        assert self.inputs is not None and self.twins is not None  # noqa: S101
        inputs = self.inputs if levels is None else self.inputs[levels]
        gate = torch.sigmoid(inputs[:, :1])  # q_i is the z-scored log count
        high, low = self.twins(inputs)
        logits: Tensor = torch.lerp(low, high, gate)
        return logits

    def _straight_through(self, logits: Tensor) -> Tensor:
        soft = torch.softmax(logits / self.temperature, -1) @ self.leading_ones[1:]
        hard = functional.embedding(logits.argmax(-1) + 1, self.leading_ones)
        # the difference is exactly zero, so the value is exactly hard and the gradient soft's
        return hard + (soft - soft.detach())


class Twins(nn.Module):
    """h-AML and l-AML: two multi-layer perceptrons that share nothing but their input.

    Their weights lie stacked, [2, ...] with h-AML first, so that each layer is one batched product.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], temperature: float) -> None:
        super().__init__()
        sizes = (FREQUENCY_FEATURES, *hidden, dim)
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.empty(2, *shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(2, 1, size) for _, size in shapes)
        self.reset_parameters(temperature)

    @torch.no_grad()
    def reset_parameters(self, temperature: float) -> None:
        """Draw weights as nn.Linear does; the last bias favours the full width."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = weight.shape[1] ** -0.5
            weight.uniform_(-bound, bound)
            bias.uniform_(-bound, bound)
        last = self.biases[-1]
        last.zero_()
        last[..., -1] = temperature * math.log(max(last.shape[-1] - 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs s [n, 2] -> logits [2, n, dim] of h-AML and l-AML."""
        values = inputs.expand(2, *inputs.shape)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, torch.relu(values) if number else values, weight)
        return values


def frequency_features(
    distinct: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The twins' input s for each distinct count (a choice of this project).

    Args:
        distinct: int64 [levels], ascending counts.
        sizes: int64 [levels], how many rows have each count.

    Returns:
        float32 [levels, 2]: log(1 + count), z-scored over the rows (0 when all are equal), and
        the share of rows below plus half the share of equal ones (ties share a percentile).
    """
    share = sizes / sizes.sum()
    logs = np.log1p(distinct.astype(np.float64))
    mean = float(share @ logs)
    spread = math.sqrt(float(share @ (logs - mean) ** 2))
    scores = (logs - mean) / spread if len(distinct) > 1 else np.zeros(1)
    percentile = np.cumsum(share) - share / 2
    return np.stack([scores, percentile], axis=1).astype(np.float32)


def _checked_counts(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    values = np.asarray(counts)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise SpecError(f"counts must be integers [rows], got {values.dtype} {list(values.shape)}")
    if values.min() < 0:
        raise SpecError(f"counts must not be negative, got {values.min()}")
    return values.astype(np.int64)
