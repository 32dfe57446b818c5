"""Numbers of rows of a packed sequence's steps while a module is traced: those of one broad batch.

A packed sequence has a number of rows for each of its steps, which depends on the lengths in the
batch. A row's score is the same beside whatever rows, so the module is traced beside rows of every
length, very many of each: every number of rows then is a number of its own, Python computes with
them as it likes, and where one cuts a tensor, it tells the step that it is of.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from ondevice.converters.source.fixed_rows import users_place
from ondevice.errors import UnsupportedError

_FEWEST = 2**35  # where numbers of rows begin: far above any size that a module gives
_MOST = 2**62  # above the sum of all numbers
_MOST_STEPS = 4096
_SEVERAL = torch.zeros(2, dtype=torch.int64)
_ONE = torch.zeros((), dtype=torch.int64)  # which torch takes where it wants an integer


def refused(what: str) -> UnsupportedError:
    """An error that says what a module does with a packed sequence, and where."""
    place = users_place()
    return UnsupportedError(f"packed sequence: {what}{f' (at {place})' if place else ''}")


def refused_loop() -> UnsupportedError:
    """The error of code that counts rows."""
    return refused(
        "a loop over the rows of a step, or a list indexed by their number; compute all rows of a "
        "step at once"
    )


class PackedLengths:
    """The lengths that one call of pack_padded_sequence was given.

    Attributes:
        lengths: int64 [batch].
        steps: number of padded steps; free where the length of the history is.
        counts: how many rows each step has in the broad batch, and 0 behind the last; nothing
            where the steps are free.
    """

    def __init__(self, lengths: torch.Tensor, steps: Any, number: int) -> None:
        self.lengths, self.steps = lengths, steps
        self.counts: tuple[int, ...] = ()
        if isinstance(steps, int):
            self.counts = _counts(steps, number)
        self._longer: dict[int, torch.Tensor] = {}

    @property
    def rows(self) -> Any:
        """The number of rows of the traced batch."""
        return self.lengths.shape[0]

    @property
    def every_step(self) -> tuple[tuple[int, int], ...]:
        """The segments of the data of a packed sequence; see `Rows`."""
        return tuple((step, self.steps) for step in range(len(self.counts) - 1))

    @cached_property
    def total(self) -> int:
        """How many rows the data of a packed sequence has in the broad batch."""
        return sum(self.counts)

    def has(self, count: int) -> bool:
        """Whether it is a number of rows of some steps, or where a step begins or ends."""
        if count in self._places:
            return True
        return any(count + fewer in self._sizes for fewer in self.counts)

    @cached_property
    def _places(self) -> frozenset[int]:
        """Where the rows of each step begin and end in the data."""
        return frozenset((0, *accumulate(self.counts)))

    @cached_property
    def _sizes(self) -> frozenset[int]:
        return frozenset(self.counts)

    def longer(self, step: int) -> torch.Tensor:
        """Which rows are longer than a number of steps: bool [batch]."""
        if step not in self._longer:
            self._longer[step] = self.lengths > step
        return self._longer[step]

    def within(self, rank: int) -> torch.Tensor:
        """Which steps are no padding: bool [batch, steps, 1, ...] of a rank."""
        found = torch.arange(self.steps) < self.lengths.unsqueeze(1)
        return found.reshape(-1, self.steps, *[1] * (rank - 2))


def _counts(steps: int, number: int) -> tuple[int, ...]:
    if steps > _MOST_STEPS:
        raise refused(f"{steps} steps, at most {_MOST_STEPS} can be packed")
    draw = random.Random(number)  # noqa: S311 - no secrets
    counts = [0]
    for _ in range(steps):
        counts.append(counts[-1] + draw.randrange(_FEWEST, 2 * _FEWEST))
    return tuple(reversed(counts))


class StepSizes(torch.Tensor):
    """Numbers of rows, such as `batch_sizes`: real numbers in a module without any.

    Attributes:
        numbers: int64, of the broad batch.
        free: the lengths of a packed sequence whose number of steps is free; it has no numbers.
    """

    numbers: torch.Tensor
    free: PackedLengths | None

    @property
    def counts(self) -> list[int]:
        """All of them as integers."""
        with _outside():
            found: list[int] = self.numbers.reshape(-1).tolist()
        return found

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        """Lets torch's functions take it as a tensor; the mode that made it answers them."""
        return NotImplemented


def step_sizes(
    numbers: Iterable[int] | torch.Tensor, free: PackedLengths | None = None
) -> StepSizes:
    """Numbers of rows as a tensor."""
    with _outside():
        given = numbers if isinstance(numbers, torch.Tensor) else torch.tensor(list(numbers))
        made: StepSizes = torch.Tensor._make_subclass(StepSizes, _SEVERAL if given.dim() else _ONE)
        made.numbers, made.free = given, free
    return made


def batch_sizes_of(of: PackedLengths) -> StepSizes:
    """The `batch_sizes` of a packed sequence."""
    return step_sizes(of.counts[:-1], None if of.counts else of)


def computed(function: Any, args: Any, kwargs: Any) -> Any:
    """What a function returns for numbers of rows.

    Raises:
        UnsupportedError: it computes with tensors of the graph too, or needs an index.
    """
    if function is torch.Tensor.__index__:
        raise refused_loop()
    flat, structure = pytree.tree_flatten((args, kwargs))
    free = next((leaf.free for leaf in flat if isinstance(leaf, StepSizes) and leaf.free), None)
    if free is not None:
        return _of_free(function, args, free)
    if any(isinstance(leaf, torch.Tensor) and not isinstance(leaf, StepSizes) for leaf in flat):
        raise refused(
            f"{_name(function)} of batch_sizes and other tensors; compute with the integers of "
            "batch_sizes.tolist(), or with the lengths that were packed"
        )
    with _outside():
        given, options = pytree.tree_unflatten(
            [leaf.numbers if isinstance(leaf, StepSizes) else leaf for leaf in flat], structure
        )
        found = function(*given, **options)
        return pytree.tree_map_only(torch.Tensor, step_sizes, found)


def with_batch(value: Any, known: Sequence[PackedLengths]) -> Any:
    """A size that is a number of rows and the batch's size together, as a number of rows."""
    if not isinstance(value, torch.SymInt):
        return value
    found = value.node.expr
    if not any(part.is_Integer and is_count(int(part)) for part in found.atoms()):
        return value
    for of in known:
        number = found.subs(of.rows.node.expr, of.counts[0])
        if number.is_Integer and of.has(abs(int(number))):
            return int(number)
    raise refused("sizes of tensors and numbers of rows of its steps in one size")


def number_of(value: Any) -> Any:
    """A number of rows as an integer; anything else as it is."""
    if isinstance(value, StepSizes):
        return value.counts[0] if value.numbers.dim() == 0 else value
    return int(value) if isinstance(value, np.integer) else value


def _of_free(function: Any, args: Any, free: PackedLengths) -> Any:
    """What a function returns for `batch_sizes` whose number is free: hardly any."""
    if function is torch.Tensor.size and args[1:] in ((), (0,)):
        return free.steps if args[1:] else (free.steps,)
    if getattr(function, "__self__", None) is torch.Tensor.device:
        return torch.device("cpu")
    raise refused(
        "batch_sizes of a history whose length is not fixed; give it a fixed one, without a "
        "dynamic axis and without what shortens it to the longest of the batch, such as "
        "lengths.max(): each row ends at its length anyway"
    )


def is_count(value: Any) -> bool:
    """Whether it is as large as numbers of rows of the broad batch are."""
    if isinstance(value, StepSizes):
        return True
    return isinstance(value, int | np.integer) and _FEWEST <= abs(int(value)) < _MOST


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


@contextmanager
def _outside() -> Iterator[None]:
    """Compute with real tensors inside the block while a module is traced."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


def counts_in(values: Any) -> Iterator[Any]:
    """The numbers of rows in arguments, slices and lists of any depth."""
    for leaf in pytree.tree_leaves(values):
        parts = (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,)
        yield from (part for part in parts if is_count(part))
