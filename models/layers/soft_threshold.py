"""PEP: a soft threshold per table row, learned with the table, that pushes weak entries to zero.

Source: S. Liu et al., "Learnable Embedding Sizes for Recommender Systems", ICLR 2021
(arXiv 2101.07577).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SoftThreshold(nn.Module):
    """PEP's reparameterisation of a table: sign(v) * relu(|v| - sigmoid(s)), s learned per row.

    The paper prunes single entries. Stored rows are cut at their end, so here a row's threshold
    decides how many entries the row keeps, and these are its leading ones (a choice of this
    project; `ondevice.models.training.widths.order_dimensions` puts the strong dimensions first).

    Attributes:
        thresholds: float32 [rows, 1], s.
    """

    START = -8.0  # a threshold of 0.0003, small against trained rows

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(torch.full((rows, 1), self.START))

    def forward(self, values: Tensor, rows: Tensor, sparse: bool) -> Tensor:
        """Shrunken values float32 [..., dim] of rows int64 [...]."""
        thresholds = functional.embedding(rows, self.thresholds, sparse=sparse)
        return values.sign() * torch.relu(values.abs() - torch.sigmoid(thresholds))
