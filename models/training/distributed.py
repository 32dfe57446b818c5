"""Training by several processes, the ranks, that torchrun starts: who trains on what, and the sums.

Each rank computes the gradients of its rows of every batch; their sum over the ranks is the
gradient of the batch, so all ranks take the same step that one process would take.
"""

from __future__ import annotations

import importlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ondevice.errors import OnDeviceError, SpecError
from ondevice.models.click_log import ClickLog
from ondevice.models.networks import ClickModel

# A dense gradient of a table is sent whole at every step: 2 M rows of 16 are 128 MB.
MOST_DENSE_ROWS = 2_000_000
# The other ranks wait while rank 0 evaluates or reads; a rank that ends is noticed at once.
PATIENCE = timedelta(hours=6)

T = TypeVar("T")


class RankError(OnDeviceError):
    """The ranks cannot go on together: one has ended, or they do not train the same."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; every rank calls each method alike.

    Attributes:
        rank: the number of this process, from 0.
        world: how many there are; with 1, no method communicates.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is rank 0, which evaluates, prints and writes."""
        return self.rank == 0

    def batches(self, order: Tensor, batch: int) -> tuple[Tensor, list[tuple[slice, int]]]:
        """This rank's part of rows that are cut into batches: rows [rank::world] of each batch.

        Args:
            order: row numbers int64 [n], the same on all ranks.
            batch: rows of a batch of all ranks together.

        Returns:
            The row numbers of this rank, and for each batch where its rows are among them (there
            may be none) and how many rows it has on all ranks.
        """
        sizes = [min(batch, len(order) - start) for start in range(0, len(order), batch)]
        counts = [len(range(self.rank, size, self.world)) for size in sizes]
        slices = [slice(*ends) for ends in pairwise(accumulate(counts, initial=0))]
        if self.world > 1:
            order = order[torch.arange(len(order)) % batch % self.world == self.rank]
        return order, list(zip(slices, sizes, strict=True))

    def check(self, model: ClickModel, train: ClickLog, settings: object) -> None:
        """Refuse what several ranks cannot train, and ranks that would not train the same.

        Args:
            model: its tables' `sparse` is set already.
            train: the training split.
            settings: of the training; their texts are compared.

        Raises:
            SpecError: batch normalisation, or a large table with dense gradients.
            RankError: another rank has another log, model or setting.
        """
        if self.world == 1:
            return
        if any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()):
            raise SpecError(
                "training by several ranks: batch_norm would take the means of each rank's rows, "
                "not of the batch; train in one process, or without batch_norm"
            )
        for table in model.tables():
            if not table.sparse and table.spec.rows > MOST_DENSE_ROWS:
                size = table.weight.numel() * 4 / 1e6
                raise SpecError(
                    f"training by several ranks: a table of {table.spec.rows:,} rows of "
                    f"{table.spec.row_dim} has dense gradients, so each rank would send "
                    f"{size:,.0f} MB at every step; use table_optimizer = 'sparse_adam', or "
                    "binary-code tables"
                )
        shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
        facts = {
            "rows of the training split": len(train),
            "labels of the training split": zlib.crc32(train.labels.tobytes()),
            "tables and layers": zlib.crc32(json.dumps(shapes).encode()),
            "settings": str(settings),
        }
        first = self.from_first(lambda: facts)
        if wrong := [name for name, value in facts.items() if value != first[name]]:
            raise RankError(f"rank {self.rank} and rank 0 differ in: {', '.join(wrong)}")

    def broadcast(self, model: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0. Raises RankError."""
        if self.world > 1:
            with self._together():
                for value in model.state_dict().values():
                    dist.broadcast(value, 0)

    def sum_gradients(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Replace the gradients by their sums over the ranks; a rank without one adds nothing.

        Dense gradients travel in one message, sparse ones as the rows that the batch read.

        Raises:
            RankError: another rank has ended.
        """
        if self.world == 1:
            return
        dense: list[nn.Parameter] = []
        sparse: list[nn.Parameter] = []
        for optimizer in optimizers:
            listed = sparse if isinstance(optimizer, torch.optim.SparseAdam) else dense
            for group in optimizer.param_groups:
                listed += [item for item in group["params"] if item.requires_grad]
        gradients = []
        for item in dense:
            if item.grad is None:
                item.grad = torch.zeros_like(item)
            gradients.append(item.grad)
        self.sum_dense(gradients)
        with self._together():
            for item in sparse:
                item.grad = _no_rows(item) if item.grad is None else item.grad.coalesce()
                dist.all_reduce(item.grad)

    def sum_dense(self, values: Sequence[Tensor]) -> None:
        """Replace dense tensors by their sums over the ranks, in one message. Raises RankError."""
        if self.world == 1 or not values:
            return
        flat = torch.cat([value.reshape(-1) for value in values])
        with self._together():
            dist.all_reduce(flat)
        parts = torch.split(flat, [value.numel() for value in values])
        for value, part in zip(values, parts, strict=True):
            value.copy_(part.view_as(value))

    def sum(self, number: float) -> float:
        """The sum of a number over the ranks. Raises RankError."""
        total = torch.tensor([number], dtype=torch.float64)
        self.sum_dense([total])
        return float(total)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, which must be JSON; only rank 0 calls it.

        Raises:
            RankError: another rank has ended.
        """
        if self.world == 1:
            return make()
        text = json.dumps(make()).encode() if self.is_first else b""
        with self._together():
            size = torch.tensor([len(text)])
            dist.broadcast(size, 0)
            sent = torch.frombuffer(bytearray(text or bytes(int(size))), dtype=torch.uint8)
            dist.broadcast(sent, 0)
        received: T = json.loads(bytes(sent.tolist()))
        return received

    def leader_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on this rank, called by one rank of each host before the others.

        So the first one can leave a cache to the others. Raises RankError.
        """
        first = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        result = make() if first else None
        if self.world > 1:
            with self._together():
                dist.barrier()
        return make() if result is None else result

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in one line that communication failed. Raises RankError."""
        try:
            yield
        except RuntimeError as error:  # the class of torch.distributed's errors
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise RankError(
                f"rank {self.rank} of {self.world} lost the others, of which one has ended: {first}"
            ) from error


def current_ranks() -> Ranks:
    """This process's place in the group that it joined; rank 0 of 1 without a group."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one, if it did, while the block runs.

    Raises:
        RankError: the processes do not reach one another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    # This module's functions have the group as a default argument if it is first imported while
    # there is one, and torch's optimizers import it. The group's threads would then run on into the
    # end of the process, which aborts at times.
    importlib.import_module("torch.distributed.nn")
    try:
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"cannot join the other ranks of torchrun: {error}") from error
    try:
        yield current_ranks()
    finally:
        dist.destroy_process_group()


def _no_rows(table: Tensor) -> Tensor:
    """A sparse gradient of a table [rows, dim] that reads no row."""
    indices = torch.empty((1, 0), dtype=torch.int64, device=table.device)
    values = torch.empty((0, *table.shape[1:]), dtype=table.dtype, device=table.device)
    return torch.sparse_coo_tensor(indices, values, table.shape, check_invariants=False)
