"""Dimension selection: how many leading dimensions each table row keeps, by a rule or learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ondevice.errors import SpecError
from ondevice.models.layers.adaptive_mask import AdaptiveMask
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.interactions import VectorCrossNetwork
from ondevice.models.layers.soft_threshold import SoftThreshold
from ondevice.models.networks import ClickModel

Method = Literal["whole", "frequency", "prune", "amtl"]
METHODS: tuple[Method, ...] = get_args(Method)
LINEAR_READERS = ("dnn", "wide_deep")
# Which multiples of the price are tried, the highest first: logs differ by this much in what they
# can spare (docs/evidence/compression.md). A choice of this project.
PENALTY_STEPS = (10.0, 3.0, 1.0)

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Widths:
    """How kept widths are found. Every method ends with frozen widths of rows.

    Attributes:
        method: "whole": every row keeps all dimensions.
            "frequency": a rule, width ~ count ** alpha, before training (A. Ginart et al., "Mixed
            Dimension Embeddings", ISIT 2021, whose rule is by group; one width per row is a choice
            of this project).
            "prune": learned soft thresholds, then training goes on (S. Liu et al., "Learnable
            Embedding Sizes for Recommender Systems", ICLR 2021; see `SoftThreshold`).
            "amtl": learned only from frequency (see `AdaptiveMask`).
        keep: "frequency" and "prune": share of all dimensions that is kept.
        alpha: "frequency": the exponent; 0 gives every row the same width.
        penalty: "amtl": price of a kept dimension, lambda * mean width is added to the loss.
        tolerance: "amtl": validation AUC that may be lost for narrower rows: of the epochs within
            it of the best one, the narrowest is kept.
        warm: "amtl": learn widths on a trained model; otherwise from the first epoch on.
        raise_penalty: "amtl", `warm`: try PENALTY_STEPS times `penalty`, and keep the rows of the
            first price whose model validates no worse than the whole one (but for `tolerance`), or
            else those of the last. Each price is a training more.
        epochs: "amtl": how long to learn widths on a trained model, at most. "prune": how long to
            learn thresholds.

    Raises:
        SpecError: a setting out of range.
    """

    method: Method = "amtl"
    keep: float = 0.4
    alpha: float = 0.3
    penalty: float = 0.001
    tolerance: float = 0.0
    warm: bool = True
    raise_penalty: bool = False
    epochs: int = 2

    def __post_init__(self) -> None:
        faults = []
        if self.method not in METHODS:
            faults.append(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not 0 < self.keep <= 1:
            faults.append(f"keep must be above 0 and at most 1, got {self.keep}")
        if not 0 <= self.alpha <= 10:
            faults.append(f"alpha must be 0..10, got {self.alpha}")
        if not 0 <= self.penalty < math.inf:
            faults.append(f"penalty must not be negative, got {self.penalty}")
        if not 0 <= self.tolerance < 1:
            faults.append(f"tolerance must be 0 or more and below 1, got {self.tolerance}")
        if self.epochs < 1:
            faults.append(f"epochs must be at least 1, got {self.epochs}")
        if self.raise_penalty and (self.method != "amtl" or not self.warm):
            faults.append("raise_penalty needs masks of a trained model: method amtl, warm true")
        if faults:
            raise SpecError("widths: " + "; ".join(faults))


def frequency_widths(
    counts: Mapping[str, IntArray], dims: Mapping[str, int], keep: float, alpha: float
) -> dict[str, IntArray]:
    """Widths min(dim, max(1, round(scale * (1 + count) ** alpha))) with one scale for all tables.

    The scale is the largest one with which at most `keep` of all dimensions stay, or the smallest
    there is, one dimension a row. Rows that training never reads keep one dimension.

    Args:
        counts: per table int64 [rows], how often the training split reads each row.
        dims: per table the width of a whole row.
        keep: share of the dimensions to keep.
        alpha: exponent.
    """
    powers = {name: (1.0 + values) ** alpha for name, values in counts.items()}

    def widths(scale: float) -> dict[str, IntArray]:
        by_table = {}
        for name, values in counts.items():
            rounded = np.rint(scale * powers[name]).clip(1, dims[name]).astype(np.int64)
            by_table[name] = np.where(values > 0, rounded, 1)
        return by_table

    budget = keep * sum(len(values) * dims[name] for name, values in counts.items())
    low, high = 0.0, float(max(dims.values())) + 1.0
    if sum(int(item.sum()) for item in widths(high).values()) <= budget:
        return widths(high)
    for _ in range(60):  # bisection: as fine as a double
        middle = (low + high) / 2
        if sum(int(item.sum()) for item in widths(middle).values()) <= budget:
            low = middle
        else:
            high = middle
    return widths(low)


@torch.no_grad()
def pruned_widths(model: ClickModel, keep: float) -> dict[str, IntArray]:
    """Widths that keep the largest entries of all tables together.

    Of |v| - sigmoid(s), what a row's threshold leaves of an entry, the largest `keep` of all
    tables count; a row's width is how many of them it has, at least 1.
    """
    remainders = {}
    for name, table in zip(model.fields, model.field_tables(), strict=True):
        if table.threshold is None:
            raise SpecError(f"field {name!r} has no thresholds; attach_thresholds comes first")
        limit = torch.sigmoid(table.threshold.thresholds)
        remainders[name] = (table.weight.abs() - limit).numpy(force=True)
    sizes = sum(values.size for values in remainders.values())
    count = max(1, int(keep * sizes))
    joined = np.concatenate([values.ravel() for values in remainders.values()])
    bar = max(0.0, float(np.partition(joined, sizes - count)[sizes - count]))
    return {
        name: ((values >= bar) & (values > 0)).sum(1).clip(1).astype(np.int64)
        for name, values in remainders.items()
    }


def attach_thresholds(model: ClickModel) -> None:
    """Give every field's table a SoftThreshold."""
    for table in model.field_tables():
        table.threshold = SoftThreshold(table.spec.rows).to(table.weight.device)


def detach_thresholds(model: ClickModel) -> None:
    """Take the thresholds away; the weights stay as they are."""
    for table in model.field_tables():
        table.threshold = None


def attach_widths(model: ClickModel, widths: Mapping[str, IntArray]) -> None:
    """Freeze widths of rows, int64 [rows] of each field named; thresholds go. Raises SpecError."""
    for name, row_widths in widths.items():
        table = model.embedding(name)
        table.threshold = None
        mask = AdaptiveMask.from_widths(row_widths, table.spec.row_dim)
        table.mask = mask.to(table.weight.device).train(table.training)


@torch.no_grad()
def order_dimensions(model: ClickModel, counts: Mapping[str, IntArray]) -> bool:
    """Turn tables so that their leading dimensions hold most; predictions stay the same.

    Rows are cut at their end, and training by itself gives no dimension a reason to come first.
    What a network allows depends on how it reads the vectors (a choice of this project):

    - "dnn", "wide_deep": only through a linear layer, so each table is rotated to the principal
      axes of its rows, weighted by how often training reads them.
    - "deepfm": also through inner products of the fields' vectors, which one rotation of all
      tables leaves as they are; its axes are those of all rows together.
    - "dcn_v1": also through cross layers, which give x times a number, so a rotation of x only
      rotates what they give; each table is rotated as for "dnn".
    - "dcn": also entry by entry, so the dimensions of each table are only sorted.
    - "din": left as it is, as are tables of which each network needs something else.

    Args:
        model: changed in place; the layers that read the vectors are turned back.
        counts: per field int64 [rows].

    Returns:
        Whether anything was turned.
    """
    tables = {name: model.embedding(name) for name in model.fields}
    turns = _turns(model.settings.kind, tables, counts)
    if turns is None:
        return False
    readers = [*model.fields, *model.histories.values()]  # as forward_logits joins them
    parts = [
        turns[name]
        for name in readers
        for _ in range(tables[name].spec.dim // tables[name].spec.row_dim)  # 1, but in a "concat"
    ]
    _turn_readers(model, torch.block_diag(*parts))  # type: ignore[no-untyped-call]
    for name, table in tables.items():
        table.weight.copy_(table.weight @ turns[name])
    return True


def _turns(
    kind: str, tables: Mapping[str, Embedding], counts: Mapping[str, IntArray]
) -> dict[str, Tensor] | None:
    """Orthogonal [row_dim, row_dim] of each table, see `order_dimensions`; None for none."""
    moments = {name: _moments(table, counts[name]) for name, table in tables.items()}
    products = {name for name, table in tables.items() if table.spec.fuse == "mul"}
    match kind:
        case "dnn" | "wide_deep" | "dcn_v1":
            return {
                # no other turn than a permutation commutes with a product of rows
                name: _sorting(item) if name in products else _principal_axes(item)
                for name, item in moments.items()
            }
        case "deepfm":
            layouts = {(table.spec.dim, table.spec.row_dim) for table in tables.values()}
            if products or len(layouts) > 1:  # a rotation of one is none of the others
                return None
            return dict.fromkeys(tables, _principal_axes(torch.stack([*moments.values()]).sum(0)))
        case "dcn":
            return {name: _sorting(item) for name, item in moments.items()}
    return None


def _moments(table: Embedding, counts: IntArray) -> Tensor:
    """Second moments [row_dim, row_dim] of a table's rows, each as often as training reads it."""
    weight = table.weight.detach()
    share = torch.from_numpy(counts).to(weight.device, weight.dtype).unsqueeze(1)
    return (weight * share).T @ weight


def _principal_axes(moments: Tensor) -> Tensor:
    """Orthogonal [row_dim, row_dim], the strongest axis first."""
    axes: Tensor = torch.linalg.eigh(moments.double()).eigenvectors
    return axes.flip(1).to(moments.dtype)


def _sorting(moments: Tensor) -> Tensor:
    """The permutation [row_dim, row_dim] that puts the strongest dimension first."""
    order = moments.diagonal().argsort(descending=True, stable=True)
    return torch.eye(len(order)).to(moments)[:, order]


def _turn_readers(model: ClickModel, turn: Tensor) -> None:
    """Adapt the layers that read all vectors in a row, x, to x @ turn (orthogonal).

    What cross layers give is turned too; for those of a "dcn" the turn is a permutation.
    """
    width = len(turn)
    first, last = model.network[0], model.network[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)  # noqa: S101 (see ClickModel)
    if first is not last or model.cross is None:
        first.weight.copy_(first.weight @ turn)
        if model.cross is None:
            return
    else:  # no hidden layers: x itself is read beside the crossed vectors
        last.weight[:, width:] = last.weight[:, width:] @ turn
    last.weight[:, :width] = last.weight[:, :width] @ turn
    if isinstance(model.cross, VectorCrossNetwork):
        for parameter in model.cross.parameters():  # [1, width] and [width]
            parameter.copy_(parameter @ turn)
        return
    for layer in model.cross.layers:
        linear = [item for item in layer.modules() if isinstance(item, nn.Linear)]
        reads, gives = linear[0], linear[-1]  # the same one, unless its matrix is of a low rank
        reads.weight.copy_(reads.weight @ turn)
        gives.weight.copy_(turn.T @ gives.weight)
        gives.bias.copy_(gives.bias @ turn)
