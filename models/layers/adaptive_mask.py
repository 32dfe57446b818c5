"""AMTL: learns, only from frequency, how many leading dimensions each table row keeps.

Source: "Learning Effective and Efficient Embedding via an Adaptively-Masked Twins-based Layer",
CIKM 2021 (arXiv 2108.11513).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ondevice.errors import SpecError

FREQUENCY_FEATURES = 2  # z-scored log count, rank percentile
# Rows whose counts differ by a few percent share a level, so that the twins' work per step does
# not grow with the table: over counts of 1 to 10,000 a level spans 14 %, and counts below 7 keep
# levels of their own. A choice of this project.
MAX_LEVELS = 64


class LevelMasks(NamedTuple):
    """The masks of a table's levels, rows of a tensor that several tables may share.

    Attributes:
        masks: float32 [n, dim], each 0 or 1.
        start: the row of the table's first level.
    """

    masks: Tensor
    start: int


class AdaptiveMask(nn.Module):
    """Kept widths of a table's rows: the first k_i entries of row i stay, the rest are masked.

    While training, k_i comes from the twins; its mask is hard (0 or 1) in the forward pass and
    carries the gradient of the softmax in the backward pass (straight-through). In evaluation
    mode the widths are the buffer `kept`, refreshed by every switch from training to evaluation;
    after changing parameters in evaluation mode by hand call `refresh()`.

    k_i depends only on the row's count, so rows of equal count share one level, and the twins
    run once per level instead of once per row. Beyond MAX_LEVELS distinct counts, similar
    counts share a level too.

    The last bias of both twins starts at T * ln(dim - 1) for the full width and 0 elsewhere: each
    row begins whole, with half of the softmax on the full width so that gradients flow. This start,
    the two input features, the twins' size and the penalty are choices of this project.

    Attributes:
        kept: uint8 [rows] (int64 from 256 dimensions on), the hard widths, each 1..dim.
        level_of_row: uint8 [rows], the level of each row's count; None once frozen.
        inputs: float32 [levels, 2], frequency features s of each level; None once frozen.
        row_share: float32 [levels], share of the rows on this level; None once frozen.
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
        logs, level_of_row = frequency_levels(values)
        sizes = np.bincount(level_of_row)
        self._allocate(len(values), dim, len(logs), temperature, hidden)
        assert self.inputs is not None and self.level_of_row is not None  # noqa: S101
        assert self.row_share is not None  # noqa: S101
        with torch.no_grad():
            self.inputs.copy_(torch.from_numpy(frequency_features(logs, sizes)))
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
        """Create the parameters and buffers: every row whole, the levels still without counts.

        Args:
            rows: of the table.
            dim: width of a whole row.
            levels: how many levels of frequency the rows lie on; 0 for a frozen mask.
            temperature: T of the relaxed one-hot.
            hidden: hidden layer sizes of each twin.

        Raises:
            SpecError: a setting out of range.
        """
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
        self.register_buffer("level_of_row", torch.zeros(rows, dtype=torch.uint8) if live else None)
        self.register_buffer("inputs", torch.zeros(levels, FREQUENCY_FEATURES) if live else None)
        self.register_buffer("row_share", torch.zeros(levels) if live else None)
        self.twins = Twins(dim, self.hidden, self.temperature) if live else None
        # row k: k ones, then zeros; on the CPU even under a meta device
        ones = torch.ones(dim + 1, dim, device="cpu").tril(-1)
        self.register_buffer("leading_ones", ones, persistent=False)

    @property
    def frozen(self) -> bool:
        """Whether the widths are fixed for good."""
        return self.inputs is None

    @property
    def levels(self) -> int:
        """Number of levels; 0 once frozen."""
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

    @property
    def live(self) -> bool:
        """Whether the widths are being learned: in training mode, and not frozen."""
        return self.training and not self.frozen

    @property
    def version(self) -> tuple[int, int]:
        """Changes when the rows' levels or widths do: another tensor, or other numbers in it."""
        return id(self.level_index), self.level_index._version

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute `kept` from the twins' present parameters (nothing happens once frozen)."""
        if self.level_of_row is None:
            return
        best = (self._logits().argmax(-1) + 1).to(self.kept.dtype)
        self.kept.copy_(best.index_select(0, self.level_of_row.int()))

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
        levels = self.level_index.index_select(0, rows.flatten()).long()
        return self.level_table().index_select(0, levels).reshape(*rows.shape, self.dim)

    @property
    def level_index(self) -> Tensor:
        """For each row of the table its row in `level_table`, uint8 (or int64) [rows]."""
        if self.live and self.level_of_row is not None:
            return self.level_of_row
        return self.kept

    def level_table(self) -> Tensor:
        """Every mask a row can have, float32 [n, dim]: by level while learning, by width after."""
        return level_masks([self])[0].masks if self.live else self.leading_ones

    def widths(self) -> Tensor:
        """Hard widths k int64 [rows], each 1..dim, of the present parameters."""
        if self.training:
            self.refresh()
        return self.kept.long()

    def mean_width(self) -> Tensor:
        """Mean kept width over the rows, a scalar.

        While the widths are learned, its gradient is that of the expected width, the mean over
        the rows of sum_p p * softmax(h_i / T)_p.
        """
        if not self.live:
            return self.kept.float().mean()
        assert self.row_share is not None  # noqa: S101
        return self.row_share @ self.level_table().sum(-1)

    def saved_fraction(self, bytes_per_value: float = 4.0) -> float:
        """1 - sum k / (rows * dim), less the bytes that store k (1 a row, 2 from 256 dims on)."""
        width_bytes = 1 if self.dim < 256 else 2
        stored = float(self.widths().sum()) * bytes_per_value + self.rows * width_bytes
        return 1.0 - stored / (self.rows * self.dim * bytes_per_value)

    def _logits(self) -> Tensor:
        """h_i of each level, float32 [levels, dim]."""
        constants = _Constants([self])
        return constants.logits(constants.twins[0].layers())[0][0]


def level_masks(masks: Sequence[AdaptiveMask]) -> list[LevelMasks]:
    """The masks of all levels of several tables, none of them frozen; see `MaskGroup`."""
    return MaskGroup(masks).level_masks()


class MaskGroup:
    """Masks of several tables, computed in one pass through all their twins.

    It remembers what stays the same from step to step, as long as `fits` says so.
    """

    def __init__(self, masks: Sequence[AdaptiveMask]) -> None:
        """Group masks; none of them may be frozen."""
        self.masks = tuple(masks)
        self._versions = [mask.version for mask in masks]
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, mask in enumerate(masks):
            alike.setdefault((mask.dim, mask.hidden, mask.temperature), []).append(place)
        self._parts = [
            (places, _Constants([masks[place] for place in places])) for places in alike.values()
        ]

    def fits(self, masks: Sequence[AdaptiveMask]) -> bool:
        """Whether this group is of these masks with their present counts."""
        same = len(masks) == len(self.masks) and all(map(operator.is_, masks, self.masks))
        return same and [mask.version for mask in masks] == self._versions

    def flats(self) -> list[Tensor]:
        """The numbers of all twins, float32 [2 * masks, n] for each kind of mask."""
        return [torch.cat([twins.flat for twins in part.twins]) for _, part in self._parts]

    @torch.no_grad()
    def set_flats(self, flats: Sequence[Tensor]) -> None:
        """Give the twins numbers as `flats` returns them."""
        for (_, part), flat in zip(self._parts, flats, strict=True):
            for twins, numbers in zip(part.twins, torch.split(flat, 2), strict=True):
                twins.flat.copy_(numbers)

    def row_counts(self) -> list[Tensor]:
        """How many rows have each of the masks that `level_masks` returns, float32 [n, 1]."""
        return [part.rows for _, part in self._parts]

    def level_masks(self, flats: Sequence[Tensor] | None = None) -> list[LevelMasks]:
        """The masks of all levels, from the numbers of the twins.

        Args:
            flats: see `flats`; by default the present numbers.

        Returns:
            For each mask its levels, with the gradient of the softmax (straight-through).
            Masks of one kind share a tensor.
        """
        by_place: dict[int, LevelMasks] = {}
        given = self.flats() if flats is None else flats
        for (places, part), flat in zip(self._parts, given, strict=True):
            hard: Tensor = _StraightThrough.apply(part, flat)  # type: ignore[no-untyped-call]
            levels = len(hard) // len(places)
            for number, place in enumerate(places):
                by_place[place] = LevelMasks(hard, number * levels)
        return [by_place[place] for place in range(len(self.masks))]


class _Constants:
    """The constants that `_StraightThrough` computes with, for masks of one shape."""

    def __init__(self, masks: Sequence[AdaptiveMask]) -> None:
        self.twins = [mask.twins for mask in masks if mask.twins is not None]
        inputs = torch.nn.utils.rnn.pad_sequence(
            [mask.inputs for mask in masks if mask.inputs is not None], batch_first=True
        )
        # [2 * masks, most levels, features], h-AML before l-AML
        self.inputs = inputs.repeat_interleave(2, 0)
        self.gate = torch.sigmoid(inputs[..., :1])  # q_i is the z-scored log count
        self.leading_ones = masks[0].leading_ones
        self.temperature = masks[0].temperature
        counts = [mask.row_share * mask.rows for mask in masks if mask.row_share is not None]
        padded = torch.nn.utils.rnn.pad_sequence(counts, batch_first=True)
        self.rows = padded.reshape(-1, 1)  # of each level
        self.row_of_ones = torch.ones_like(self.inputs[:, :, :1]).transpose(1, 2)

    def logits(self, layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """h_i = alpha_i * hAML(s_i) + (1 - alpha_i) * lAML(s_i).

        Returns:
            h float32 [masks, levels, dim], and what each layer multiplies,
            [2 * masks, levels, ...].
        """
        values, out = [self.inputs], self.inputs
        for number, (weight, bias) in enumerate(layers):
            out = torch.baddbmm(bias, values[-1], weight)
            if number < len(layers) - 1:
                values.append(torch.relu_(out))
        high, low = out.reshape(-1, 2, *out.shape[1:]).unbind(1)
        return torch.lerp(low, high, self.gate), values


class _StraightThrough(torch.autograd.Function):
    """Hard masks of the mixed logits forward, the gradient of the relaxed ones backward.

    Written out because it runs once a step on small tensors, where recording the graph costs more
    than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, constants: _Constants, flat: Tensor) -> Tensor:
        """Masks float32 [masks * levels, dim]."""
        layers = constants.twins[0].layers(flat)
        logits, values = constants.logits(layers)
        soft = torch.softmax(logits.div_(constants.temperature), -1)
        ctx.constants = constants
        ctx.save_for_backward(soft, *values[1:], *(weight for weight, _ in layers))
        widths = logits.argmax(-1).add_(1)
        return constants.leading_ones.index_select(0, widths.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Through m_j = sum over p >= j of softmax_p, the gate, and the layers of the twins."""
        constants: _Constants = ctx.constants
        soft, *saved = ctx.saved_tensors
        values = [constants.inputs, *saved[: len(saved) // 2]]
        weights = saved[len(saved) // 2 :]
        chances = (gradient @ constants.leading_ones[1:].T).reshape_as(soft).mul_(soft)
        logits = torch.addcmul(chances, soft, chances.sum(-1, keepdim=True), value=-1)
        high = logits.div_(constants.temperature) * constants.gate
        step = torch.stack([high, logits - high], 1).flatten(0, 1)
        gradients = []  # from the last layer to the first, each bias before its weights
        for value, weight in zip(reversed(values), reversed(weights), strict=True):
            gradients += [torch.bmm(constants.row_of_ones, step).flatten(1)]
            gradients += [torch.bmm(value.transpose(1, 2), step).flatten(1)]
            if value is not constants.inputs:
                step = torch.bmm(step, weight.transpose(1, 2))
                step = torch.ops.aten.threshold_backward(step, value, 0)  # the ReLU's
        return None, torch.cat(gradients[::-1], 1)


class Twins(nn.Module):
    """h-AML and l-AML: two multi-layer perceptrons that share nothing but their input.

    All their numbers lie in one parameter, so that the masks of many tables cost few operations:
    `flat` float32 [2, weights and biases], h-AML first, layer by layer.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], temperature: float) -> None:
        super().__init__()
        self.shapes = list(itertools.pairwise((FREQUENCY_FEATURES, *hidden, dim)))
        size = sum(inputs * outputs + outputs for inputs, outputs in self.shapes)
        self.flat = nn.Parameter(torch.zeros(2, size))
        self.reset_parameters(temperature)

    def layers(self, flat: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Weights [n, inputs, outputs] and biases [n, 1, outputs] per layer, views of `flat`.

        Args:
            flat: [n, ...] numbers of several twins of this shape; its own [2, ...] by default.
        """
        flat = self.flat if flat is None else flat
        sizes = [size for i, o in self.shapes for size in (i * o, o)]
        parts = torch.split(flat, sizes, 1)
        return [
            (weight.reshape(-1, *shape), bias.unsqueeze(1))
            for weight, bias, shape in zip(parts[::2], parts[1::2], self.shapes, strict=True)
        ]

    @torch.no_grad()
    def reset_parameters(self, temperature: float) -> None:
        """Draw weights as nn.Linear does; the last bias favours the full width."""
        for weight, bias in self.layers():
            bound = weight.shape[1] ** -0.5
            weight.uniform_(-bound, bound)
            bias.uniform_(-bound, bound)
        last = self.layers()[-1][1]
        last.zero_()
        last[..., -1] = temperature * math.log(max(last.shape[-1] - 1, 1))


def frequency_levels(
    counts: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Rows of equal count on one level; beyond MAX_LEVELS counts, equal steps of log(1 + count).

    Args:
        counts: int64 [rows].

    Returns:
        float64 [levels] the mean log(1 + count) of each level's rows, ascending, and uint8 [rows]
        the level of each row.
    """
    distinct, place, sizes = np.unique(counts, return_inverse=True, return_counts=True)
    logs = np.log1p(distinct.astype(np.float64))
    if len(distinct) <= MAX_LEVELS:
        return logs, place.astype(np.uint8)
    steps = (logs - logs[0]) / (logs[-1] - logs[0]) * MAX_LEVELS
    _, level = np.unique(np.minimum(steps.astype(np.int64), MAX_LEVELS - 1), return_inverse=True)
    means = np.bincount(level, sizes * logs) / np.bincount(level, sizes)
    return means, level.astype(np.uint8)[place]


def frequency_features(
    logs: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The twins' input s for each level (a choice of this project).

    Args:
        logs: float64 [levels], ascending log(1 + count).
        sizes: int64 [levels], how many rows each level has.

    Returns:
        float32 [levels, 2]: log(1 + count), z-scored over the rows (0 when all are equal), and
        the share of rows below plus half the share of equal ones (ties share a percentile).
    """
    share = sizes / sizes.sum()
    mean = float(share @ logs)
    spread = math.sqrt(float(share @ (logs - mean) ** 2))
    scores = (logs - mean) / spread if len(logs) > 1 else np.zeros(1)
    percentile = np.cumsum(share) - share / 2
    return np.stack([scores, percentile], axis=1).astype(np.float32)


def _checked_counts(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    values = np.asarray(counts)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise SpecError(f"counts must be integers [rows], got {values.dtype} {list(values.shape)}")
    if values.min() < 0:
        raise SpecError(f"counts must not be negative, got {values.min()}")
    return values.astype(np.int64)
