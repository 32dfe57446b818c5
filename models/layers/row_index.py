"""Row arithmetic: the rows an ID reads under a LookupSpec, and how often a log reads them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ondevice.errors import InputError
from ondevice.lookup import NO_ROW
from ondevice.spec import HIGH_BITS, LookupSpec


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
        """Turn the specification's code pieces and residues into constant tensors.

        shifts, masks, weights: int64 [blocks, most pieces of a block], of a binary code; offsets:
        int64 [blocks + residues]; factors, moduli, divisors: int64 [residues], of hashes.
        """
        super().__init__()
        self.spec = spec
        pieces = spec.pieces(64)
        longest = max((len(block) for block in pieces), default=0)
        table = np.zeros((3, len(pieces), longest), dtype=np.int64)  # a mask of 0 adds nothing
        for number, block in enumerate(pieces):
            for place, piece in enumerate(block):
                table[:, number, place] = piece.shift, piece.mask, piece.weight
        hashes = spec.residues or spec.retrieval_residues()
        offsets = [block.offset for block in spec.blocks]
        offsets += [residue.offset for residue in hashes]
        residues = {
            "factors": [_signed(residue.multiplier) for residue in hashes],
            "moduli": [residue.modulus for residue in hashes],
            "divisors": [residue.divisor for residue in hashes],
        }
        # constants of the specification: not in the state, and real even under a meta device
        for name, values in zip(("shifts", "masks", "weights"), table, strict=True):
            self.register_buffer(name, _constant(values), persistent=False)
        for name, numbers in (("offsets", offsets), *residues.items()):
            self.register_buffer(name, _constant(np.array(numbers, np.int64)), persistent=False)
        self._factor = _signed(spec.multiplier)
        self._plain = all(residue.multiplier == 1 for residue in hashes)
        self._high = any(residue.bits == HIGH_BITS for residue in hashes)
        self._divides = any(residue.divisor > 1 for residue in hashes)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows that each ID reads; a padding ID yields legal rows that nobody reads.

        Raises:
            InputError: ids are not int64, or out of range in a full table without an OOV row.
        """
        if ids.dtype != torch.int64:
            raise InputError(f"IDs must be int64, got {ids.dtype}")
        if self.spec.scheme == "full":
            return self._full(ids).unsqueeze(-1)
        if self.spec.retrieval is not None:
            numbers, count = self.numbers(ids), self.spec.rows_per_id
            return (numbers[..., :count] + numbers[..., count : count + 1]) % self.spec.cells
        rows = self.numbers(ids) if self.spec.residues else self._coded(ids)
        if not self.spec.head:
            return rows
        in_head = ((ids >= 0) & (ids < self.spec.head)).unsqueeze(-1)
        return torch.where(in_head, self._head_rows(ids), rows)

    @property
    def bit_fields(self) -> list[tuple[int, int, int, int]] | None:
        """For each row of an ID (factor, shift, mask, offset): it is offset plus the masked bits of
        factor * ID, shifted; of a full table for IDs in range only. None where rows are otherwise.
        """
        spec = self.spec
        if spec.scheme == "full":
            return [(1, 0, -1, 0)]
        if spec.scheme != "binary_code" or spec.head or self.shifts.shape[1] != 1:
            return None
        columns = (self.shifts[:, 0], self.masks[:, 0], self.offsets)
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        return [(self._factor, *item) for item in numbers]

    def _head_rows(self, ids: Tensor) -> Tensor:
        """Rows of IDs of the head."""
        count = self.spec.rows_per_id
        if self.spec.fuse == "concat":
            return ids.unsqueeze(-1) * count + torch.arange(count, device=ids.device)
        return functional.pad(ids.unsqueeze(-1), (0, count - 1), value=NO_ROW)

    def numbers(self, ids: Tensor) -> Tensor:
        """What the residues make of ids int64 [...]: int64 [..., residues].

        Of a retrieval structure these are `LookupSpec.retrieval_residues`.
        """
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
            constants = self.shifts[:, 0], self.masks[:, 0], self.offsets
            return rows_of_bits(code.unsqueeze(-1), *constants)
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


def rows_of_bits(code: Tensor, shifts: Tensor, masks: Tensor, offsets: Tensor) -> Tensor:
    """The rows that bits of codes are, all int64; constants and codes are broadcast."""
    # the shift is arithmetic, the mask drops the copies of the sign
    return (code >> shifts).bitwise_and_(masks).add_(offsets)


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
        real = chunk if spec.padding_id is None else chunk[chunk != spec.padding_id]
        rows = index(torch.from_numpy(np.ascontiguousarray(real))).flatten().numpy()
        read, times = np.unique(rows[rows != NO_ROW], return_counts=True)
        counts[read] += times  # not bincount, which would make an array as long as the table
    return counts


def _constant(values: npt.NDArray[np.int64]) -> Tensor:
    return torch.tensor(values.tolist(), dtype=torch.int64, device="cpu").reshape(values.shape)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
