"""Refit the rows of a trained model under a Gaussian prior while its network stays fixed.

Network and rows trained together for more than about one pass fit the training rows of rare
values by heart: a rare row tells the label it was trained on, and the network learns to trust it
(the "one-epoch phenomenon", Zhang et al., "Towards Understanding the Overfitting Phenomenon of
Deep Click-Through Rate Models", CIKM 2022). A fixed network cannot, and the prior pulls a row
towards zero the harder the fewer impressions speak for it. A choice of this project.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ondevice.errors import SpecError
from ondevice.lookup import NO_ROW
from ondevice.models.networks import ClickModel


@dataclass(frozen=True)
class Refit:
    """How rows are refitted.

    Attributes:
        penalties: lambda, one after another, each from the best rows so far; the rows that
            validate best stay. The loss summed over all impressions grows by lambda * |row|^2 for
            every row: a Gaussian prior of variance 1 / (2 lambda) in each dimension.
        epochs: at most this many with each.
        slower: the learning rate is divided by this.

    Raises:
        SpecError: a setting out of range.
    """

    penalties: tuple[float, ...] = (10.0, 30.0)
    epochs: int = 2
    slower: float = 4.0

    def __post_init__(self) -> None:
        penalties_fit = all(0 <= item < float("inf") for item in self.penalties)
        if not penalties_fit or self.epochs < 1 or not 1 <= self.slower < float("inf"):
            raise SpecError(f"refit: penalties >= 0, epochs >= 1, slower >= 1 needed; got {self}")


class RowPrior:
    """The penalty of a batch; those of an epoch add up to the penalty of every row read."""

    def __init__(
        self, model: ClickModel, counts: Mapping[str, npt.NDArray[np.int64]], penalty: float
    ) -> None:
        """For the tables of a model's fields.

        Args:
            model: read anew with each batch.
            counts: per field int64 [rows], how often the training split reads each row.
            penalty: see Refit.
        """
        self._tables = {name: model.embedding(name) for name in model.fields}
        self._shares = {
            name: torch.from_numpy(penalty / np.maximum(counts[name], 1)).to(
                table.weight.device, table.weight.dtype
            )
            for name, table in self._tables.items()
        }

    def __call__(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Scalar, to be added to the mean loss of a batch of int64 [n] IDs by field."""
        terms = []
        for name, table in self._tables.items():
            rows = table.rows(ids[name])
            read, known = rows.clamp(min=0), rows != NO_ROW
            if table.spec.padding_id is not None:
                known &= (ids[name] != table.spec.padding_id).unsqueeze(-1)
            values = functional.embedding(read, table.weight, sparse=table.sparse)
            shares = self._shares[name][read] * known
            terms.append((values.square().sum(-1) * shares).sum() / len(rows))
        return torch.stack(terms).sum()


@contextmanager
def fixed_network(model: ClickModel) -> Iterator[None]:
    """While the block runs, only the rows of a model's fields and their masks learn."""
    tables = {id(item) for item in model.embeddings.parameters()}
    others = [item for item in model.parameters() if id(item) not in tables and item.requires_grad]
    for item in others:
        item.requires_grad_(False)
    try:
        yield
    finally:
        for item in others:
            item.requires_grad_(True)
