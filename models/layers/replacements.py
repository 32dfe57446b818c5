"""Modules that replace trained embedding modules: called like them, over smaller tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ondevice.converters.source.stand_ins import pooled
from ondevice.errors import SpecError
from ondevice.models.layers.adaptive_mask import AdaptiveMask
from ondevice.models.layers.embeddings import Embedding
from ondevice.spec import LookupSpec, Pooling


class FittedEmbedding(Embedding):
    """A table that is called like the `nn.Embedding` that it replaces."""

    @property
    def embedding_dim(self) -> int:
        """Width of a vector, as `nn.Embedding` calls it."""
        return self.spec.dim

    def forward(self, ids: Tensor, pooling: Pooling | None = None) -> Tensor:
        """See Embedding.forward; IDs may be of any integer type."""
        return super().forward(ids.long(), pooling)


class RotatedEmbedding(FittedEmbedding):
    """A table in other coordinates: vectors of the lookup, times `rotation`.

    Attributes:
        rotation: float32 [spec.dim, dim of the result].
    """

    def __init__(
        self, spec: LookupSpec, rotation: Tensor, *, mask: AdaptiveMask | None = None
    ) -> None:
        """See Embedding. Raises SpecError for a rotation of another shape."""
        super().__init__(spec, mask=mask)
        if rotation.ndim != 2 or rotation.shape[0] != spec.dim:
            raise SpecError(f"rotation must be [{spec.dim}, dim], got {list(rotation.shape)}")
        self.rotation = nn.Parameter(rotation.clone())

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.rotation.shape[1])

    @property
    def embedding_dim(self) -> int:
        """Width of a vector, as `nn.Embedding` calls it."""
        return self.dim

    @property
    def plain(self) -> bool:
        """Never: vectors are rotated."""
        return False

    def finish(
        self,
        values: Tensor,
        rows: Tensor,
        absent: Tensor | None,
        padding: Tensor | None,
        pooling: Pooling,
    ) -> Tensor:
        """Vectors float32 [..., dim]; see Embedding.finish. Tables read jointly end here too."""
        return super().finish(values, rows, absent, padding, pooling) @ self.rotation

    def _export(self, ids: Tensor, spec: LookupSpec) -> Tensor:
        return super()._export(ids, spec) @ self.rotation


class FittedBag(nn.Module):
    """A table whose vectors are added up as by the `nn.EmbeddingBag` that it replaces.

    Attributes:
        table: may be shared with others.
        mode: "sum", "mean" or "max".
        padding_idx: an ID that is left out, or None.
        include_last_offset: whether the last offset ends the last bag.
    """

    def __init__(self, table: FittedEmbedding, bag: nn.EmbeddingBag) -> None:
        """Pool the vectors of `table` like `bag`."""
        super().__init__()
        self.table = table
        self.mode = bag.mode
        self.padding_idx = bag.padding_idx
        self.include_last_offset = bag.include_last_offset

    @property
    def embedding_dim(self) -> int:
        """Width of a vector, as `nn.EmbeddingBag` calls it."""
        return self.table.embedding_dim

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """A vector float32 [bags, dim] for each bag.

        Args:
            input: IDs [bags, n], or of all bags, one after another, [n].
            offsets: where each bag begins in the latter.
            per_sample_weights: of the vectors, in the shape of input; with mode "sum".
        """
        present = None if self.padding_idx is None else input != self.padding_idx
        if input.dim() == 2:
            vectors = self.table(input)
            if per_sample_weights is not None:
                vectors = vectors * per_sample_weights.unsqueeze(-1)
            return pooled(vectors, self.mode, present)
        if offsets is not None and present is not None:
            before = functional.pad(present.cumsum(0), (1, 0))
            offsets, input = before[offsets], input[present]
            if per_sample_weights is not None:
                per_sample_weights = per_sample_weights[present]
        return functional.embedding_bag(
            torch.arange(len(input), device=input.device),
            self.table(input),
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
        )
