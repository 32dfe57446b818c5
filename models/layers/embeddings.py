"""Embedding layers that execute a LookupSpec: plain tables, hashes, binary codes and hybrids.

Sources of the schemes are named where `ondevice.spec` makes their specifications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor, nn

from ondevice.errors import SpecError
from ondevice.models.layers.adaptive_mask import AdaptiveMask, LevelMasks
from ondevice.models.layers.joint_tables import JointTables
from ondevice.models.layers.rounding import TableRounding
from ondevice.models.layers.row_index import RowIndex
from ondevice.models.layers.soft_threshold import SoftThreshold
from ondevice.spec import (
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
        """Start with normal weights that give each output entry the standard deviation `std`.

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
        self, ids: Tensor, levels: LevelMasks | None = None, pooling: Pooling | None = None
    ) -> Tensor:
        """As `forward`, with the level masks of this step if they are known (see `MaskGroup`)."""
        return JointTables([self]).read([ids], [levels], pooling)

    def train(self, mode: bool = True) -> Embedding:
        """Switch mode; leaving training mode refreshes the widths and the codec's scales."""
        leaving = self.training and not mode
        super().train(mode)
        if leaving:
            self.refresh_rounding()
        return self

    def refresh_rounding(self) -> None:
        """Compute the codec's scales anew if rows are rounded. Raises SpecError."""
        if self.rounding is not None:
            self.rounding.refresh(self.weight, None if self.mask is None else self.mask.widths())

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.spec.dim

    @property
    def plain(self) -> bool:
        """Whether a vector is its rows as they are, all of them there, fused."""
        return not self.hybrid and self.threshold is None and self.rounding is None

    @property
    def hybrid(self) -> bool:
        """Whether IDs of the head read one row and all other IDs several."""
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
        vectors = self.fuse(values, absent)
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

    def fuse(self, values: Tensor, absent: Tensor | None = None) -> Tensor:
        """Combine rows float32 [n, ..., row_dim] into vectors [..., dim].

        Args:
            values: the rows.
            absent: see `finish`.
        """
        fuse = self.spec.fuse
        if fuse == "concat":
            return values.movedim(0, -2).flatten(-2)
        if len(values) == 1:
            return values.squeeze(0)  # its gradient is a view, that of values[0] is not
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
        t: int | Sequence[int],
        *,
        strategy: Strategy = "succession",
        shared: bool = False,
        rows: int | None = None,
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
            rows=rows,
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
