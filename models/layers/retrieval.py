"""The embedding layer of a retrieval structure: reads cells as every engine does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ondevice.codecs import QuantTable
from ondevice.errors import SpecError
from ondevice.models.layers.adaptive_mask import LevelMasks
from ondevice.models.layers.embeddings import Embedding
from ondevice.spec import LookupSpec, Pooling


class RetrievalEmbedding(Embedding):
    """Vectors of hashed IDs from the cells of `ondevice.spec.Retrieval`.

    In an ONNX export, a lookup is one node `ondevice::Lookup` with inputs ids, weight and scales.

    Attributes:
        weight: float32 [rows, row_dim], the codes of the cells, whole numbers.
        scales: float32 [row_dim], of the columns, or [row_dim, 2**bits], the columns' levels.
    """

    scales: Tensor

    def __init__(self, spec: LookupSpec, table: QuantTable) -> None:
        """Take the cells of `build_retrieval`. Raises SpecError where they do not fit."""
        if spec.retrieval is None or (table.rows, table.dim) != (spec.rows, spec.row_dim):
            raise SpecError(f"cells [{spec.rows}, {spec.row_dim}] needed, got {table.values.shape}")
        super().__init__(spec)
        self._cells = spec.retrieval
        codes = torch.from_numpy(table.values.astype("float32"))
        self.weight = torch.nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scales", torch.from_numpy(table.scales).float())

    def look_up(self, ids: Tensor, pooling: Pooling) -> Tensor:
        """Vectors float32 [..., dim] of ids int64 [...], pooled as `Embedding.forward` says.

        Codes are whole numbers, so float32 adds them exactly.
        """
        numbers, count = self.index.numbers(ids), self._cells.hashes
        places = (numbers[..., :count] + numbers[..., count : count + 1]) % self.spec.cells
        codes = functional.embedding(places, self.weight).sum(-2)
        if self.spec.oov_row is not None:
            wrong = (codes[..., self.spec.dim :] - numbers[..., count + 1 :]) % self._size
            last = functional.embedding(torch.tensor(self.spec.oov_row), self.weight)
            codes = torch.where(wrong.any(-1, keepdim=True), last, codes)
        padding = None if self.spec.padding_id is None else ids == self.spec.padding_id
        values = self._values(codes[..., : self.spec.dim])
        return self.finish(values.unsqueeze(0), places, None, padding, pooling)

    @property
    def _size(self) -> int:
        return 1 << self._cells.bits

    def _values(self, codes: Tensor) -> Tensor:
        """Sums of codes [..., dim] modulo 2**bits, as the values that they stand for."""
        scales = self.scales[: self.spec.dim]
        if scales.dim() == 1:
            half = self._size // 2
            return ((codes + half) % self._size - half) * scales
        columns = torch.arange(self.spec.dim)
        return scales[columns, (codes % self._size).long()]

    def vectors(
        self, ids: Tensor, levels: LevelMasks | None = None, pooling: Pooling | None = None
    ) -> Tensor:
        """See Embedding.vectors; there are no masks whose levels could be given."""
        return self.look_up(ids, self.spec.pooling if pooling is None else pooling)

    def _export(self, ids: Tensor, spec: LookupSpec) -> Tensor:
        return torch.onnx.ops.symbolic(
            "ondevice::Lookup",
            [ids, self.weight, self.scales],
            {"spec": spec.to_json()},
            dtype=torch.float32,
            shape=(*(ids.shape if spec.pooling == "none" else ids.shape[:-1]), spec.dim),
            version=1,
        )
