"""Rows of a packed sequence's steps while a module is traced: all rows of the batch, and which.

A tensor [rows, ...] of a packed sequence holds one segment after another. A segment (first, last)
is the rows with first < length <= last: those of a step end at the last step, and those that are
over at a step begin at 0. All rows of the batch are computed for every segment; where segments are
joined, each row is taken from the one it is in. So what is computed beyond a row's length is never
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ondevice.converters.source.step_sizes import PackedLengths, refused

Segment = tuple[int, int]
_NOTHING = torch.empty(0)


class Rows:
    """Rows of segments, one behind the other, in the order of falling lengths.

    Attributes:
        of: the lengths that the steps end at.
        segments: which rows.
    """

    def __init__(
        self,
        of: PackedLengths,
        segments: Sequence[Segment],
        parts: Sequence[torch.Tensor] | None = None,
        whole: torch.Tensor | None = None,
    ) -> None:
        """Hold the values of every segment, [batch, ...] each, or all, [batch, segments, ...]."""
        self.of, self.segments = of, tuple(segments)
        self._parts, self._whole = None if parts is None else list(parts), whole

    @classmethod
    def from_flat(cls, of: PackedLengths, segments: Sequence[Segment], flat: torch.Tensor) -> Rows:
        """Rows of values as `flat` returns them."""
        if len(segments) == 1:
            return cls(of, segments, parts=[flat])
        steps = len(segments) or of.steps
        whole = flat.reshape(of.rows, steps, *flat.shape[1:])
        return cls(of, segments, whole=whole)

    @property
    def parts(self) -> list[torch.Tensor]:
        """The values of every segment, [batch, ...] each."""
        if not self.of.counts:
            raise refused("rows of single steps, where the number of steps is free")
        if self._parts is None and self._whole is not None:
            self._parts = list(self._whole.unbind(1))
        return self._parts or []

    @property
    def whole(self) -> torch.Tensor:
        """The values of all segments: [batch, segments, ...]."""
        if self._whole is None:
            self._whole = torch.stack(self.parts, 1)
        return self._whole

    @property
    def flat(self) -> torch.Tensor:
        """The values of all segments, those of a row together: [batch * segments, ...]."""
        return self.parts[0] if len(self.segments) == 1 else self.whole.flatten(0, 1)

    @property
    def rank(self) -> int:
        """The number of axes, rows the first."""
        return self.parts[0].dim() if self.segments else self.whole.dim() - 1

    @property
    def count(self) -> int:
        """The number of rows in the broad batch."""
        return sum(self.of.counts[first] - self.of.counts[last] for first, last in self.segments)

    def replace(self, number: int, part: torch.Tensor) -> None:
        """Give a segment other values."""
        self.parts[number] = part
        self._whole = None

    def labelled(self, of: PackedLengths) -> Rows:
        """The same rows as those of another packed sequence.

        Two that meet have the same numbers of rows at every step in every batch, or torch would
        stop: then their lengths are the same.
        """
        if of is self.of:
            return self
        if not statically_known_true(of.steps == self.of.steps):
            raise refused(f"{self.of.steps} steps meet {of.steps}; pack both to the same length")
        return Rows(of, self.segments, self._parts, self._whole)


class StepRows(torch.Tensor):
    """Rows as a tensor without values, whose functions a mode answers.

    Attributes:
        rows: the rows.
        source: the tensor that it was cut from, and where; what is written to it goes there too.
    """

    rows: Rows
    source: tuple[Any, slice] | None

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        """Lets torch's functions take it as a tensor."""
        return NotImplemented


def tensor_of(rows: Rows, source: tuple[Any, slice] | None = None) -> torch.Tensor:
    """Rows as a tensor: if they are the whole batch, one as any other."""
    if rows.segments == ((0, rows.of.steps),):
        return rows.parts[0]
    made: StepRows = torch.Tensor._make_subclass(StepRows, _NOTHING)
    made.rows, made.source = rows, source
    return made


def steps_of(data: torch.Tensor, of: PackedLengths) -> torch.Tensor:
    """The padded steps [batch, steps, ...] of the data of a packed sequence.

    Raises:
        UnsupportedError: the data is not that of all steps, one after another.
    """
    if isinstance(data, StepRows) and data.rows.segments == of.every_step:
        return data.rows.whole
    if of.steps == 1 and not isinstance(data, StepRows):
        return data.unsqueeze(1)
    raise refused(
        "data and batch_sizes do not belong together; give the rows of all steps, one step after "
        "another"
    )


def cut(rows: Rows, start: int, stop: int) -> list[tuple[int, Segment]]:
    """What lies between two rows of the broad batch: segments, and in which segment each is.

    Raises:
        UnsupportedError: a place is no beginning or end of rows of some steps.
    """
    found, position = [], 0
    places = {count: step for step, count in enumerate(rows.of.counts)}
    for number, (first, last) in enumerate(rows.segments):
        low = rows.of.counts[last]
        size = rows.of.counts[first] - low
        begin, end = max(start - position, 0), min(stop - position, size)
        if begin < end:
            if low + begin not in places or low + end not in places:
                raise refused(
                    "rows are cut at a place that is no number of rows of a step; cut data by "
                    "batch_sizes, all rows of a step at once"
                )
            found.append((number, (places[low + end], places[low + begin])))
        position += size
    return found or [(0, (0, 0))]


def joined(pieces: Sequence[tuple[Segment, torch.Tensor]], of: PackedLengths) -> Rows:
    """Segments one behind the other; those that follow one another become one."""
    segments: list[Segment] = []
    parts: list[torch.Tensor] = []
    for (first, last), part in [piece for piece in pieces if piece[0][0] != piece[0][1]] or pieces[
        :1
    ]:
        if segments and segments[-1][0] == last:
            longer = _longer(of, last, part)
            parts[-1] = torch.where(longer, parts[-1], part)
            segments[-1] = (first, segments[-1][1])
        else:
            segments.append((first, last))
            parts.append(part)
    return Rows(of, segments, parts=parts)


def written(
    of: PackedLengths, segment: Segment | None, new: Any, old: torch.Tensor
) -> torch.Tensor:
    """Old values [batch, ...], and new ones in the rows of a segment, or in all."""
    fitting = torch.as_tensor(new, dtype=old.dtype).expand_as(old)
    if segment is None:
        return fitting.clone()
    first, last = segment
    within = _longer(of, first, old) if first else torch.logical_not(_longer(of, last, old))
    if first and last < of.steps:
        within = torch.logical_and(within, torch.logical_not(_longer(of, last, old)))
    return torch.where(within, fitting, old)


def _longer(of: PackedLengths, step: int, part: torch.Tensor) -> torch.Tensor:
    """Which rows are longer than a number of steps: bool [batch, 1, ...] of a part's rank."""
    return of.longer(step).reshape(-1, *[1] * (part.dim() - 1))
