"""Row numbers of the IDs of many tables, in a handful of operations for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ondevice.models.layers.row_index import RowIndex, rows_of_bits


class JointRows:
    """Rows of several tables, of IDs of one shape.

    It knows tables whose rows are bits of the ID (a full table's are all of them). For all else it
    has no answer, and each table's `RowIndex` is asked.
    """

    def __init__(self, indices: Sequence[RowIndex]) -> None:
        """Collect the constants of the tables' row indices."""
        self._specs = [index.spec for index in indices]
        fields = [index.bit_fields for index in indices]
        self._known = all(item is not None for item in fields)
        self._all_full = all(spec.scheme == "full" for spec in self._specs)
        constants = [(place, *item) for place, items in enumerate(fields) for item in items or ()]
        table = torch.tensor(constants, dtype=torch.int64).reshape(-1, 5).T.contiguous()
        # int64 [rows that an ID of each table reads, 1]
        self._factors, self._shifts, self._masks, self._offsets = table[1:].unsqueeze(-1)
        self._table_of_row = table[0]

    def __call__(self, ids: Sequence[Tensor]) -> Tensor | None:
        """Row numbers int64 [sum of rows_per_id, n], table by table.

        Args:
            ids: for each table, all of one shape with n entries.

        Returns:
            None where IDs have to be looked at one by one: a scheme of another kind, IDs out of
            range, a padding ID, another type, or no IDs at all.
        """
        if not self._known or not ids[0].numel() or any(item.dtype != torch.int64 for item in ids):
            return None
        stacked = torch.stack(list(ids)).flatten(1)
        if self._needs_care(stacked):
            return None
        if self._all_full:
            return stacked
        device = stacked.device
        code = stacked.index_select(0, self._table_of_row.to(device))
        code.mul_(self._factors.to(device))  # wraps modulo 2**64
        constants = (self._shifts, self._masks, self._offsets)
        return rows_of_bits(code, *(numbers.to(device) for numbers in constants))

    def _needs_care(self, ids: Tensor) -> bool:
        """Whether IDs [tables, n] include one outside a full table, or the padding of its table."""
        low, high = (bound.tolist() for bound in torch.aminmax(ids, dim=1))
        for place, spec in enumerate(self._specs):
            if spec.scheme == "full" and not (low[place] >= 0 and high[place] < spec.rows):
                return True
            padding = spec.padding_id
            if padding is None or not low[place] <= padding <= high[place]:
                continue
            if bool((ids[place] == padding).any()):
                return True
        return False
