"""Fuses the rows that IDs read in many tables, with one step of autograd for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ondevice.spec import Fuse, LookupSpec


class _Run(NamedTuple):
    """Consecutive rows of an ID, and the consecutive vectors that they become.

    Attributes:
        fuse: "concat" for rows that stay as they are.
        rows: their places.
        vectors: the places of what they become.
    """

    fuse: Fuse
    rows: slice
    vectors: slice


class FusedRows:
    """The vectors of several tables of one row width, from the rows that are read in each."""

    def __init__(self, specs: Sequence[LookupSpec]) -> None:
        """Of tables without IDs that read fewer rows than others."""
        self._runs: list[_Run] = []
        row = vector = 0
        for spec in specs:
            count = spec.rows_per_id
            fuse: Fuse = "concat" if count == 1 else spec.fuse
            made = count if fuse == "concat" else 1
            last = self._runs[-1] if self._runs else None
            first_row, first_vector = row, vector
            if last is not None and last.fuse == fuse == "concat":  # one run with those before
                self._runs.pop()
                first_row, first_vector = last.rows.start, last.vectors.start
            row, vector = row + count, vector + made
            self._runs.append(_Run(fuse, slice(first_row, row), slice(first_vector, vector)))
        self._vectors = vector

    def __call__(self, values: Tensor) -> Tensor:
        """Vectors side by side, float32 [n, sum of widths], of rows [n, rows of an ID, width]."""
        if len(self._runs) == 1 and self._runs[0].fuse == "concat":
            return values.flatten(1)
        fused: Tensor = _Fused.apply(values, self._runs, self._vectors)  # type: ignore[no-untyped-call]
        return fused.flatten(1)


class _Fused(torch.autograd.Function):
    """Written out, since the gradients of views of parts cost more than the arithmetic."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, runs: Sequence[_Run], vectors: int) -> Tensor:
        """Vectors float32 [n, vectors, width]."""
        ctx.runs = runs
        ctx.save_for_backward(values)
        out = values.new_empty(len(values), vectors, values.shape[2])
        for fuse, rows, places in runs:
            part, target = values[:, rows], out[:, places]
            if fuse == "concat":
                target.copy_(part)
            elif fuse == "mul":
                _multiply(part.unbind(1), target[:, 0])
            else:
                torch.sum(part, 1, keepdim=True, out=target)
                if fuse == "mean":
                    target.div_(part.shape[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the rows."""
        (values,) = ctx.saved_tensors
        of_rows = torch.empty_like(values)
        for fuse, rows, places in ctx.runs:
            given, target = gradient[:, places], of_rows[:, rows]
            if fuse == "mul":
                factors = values[:, rows].unbind(1)
                for number, one in enumerate(target.unbind(1)):
                    others = [*factors[:number], *factors[number + 1 :]]
                    _multiply([given[:, 0], *others], one)
            elif fuse == "mean":
                target.copy_(given / target.shape[1])
            else:
                target.copy_(given)
        return of_rows, None, None


def _multiply(factors: Sequence[Tensor], out: Tensor) -> None:
    """The product of two or more factors, into `out`."""
    torch.mul(factors[0], factors[1], out=out)
    for factor in factors[2:]:
        out.mul_(factor)
