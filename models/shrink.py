"""Shrink a finished model: fit binary codes and cut, rotated rows to its trained tables.

Nothing is trained: binary-code rows are the least-squares fit to the table they replace, and the
rows of a table are cut in the coordinates of its principal axes, where the last ones matter least.
Both, and the rules that choose sizes, are choices of this project.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.codecs import BITS, Codec, quantise
from ondevice.converters.one_thread import one_thread
from ondevice.converters.source.on_cpu import new_tensors_on_cpu
from ondevice.converters.verify.report import FittedTable
from ondevice.errors import InputError, SpecError, needs_extra
from ondevice.lookup import table_rows
from ondevice.models.layers.adaptive_mask import AdaptiveMask
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.replacements import FittedBag, FittedEmbedding, RotatedEmbedding
from ondevice.spec import LookupSpec, binary_code_spec, full_spec

if TYPE_CHECKING:  # large: a conversion without fitting does without
    from scipy import sparse

# Odd, so that (id * it) mod 2**S is one to one: neighbouring IDs must not share their high blocks.
MULTIPLIER = 0x9E3779B97F4A7C15
SOLVER_STEPS = 200
SOLVER_TOLERANCE = 1e-6
BISECTIONS = 60

FloatArray = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Table = nn.Embedding | nn.EmbeddingBag | Embedding
_FORWARDS = (nn.Embedding.forward, nn.EmbeddingBag.forward, Embedding.forward)


@dataclass(frozen=True)
class _Settings:
    """Settings of compress_embeddings, checked."""

    row_ratio: float | None
    width_error: float | None
    rotate: bool
    codec: Codec
    min_rows: int

    def __post_init__(self) -> None:
        faults = []
        if self.row_ratio is None and self.width_error is None:
            faults.append("give row_ratio, width_error or both")
        if self.row_ratio is not None and not 1 < self.row_ratio < math.inf:
            faults.append(f"row_ratio must be above 1, got {self.row_ratio}")
        if self.width_error is not None and not 0 < self.width_error < 1:
            faults.append(f"width_error must be between 0 and 1, got {self.width_error}")
        if self.codec not in BITS:
            faults.append(f"unknown codec {self.codec!r}; choose from {', '.join(BITS)}")
        if self.min_rows < 1:
            faults.append(f"min_rows must be at least 1, got {self.min_rows}")
        if faults:
            raise SpecError("compress_embeddings: " + "; ".join(faults))


@one_thread()
@new_tensors_on_cpu()
def compress_embeddings(
    module: nn.Module,
    *,
    row_ratio: float | None = None,
    width_error: float | None = None,
    rotate: bool = True,
    counts: Mapping[str, npt.ArrayLike] | None = None,
    codec: Codec = "q8",
    min_rows: int = 1000,
    only: Sequence[str] = (),
) -> tuple[nn.Module, list[FittedTable]]:
    """A copy of a trained module with smaller embedding tables fitted to its own; no training.

    Every `nn.Embedding`, `nn.EmbeddingBag` and full table of `ondevice.models` is replaced; modules
    that share a table share the new one. The new tables are trainable: fine-tuning may follow. With
    binary codes, IDs outside the table are no error any more: each has some vector.

    Args:
        module: trained; not changed. Its other parameters are copied.
        row_ratio: replace each table by a binary-code one with at least this many times fewer
            rows, fitted by weighted least squares.
        width_error: cut each row to as few dimensions as keep the table's relative root mean
            square error within this, such as 0.1.
        rotate: cut in the coordinates of the table's principal axes, turned back by a small matrix
            behind the lookup (conversion multiplies it into the next layer where it can); else
            cut the dimensions as they are.
        counts: how often training reads each row, int [rows] by module path; errors are
            weighted by count + 1. Uniform where missing; those of modules that share a table add
            up.
        codec: of the written tables; only the report uses it.
        min_rows: smaller tables stay as they are.
        only: module paths to compress; all by default.

    Raises:
        SpecError: contradicting settings, no embedding module, or a path in `only` or `counts` that
            names no embedding.
        InputError: counts of another shape, or a table with values that are not finite.
    """
    settings = _Settings(row_ratio, width_error, rotate, codec, min_rows)
    memo: dict[int, Any] = {}
    report: list[FittedTable] = []
    for sharing in _tables_by_weight(module, {*only, *(counts or {})}):
        if only and not set(only) & set(sharing):
            continue
        path, child = next(iter(sharing.items()))
        reasons = [_reason_to_keep(user, settings) for user in sharing.values()]
        if reason := next(filter(None, reasons), None):
            report.append(_unchanged(path, child, reason))
            continue
        new, entry = _fit(path, child, _weights(sharing, counts or {}), settings)
        report.append(entry)
        new.train(child.training)
        for user in sharing.values():
            memo[id(user)] = new
            if isinstance(user, nn.EmbeddingBag):
                memo[id(user)] = FittedBag(new, user).train(user.training)
    return copy.deepcopy(module, memo), report


def _tables_by_weight(module: nn.Module, named: set[str]) -> list[dict[str, Table]]:
    """The module's embeddings by path, those that share a trained weight together.

    Args:
        module: the trained module.
        named: paths that must be embeddings of it.

    Raises:
        SpecError: the module has no embedding, or one of the paths names none.
    """
    embeddings = {
        path: child
        for path, child in module.named_modules(remove_duplicate=False)
        if isinstance(child, Table)
    }
    if unknown := sorted(named - set(embeddings)):
        known = ", ".join(embeddings) or "none"
        raise SpecError(f"no embedding {', '.join(unknown)}; the module's embeddings are: {known}")
    if not embeddings:
        raise SpecError(
            "compress_embeddings: the module has no nn.Embedding and no nn.EmbeddingBag; tables "
            "that forward indexes by itself cannot be replaced"
        )
    users: dict[int, dict[str, Table]] = {}
    for path, child in embeddings.items():
        weight = child._parameters.get("weight", child)  # a computed weight is new at each look
        users.setdefault(id(weight), {})[path] = child
    return list(users.values())


def _reason_to_keep(child: Table, settings: _Settings) -> str | None:
    weight = child.weight
    if isinstance(child, FittedEmbedding):
        return "kept: compressed already"
    if type(child).forward not in _FORWARDS:
        return "kept: a subclass with a forward of its own"
    if "weight" not in child._parameters:
        return "kept: its weight is computed"
    if weight.dtype != torch.float32:
        return "kept: not float32"
    if not isinstance(child, Embedding) and child.max_norm is not None:
        return "kept: it has max_norm"
    if isinstance(child, Embedding) and (child.spec.scheme != "full" or child.mask is not None):
        return "kept: compressed already"
    if len(weight) < settings.min_rows:
        return f"kept: under {settings.min_rows:,} rows"
    if settings.row_ratio is None and weight.shape[1] == 1:
        return "kept: one dimension"
    return None


def _unchanged(path: str, child: Table, reason: str) -> FittedTable:
    """The line of the report for a table that stays as it is."""
    rows, dim = (int(size) for size in child.weight.shape)
    count = 4 * rows * dim
    return FittedTable(path, rows, dim, reason, rows, float(dim), count, count, 0.0, 0.0)


def _weights(sharing: Mapping[str, Table], counts: Mapping[str, npt.ArrayLike]) -> FloatArray:
    """How much the error of each row counts, float64 [rows]; counts of all users add up."""
    rows = len(next(iter(sharing.values())).weight)
    total = np.ones(rows)
    for path in sharing:
        if path not in counts:
            continue
        values = np.asarray(counts[path])
        if values.shape != (rows,) or values.dtype.kind not in "iu" or values.min() < 0:
            raise InputError(f"counts of {path!r} must be integers >= 0 of shape [{rows}]")
        total += values
    return total


def _fit(
    path: str, child: Table, weights: FloatArray, settings: _Settings
) -> tuple[FittedEmbedding, FittedTable]:
    """The smaller table that replaces an embedding, and its line of the report.

    With a row ratio, the rows of a binary-code table are fitted by least squares. With a width
    error, each row is then cut (in the coordinates of the principal axes, if rotated), and the
    remaining values are fitted again.

    Args:
        path: of the module, for errors and the report.
        child: the embedding, its weight float32 [rows, dim].
        weights: how much the error of each of its rows counts, float64 [rows].
        settings: how to compress.

    Raises:
        InputError: values that are not finite.
        SpecError: more compression of rows than binary codes reach.
    """
    table = child.weight.detach().cpu().numpy().astype(np.float64)
    if wrong := np.count_nonzero(~np.isfinite(table)):
        raise InputError(f"table {path!r}: {wrong} of {table.size} values are NaN or infinite")
    rows, dim = table.shape
    old = _old_spec(child, table)
    padding = old.padding_id
    if padding is not None and 0 <= padding < rows:
        weights = weights.copy()
        weights[padding] = 0  # nobody reads it
    spec, axes = old, np.eye(dim)
    system = None
    if settings.row_ratio is not None:
        spec = _code_spec(rows, dim, settings.row_ratio, padding)
        system = _system(spec, rows, weights)
    target, widths = table, None
    values = target if system is None else _least_squares(system, target, weights)
    if settings.width_error is not None:
        importance = weights if system is None else np.asarray(abs(system).power(2).sum(0)).ravel()
        if settings.rotate:
            axes = _principal_axes(values, importance)
        widths = _widths(values @ axes, importance, settings.width_error)
        # without a rotation the vectors keep their width, so the table does too
        most = int(widths.max()) if settings.rotate else dim
        axes, target = axes[:, :most], table @ axes[:, :most]
        spec = replace(spec, dim=most)
        if system is None:
            values = np.where(np.arange(most) < widths[:, None], target, 0.0)
        else:
            values = _least_squares(system, target, weights, widths)
    new = _module(spec, values, widths, axes if settings.rotate and widths is not None else None)
    new.to(child.weight.device)
    new.sparse = bool(getattr(child, "sparse", False))
    entry = _report_line(path, table, weights, new, settings)
    return new, entry


def _old_spec(child: Table, table: FloatArray) -> LookupSpec:
    """The lookup of a full table; a padding ID counts as one if its vector is zero."""
    if isinstance(child, Embedding):
        return child.spec
    rows, dim = table.shape
    if isinstance(child, nn.EmbeddingBag):  # which leaves padding out by itself
        return full_spec(rows, dim)
    padding = child.padding_idx if isinstance(child.padding_idx, int) else None
    if padding is not None and table[padding].any():
        padding = None
    return full_spec(rows, dim, padding_id=padding)


def _code_spec(rows: int, dim: int, ratio: float, padding: int | None) -> LookupSpec:
    """The largest blocks whose rows are at most rows / ratio; every ID keeps a code of its own."""
    bits = max(1, math.ceil(math.log2(rows)))
    specs = [
        binary_code_spec(dim, code_bits=bits, t=t, multiplier=MULTIPLIER, padding_id=padding)
        for t in range(bits, 0, -1)
    ]
    fitting = [spec for spec in specs if spec.rows <= rows / ratio]
    if not fitting:
        smallest = rows / min(spec.rows for spec in specs)
        raise SpecError(
            f"row_ratio {ratio:g} is too large for {rows:,} rows; binary codes reach {smallest:.0f}"
        )
    return fitting[0]


def _system(spec: LookupSpec, rows: int, weights: FloatArray) -> sparse.csr_array:
    """Which rows of the new table an ID adds up, scaled by the root of its weight."""
    with needs_extra("fitting tables", "train"):
        from scipy import sparse
    columns = table_rows(spec, np.arange(rows, dtype=np.int64))
    per_id = columns.shape[1]
    values = np.repeat(np.sqrt(weights), per_id)
    starts = np.arange(0, rows * per_id + 1, per_id)
    return sparse.csr_array((values, columns.ravel(), starts), shape=(rows, spec.rows))


def _least_squares(
    system: sparse.csr_array,
    target: FloatArray,
    weights: FloatArray,
    widths: Counts | None = None,
) -> FloatArray:
    """Rows that, added up, are nearest to the target; a row keeps its first widths[i] values.

    Columns are brought to length 1 for the solver: where counts differ by orders of magnitude, it
    would stop far from the best fit.
    """
    with needs_extra("fitting tables", "train"):
        from scipy import sparse
        from scipy.sparse.linalg import lsqr
    scaled = target * np.sqrt(weights)[:, None]
    lengths = np.sqrt(np.asarray(system.power(2).sum(axis=0)).ravel())
    lengths[lengths == 0] = 1.0
    system = sparse.csr_array(system @ sparse.diags_array(1 / lengths))
    values = np.zeros((system.shape[1], target.shape[1]))
    for column in range(target.shape[1]):
        rows = np.arange(len(values)) if widths is None else np.flatnonzero(widths > column)
        part = system if len(rows) == len(values) else system[:, rows]
        solution = lsqr(
            part,
            scaled[:, column],
            atol=SOLVER_TOLERANCE,
            btol=SOLVER_TOLERANCE,
            iter_lim=SOLVER_STEPS,
        )
        values[rows, column] = solution[0] / lengths[rows]
    return values


def _principal_axes(values: FloatArray, importance: FloatArray) -> FloatArray:
    """Orthogonal axes [dim, dim] as columns, by descending weighted energy."""
    _, axes = np.linalg.eigh(values.T @ (values * importance[:, None]))
    axes = axes[:, ::-1]
    largest = np.abs(axes).argmax(axis=0)
    signs = np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    turned: FloatArray = axes * signs  # of two opposite axes, always the same
    return turned


def _widths(values: FloatArray, importance: FloatArray, error: float) -> Counts:
    """The fewest leading dimensions per row, at least 1, within the error budget for all rows.

    A row's width k minimises (weighted energy beyond k) + price * k; the price is the largest that
    the budget allows, found by bisection (a Lagrange multiplier).
    """
    energy = values**2 * importance[:, None]
    beyond = np.cumsum(energy[:, ::-1], axis=1)[:, ::-1]
    lost = np.concatenate([beyond[:, 1:], np.zeros((len(values), 1))], axis=1)  # after k = 1..dim
    budget = error**2 * energy.sum()
    steps = np.arange(1, values.shape[1] + 1)

    def chosen(price: float) -> Counts:
        places: Counts = (lost + price * steps).argmin(axis=1)
        return places

    low, high = 0.0, float(energy.sum()) or 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        places = chosen(middle)
        if lost[np.arange(len(lost)), places].sum() <= budget:
            low = middle
        else:
            high = middle
    return chosen(low) + 1


def _module(
    spec: LookupSpec, values: FloatArray, widths: Counts | None, axes: FloatArray | None
) -> FittedEmbedding:
    mask = None
    if widths is not None and widths.min() < spec.dim:
        mask = AdaptiveMask.from_widths(widths, spec.dim)
    new: FittedEmbedding
    if axes is None:
        new = FittedEmbedding(spec, mask=mask)
    else:
        rotation = torch.from_numpy(np.ascontiguousarray(axes.T, dtype=np.float32))
        new = RotatedEmbedding(spec, rotation, mask=mask)
    with torch.no_grad():
        new.weight.copy_(torch.from_numpy(values.astype(np.float32)))
    return new


def _report_line(
    path: str, table: FloatArray, weights: FloatArray, new: Embedding, settings: _Settings
) -> FittedTable:
    """A line of the report: sizes and errors of the new table, exact and rounded to the codec.

    Args:
        path: of the module.
        table: the original float64 [rows, dim].
        weights: how much the error of each row counts, float64 [rows].
        new: what replaces it; its weight is replaced for a moment and put back.
        settings: how it was compressed.
    """
    rows, dim = table.shape
    widths = None if new.mask is None else new.mask.kept.cpu().numpy().astype(np.int64)
    stored = quantise(new.weight.detach().cpu().numpy(), settings.codec, widths=widths)
    values = stored.rows * stored.dim if widths is None else int(widths.sum())
    method = f"{new.spec.kind}, {new.spec.rows:,} rows"
    if settings.width_error is not None:
        method += f", {values / stored.rows:.1f} of {dim} dimensions"
    rotation = new.rotation if isinstance(new, RotatedEmbedding) else None
    rotation_bytes = 0 if rotation is None else 4 * rotation.numel()
    count = values * BITS[settings.codec] // 8 + rotation_bytes
    errors = [_relative_error(table, weights, new)]
    original = new.weight.detach().clone()
    with torch.no_grad():
        new.weight.copy_(torch.from_numpy(stored.dequantise()))
        errors.append(_relative_error(table, weights, new))
        new.weight.copy_(original)
    return FittedTable(
        path, rows, dim, method, stored.rows, values / stored.rows, 4 * rows * dim, count, *errors
    )


@torch.inference_mode()
def _relative_error(table: FloatArray, weights: FloatArray, new: Embedding) -> float:
    device = new.weight.device
    lost = total = 0.0
    for start in range(0, len(table), 2**16):
        ids = torch.arange(start, min(start + 2**16, len(table)), device=device)
        got = new(ids).cpu().numpy().astype(np.float64)
        part = slice(start, start + len(ids))
        lost += float((((got - table[part]) ** 2).sum(1) * weights[part]).sum())
        total += float(((table[part] ** 2).sum(1) * weights[part]).sum())
    return math.sqrt(lost / total) if total else 0.0
