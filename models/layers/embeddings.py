"""Embedding layers that execute a LookupSpec: plain tables, hashes, binary codes and hybrids.

Sources of the schemes are named where `ondevice.spec` makes their specifications.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ondevice.errors import InputError, SpecError
from ondevice.lookup import NO_ROW
from ondevice.models.layers.adaptive_mask import AdaptiveMask
from ondevice.models.layers.joint_tables import JointTables
from ondevice.models.layers.rounding import TableRounding
from ondevice.models.layers.soft_threshold import SoftThreshold
from ondevice.spec import (
    HIGH_BITS,
    Fuse,
    LookupSpec,
    Pooling,
    Strategy,
    binary_code_spec,
    full_spec,
    hashing_spec,
    multi_hash_spec,
    quotient_remainder_spec,
)

DEFAULT_STD = 0.01  # of the output's entries at the start; a choice of this project


class RowIndex(nn.Module):
    """Row numbers of IDs under a LookupSpec: int64 [...] -> int64 [..., rows_per_id].

    NO_ROW stands where an ID of the head reads fewer.
    """

    shifts: Tensor
    masks: Tensor
    weights: Tensor
    offsets: Tensor
    factors: Tensor
    moduli: Tensor
    divisors: Tensor

    def __init__(self, spec: LookupSpec) -> None:
        super().__init__()
        self.spec = spec
        pieces = spec.pieces(64)
        longest = max((len(block) for block in pieces), default=0)
        table = np.zeros((3, len(pieces), longest), dtype=np.int64)  # a mask of 0 adds nothing
        for number, block in enumerate(pieces):
            for place, piece in enumerate(block):
                table[:, number, place] = piece.shift, piece.mask, piece.weight
        offsets = [block.offset for block in spec.blocks]
        offsets += [residue.offset for residue in spec.residues]
        residues = {
            "factors": [_signed(residue.multiplier) for residue in spec.residues],
            "moduli": [residue.modulus for residue in spec.residues],
            "divisors": [residue.divisor for residue in spec.residues],
        }
        # constants of the specification: not in the state, and real even under a meta device
        for name, values in zip(("shifts", "masks", "weights"), table, strict=True):
            self.register_buffer(name, _constant(values), persistent=False)
        for name, numbers in (("offsets", offsets), *residues.items()):
            self.register_buffer(name, _constant(np.array(numbers, np.int64)), persistent=False)
        self._factor = _signed(spec.multiplier)
        self._plain = all(residue.multiplier == 1 for residue in spec.residues)
        self._high = any(residue.bits == HIGH_BITS for residue in spec.residues)
        self._divides = any(residue.divisor > 1 for residue in spec.residues)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows that each ID reads; a padding ID yields legal rows that nobody reads.

        Raises:
            InputError: ids are not int64, or out of range in a full table without an OOV row.
        """
        if ids.dtype != torch.int64:
            raise InputError(f"IDs must be int64, got {ids.dtype}")
        if self.spec.scheme == "full":
            return self._full(ids).unsqueeze(-1)
        rows = self._hashed(ids) if self.spec.residues else self._coded(ids)
        if not self.spec.head:
            return rows
        own = ((ids >= 0) & (ids < self.spec.head)).unsqueeze(-1)
        return torch.where(own, self._own(ids), rows)

    def _own(self, ids: Tensor) -> Tensor:
        """Rows of IDs of the head."""
        count = self.spec.rows_per_id
        if self.spec.fuse == "concat":
            return ids.unsqueeze(-1) * count + torch.arange(count, device=ids.device)
        return functional.pad(ids.unsqueeze(-1), (0, count - 1), value=NO_ROW)

    def _hashed(self, ids: Tensor) -> Tensor:
        code = ids.unsqueeze(-1)
        if not self._plain:
            code = code * self.factors  # wraps modulo 2**64
        if self._high:  # the shift is arithmetic, the mask drops the copies of the sign
            code = (code >> (64 - HIGH_BITS)).bitwise_and_(2**HIGH_BITS - 1)
        rows = code.remainder(self.moduli)  # floored
        if self._divides:
            rows = torch.div(rows, self.divisors, rounding_mode="floor")
        return rows.add_(self.offsets)

    def _coded(self, ids: Tensor) -> Tensor:
        code = ids if self._factor == 1 else ids * self._factor  # wraps modulo 2**64
        if self.shifts.shape[1] == 1:
            # the shift is arithmetic, the mask drops the copies of the sign
            values = (code.unsqueeze(-1) >> self.shifts[:, 0]).bitwise_and_(self.masks[:, 0])
            return values.add_(self.offsets)
        values = (code[..., None, None] >> self.shifts).bitwise_and_(self.masks)
        return values.mul_(self.weights).sum(-1).add_(self.offsets)

    def _full(self, ids: Tensor) -> Tensor:
        spec = self.spec
        if not ids.numel():
            return ids
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low >= 0 and high < spec.rows:
            return ids
        outside = (ids < 0) | (ids >= spec.rows)
        rows = ids.masked_fill(outside, spec.oov_row or 0)
        if spec.oov_row is None:
            faulty = outside if spec.padding_id is None else outside & (ids != spec.padding_id)
            if bool(faulty.any()):
                raise InputError(
                    f"ID {int(ids[faulty][0])} is outside 0..{spec.rows - 1} "
                    "and the table has no out-of-vocabulary row"
                )
        return rows


class Embedding(nn.Module):
    """A trainable table [rows, row_dim] read as its LookupSpec says.

    In an ONNX export, a lookup is one node `ondevice::Lookup` with inputs ids, weight and, for a
    masked table, the widths; its attribute `spec` is the specification's JSON.

    Attributes:
        spec: the lookup specification.
        weight: float32 [rows, row_dim].
        mask: kept widths of the rows, or None when every row is whole.
        threshold: what prunes entries of the rows while that is learned, else None.
        rounding: how rows are rounded while training prepares for a codec, else None.
        sparse: whether the weight's gradient is a sparse tensor.
    """

    mask: AdaptiveMask | None
    threshold: SoftThreshold | None
    rounding: TableRounding | None

    def __init__(
        self,
        spec: LookupSpec,
        *,
        std: float = DEFAULT_STD,
        mask: AdaptiveMask | None = None,
        sparse: bool = False,
    ) -> None:
        """Start with normal weights such that each output entry has standard deviation `std`.

        A sum of n rows starts from std / sqrt(n), a mean from std * sqrt(n), a product from
        std ** (1 / n), and a concatenation or a row of its own (head) from std (a choice of this
        project).

        Raises:
            SpecError: the mask is for another table shape.
        """
        super().__init__()
        self.spec = spec
        self.index = RowIndex(spec)
        self.weight = nn.Parameter(torch.empty(spec.rows, spec.row_dim))
        self.mask = mask
        self.threshold = None
        self.rounding = None
        self.sparse = sparse
        if mask is not None and (mask.rows, mask.dim) != (spec.rows, spec.row_dim):
            raise SpecError(
                f"a mask for {spec.rows} rows of {spec.row_dim} is needed, "
                f"got {mask.rows} rows of {mask.dim}"
            )
        self.reset_parameters(std)

    @torch.no_grad()
    def reset_parameters(self, std: float = DEFAULT_STD) -> None:
        """Draw new weights; a full table's padding row is zero."""
        spec = self.spec
        count = spec.rows_per_id
        spread = {"sum": std * count**-0.5, "mean": std * count**0.5, "mul": std ** (1 / count)}
        self.weight.normal_(0.0, spread.get(spec.fuse, std))
        if spec.head:
            self.weight[: spec.head_rows].normal_(0.0, std)
        if spec.scheme == "full" and spec.padding_id in range(spec.rows):
            self.weight[spec.padding_id].zero_()

    def rows(self, ids: Tensor) -> Tensor:
        """Row numbers int64 [..., rows_per_id] of ids int64 [...], or NO_ROW. Raises InputError."""
        rows: Tensor = self.index(ids)
        return rows

    def forward(self, ids: Tensor, pooling: Pooling | None = None) -> Tensor:
        """Vectors float32 [..., dim] of ids int64 [...].

        Args:
            ids: int64 [...].
            pooling: "sum" or "mean" of the vectors over the last axis of ids, padding left out
                (the mean of nothing is zero); "none" for all vectors; by default what the
                specification says. So a history reads the same table as its item.

        Raises:
            InputError: ids are not int64, or out of range in a full table without an OOV row.
            SpecError: pooling without a padding ID.
        """
        spec = self.spec if pooling is None else replace(self.spec, pooling=pooling)
        if torch.onnx.is_in_onnx_export():
            return self._export(ids, spec)
        return self.vectors(ids, pooling=spec.pooling)

    def vectors(
        self, ids: Tensor, levels: Tensor | None = None, pooling: Pooling | None = None
    ) -> Tensor:
        """As `forward`, with the level masks of this step if they are known (see `MaskGroup`)."""
        return JointTables([self]).read([ids], [levels], pooling)[0]

    def train(self, mode: bool = True) -> Embedding:
        """Switch mode; leaving training mode refreshes the widths and the codec's scales."""
        leaving = self.training and not mode
        super().train(mode)
        if leaving:
            self.refresh_rounding()
        return self

    def refresh_rounding(self) -> None:
        """Take the codec's scales of the present weights, if rows are rounded. Raises SpecError."""
        if self.rounding is not None:
            self.rounding.refresh(self.weight, None if self.mask is None else self.mask.widths())

    @property
    def hybrid(self) -> bool:
        """Whether IDs of the head read one row and the others several."""
        spec = self.spec
        return bool(spec.head) and spec.fuse != "concat" and spec.rows_per_id > 1

    def finish(
        self,
        values: Tensor,
        rows: Tensor,
        absent: Tensor | None,
        padding: Tensor | None,
        pooling: Pooling,
    ) -> Tensor:
        """What follows once the rows are read.

        Args:
            values: float32 [n, ..., row_dim], the masked rows.
            rows: int64 [n, ...], their numbers.
            absent: bool [n, ...] where an ID reads fewer rows, of a hybrid; else None.
            padding: bool [...] where an ID is the padding ID; None if nowhere.
            pooling: see `forward`.

        Returns:
            float32 [..., dim].
        """
        if self.threshold is not None:
            values = self.threshold(values, rows, self.sparse)
        if self.rounding is not None:
            values = self.rounding(values, rows)
        vectors = self._fuse(values, absent)
        if padding is not None:
            vectors = vectors.masked_fill(padding.unsqueeze(-1), 0.0)
        if pooling == "none":
            return vectors
        total = vectors.sum(-2)
        if pooling == "sum":
            return total
        if padding is None:
            return total / max(1, vectors.shape[-2])
        return total / (~padding).sum(-1, keepdim=True).clamp(min=1)

    def _fuse(self, values: Tensor, absent: Tensor | None) -> Tensor:
        """Combine rows float32 [n, ..., row_dim] into vectors [..., dim]."""
        fuse = self.spec.fuse
        if fuse == "concat":
            return values.movedim(0, -2).flatten(-2)
        if len(values) == 1:
            return values[0]
        if absent is not None:
            total = values.masked_fill(absent.unsqueeze(-1), 0.0).sum(0)
            return total if fuse == "sum" else total / (~absent).sum(0).unsqueeze(-1)
        if fuse == "mul":
            return reduce(torch.mul, values.unbind(0))
        return values.sum(0) if fuse == "sum" else values.mean(0)

    def _export(self, ids: Tensor, spec: LookupSpec) -> Tensor:
        inputs = [ids, self.weight] + ([] if self.mask is None else [self.mask.kept])
        return torch.onnx.ops.symbolic(
            "ondevice::Lookup",
            inputs,
            {"spec": spec.to_json()},
            dtype=torch.float32,
            shape=(*(ids.shape if spec.pooling == "none" else ids.shape[:-1]), spec.dim),
            version=1,
        )

    def extra_repr(self) -> str:
        """The table's shape and scheme, for printing."""
        return f"{self.spec.kind}, rows={self.spec.rows}, dim={self.spec.dim}"


class FullEmbedding(Embedding):
    """A plain table: one row per ID, with a padding ID and a row for IDs out of range."""

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        padding_id: int | None = 0,
        oov_row: int | None = 1,
        std: float = DEFAULT_STD,
        mask: AdaptiveMask | None = None,
    ) -> None:
        """See `full_spec` and `Embedding`. Raises SpecError."""
        spec = full_spec(rows, dim, padding_id=padding_id, oov_row=oov_row)
        super().__init__(spec, std=std, mask=mask)


class BinaryCodeEmbedding(Embedding):
    """A binary-code hash embedding: blocks of an ID's bits index rows, which are fused."""

    def __init__(
        self,
        dim: int,
        code_bits: int,
        t: int,
        *,
        strategy: Strategy = "succession",
        shared: bool = False,
        fuse: Fuse = "sum",
        multiplier: int = 1,
        padding_id: int | None = 0,
        head: int = 0,
        std: float = DEFAULT_STD,
        mask: AdaptiveMask | None = None,
    ) -> None:
        """See `binary_code_spec` and `Embedding`. Raises SpecError."""
        spec = binary_code_spec(
            dim,
            code_bits=code_bits,
            t=t,
            strategy=strategy,
            shared=shared,
            fuse=fuse,
            multiplier=multiplier,
            padding_id=padding_id,
            head=head,
        )
        super().__init__(spec, std=std, mask=mask)


class HashEmbedding(Embedding):
    """The hashing trick: IDs share rows modulo their number; with a head, a hybrid hash."""

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        padding_id: int | None = 0,
        head: int = 0,
        std: float = DEFAULT_STD,
        mask: AdaptiveMask | None = None,
    ) -> None:
        """See `hashing_spec` and `Embedding`. Raises SpecError."""
        super().__init__(
            hashing_spec(rows, dim, padding_id=padding_id, head=head), std=std, mask=mask
        )


class MultiHashEmbedding(Embedding):
    """Several independent hashes of an ID select rows, which are fused."""

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        hashes: int = 2,
        shared: bool = False,
        fuse: Fuse = "sum",
        seed: int = 0,
        padding_id: int | None = 0,
        head: int = 0,
        std: float = DEFAULT_STD,
        mask: AdaptiveMask | None = None,
    ) -> None:
        """See `multi_hash_spec` and `Embedding`. Raises SpecError."""
        spec = multi_hash_spec(
            rows,
            dim,
            hashes=hashes,
            shared=shared,
            fuse=fuse,
            seed=seed,
            padding_id=padding_id,
            head=head,
        )
        super().__init__(spec, std=std, mask=mask)


class QuotientRemainderEmbedding(Embedding):
    """Quotient and remainder of an ID select a row each; the two are fused."""

    def __init__(
        self,
        values: int,
        dim: int,
        *,
        remainders: int,
        fuse: Fuse = "sum",
        padding_id: int | None = 0,
        head: int = 0,
        std: float = DEFAULT_STD,
        mask: AdaptiveMask | None = None,
    ) -> None:
        """See `quotient_remainder_spec` and `Embedding`. Raises SpecError."""
        spec = quotient_remainder_spec(
            values, dim, remainders=remainders, fuse=fuse, padding_id=padding_id, head=head
        )
        super().__init__(spec, std=std, mask=mask)


def row_counts(
    spec: LookupSpec, ids: npt.NDArray[np.int64] | Iterable[npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """How often IDs read each table row, int64 [rows]; padding IDs count nowhere.

    Pass the *training* split only, as one array or, for logs larger than memory, in chunks.

    Raises:
        InputError: ids are not int64, or out of range in a full table without an OOV row.
    """
    index = RowIndex(spec)
    counts = np.zeros(spec.rows, dtype=np.int64)
    chunks = np.array_split(ids, -(-ids.size // 2**16) or 1) if isinstance(ids, np.ndarray) else ids
    for chunk in chunks:
        kept = chunk if spec.padding_id is None else chunk[chunk != spec.padding_id]
        rows = index(torch.from_numpy(np.ascontiguousarray(kept))).flatten().numpy()
        read, times = np.unique(rows[rows != NO_ROW], return_counts=True)
        counts[read] += times  # not bincount, which would make an array as long as the table
    return counts


def _constant(values: npt.NDArray[np.int64]) -> Tensor:
    return torch.tensor(values.tolist(), dtype=torch.int64, device="cpu").reshape(values.shape)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
