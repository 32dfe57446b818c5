"""Cutting, joining and writing rows of a packed sequence's steps while a module is traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional
from torch.utils import _pytree as pytree

from ondevice.converters.source.row_functions import axis_of, by_row, name_of, writes
from ondevice.converters.source.step_rows import (
    Rows,
    Segment,
    StepRows,
    cut,
    joined,
    tensor_of,
    written,
)
from ondevice.converters.source.step_sizes import (
    PackedLengths,
    StepSizes,
    computed,
    counts_in,
    is_count,
    number_of,
    refused,
    with_batch,
)

Function = Callable[..., Any]
_ALL = slice(None)


class StepFunctions:
    """Answers functions of rows of steps, and of tensors that numbers of rows cut or size.

    Attributes:
        known: the lengths of every packed sequence so far.
    """

    def __init__(self) -> None:
        self.known: list[PackedLengths] = []
        self._special: dict[Any, Function] = {
            torch.Tensor.__getitem__: self._chosen,
            torch.Tensor.__setitem__: self._set,
            torch.ops.aten.slice: self._sliced,
            **dict.fromkeys((torch.narrow, torch.Tensor.narrow), self._narrowed),
            **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), self._joined),
            torch.vstack: self._joined,
            functional.pad: self._padded,
            torch._C._nn.pad_sequence: self._stacked,
            **dict.fromkeys((torch.split, torch.Tensor.split), self._split),
            **dict.fromkeys(_SPLITS, self._split),
            **dict.fromkeys((torch.tensor_split, torch.Tensor.tensor_split), self._split_at),
            torch.Tensor.size: self._size,
            torch.Tensor.__len__: lambda tensor: self._size(tensor, 0),
            torch.Tensor.numel: lambda tensor: prod(self._size(tensor)),
            torch.numel: lambda tensor: prod(self._size(tensor)),
        }

    def answer(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a function returns for rows of steps; NotImplemented if it is not about them."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        numbers = [self._with_batch(leaf) for leaf in leaves]
        if any(number is not leaf for number, leaf in zip(numbers, leaves, strict=True)):
            args, kwargs = pytree.tree_unflatten(numbers, structure)
            found = self.answer(function, args, kwargs)
            return function(*args, **kwargs) if found is NotImplemented else found
        has_rows = any(isinstance(leaf, StepRows) for leaf in leaves)
        if not has_rows and not self._has_counts(function, leaves):
            return NotImplemented
        if kwargs.get("out") is not None:
            raise refused(f"{name_of(function)} with out=; assign what it returns")
        if function in self._special:
            found = self._special[function](*args, **kwargs)
            if found is not NotImplemented:
                return found
        if getattr(function, "__self__", None) is torch.Tensor.shape:
            return torch.Size(self._size(*args[:1]))
        if name_of(function).startswith("new_") and isinstance(args[0], StepRows):
            args = (args[0].rows.parts[0], *args[1:])
            has_rows = any(isinstance(leaf, StepRows) for leaf in pytree.tree_leaves(args))
            if not any(True for _ in counts_in(leaves)):
                return function(*args, **kwargs)
        if not has_rows:
            return self._sized(function, args, dict(kwargs))
        found = by_row(function, args, dict(kwargs))
        if writes(function, args, dict(kwargs)) and isinstance(args[0], StepRows):
            return self._assigned(args[0], found)
        return found

    # Numbers of rows

    def _with_batch(self, leaf: Any) -> Any:
        """An argument whose sizes are numbers of rows, even where the batch's size is in them."""
        if not isinstance(leaf, slice):
            return with_batch(leaf, self.known)
        ends = (leaf.start, leaf.stop)
        found: Any = [with_batch(end, self.known) for end in ends]
        same = all(one is other for one, other in zip(found, ends, strict=True))
        return leaf if same else slice(found[0], found[1], leaf.step)

    def _has_counts(self, function: Function, leaves: list[Any]) -> bool:
        """Whether a function cuts or sizes a tensor by a number of rows, or computes with one."""
        counts = [number_of(count) for count in counts_in(leaves)]
        if function in self._special or name_of(function) in _SIZED:
            return bool(counts)
        return any(of.has(abs(count)) for of in self.known for count in counts)

    def of_sizes(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What a function returns for numbers of rows, compared with those of the batch too."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        numbers = {count for leaf in leaves if isinstance(leaf, StepSizes) for count in leaf.counts}
        for place, leaf in enumerate(leaves):
            for of in self.known if isinstance(leaf, torch.SymInt) else ():
                if numbers & set(of.counts) and statically_known_true(leaf == of.rows):
                    leaves[place] = of.counts[0]
                    break
        return computed(function, *pytree.tree_unflatten(leaves, structure))

    def lengths_of(self, sizes: Any) -> PackedLengths:
        """The lengths whose numbers of rows `batch_sizes` are."""
        if isinstance(sizes, StepSizes):
            if sizes.free is not None:
                return sizes.free
            for of in self.known:
                if sizes.counts == list(of.counts[:-1]):
                    return of
        raise refused("batch_sizes are not those of a packed sequence")

    def _owner(self, count: int) -> tuple[PackedLengths, tuple[Segment, ...]]:
        """The lengths and the segments that a number of rows is of."""
        for of in reversed(self.known):
            if count == of.total:
                return of, of.every_step
            places = {size: step for step, size in enumerate(of.counts)}
            for size, last in places.items():
                if size + count in places:
                    return of, ((places[size + count], last),)
        raise refused("a tensor with as many rows as none of its steps has; see batch_sizes")

    def _size(self, tensor: StepRows, dim: int | None = None) -> Any:
        rows = tensor.rows
        sizes = (rows.count, *rows.parts[0].shape[1:])
        return torch.Size(sizes) if dim is None else sizes[dim]

    def _sized(self, function: Function, args: Any, kwargs: dict[str, Any]) -> Any:
        """A new or repeated tensor with a number of rows; all rows of it are the same."""
        if name_of(function) not in _SIZED:
            raise refused(
                f"{name_of(function)} with a number of rows; zeros, ones, full, expand and repeat "
                "make tensors with as many"
            )
        leaves, structure = pytree.tree_flatten((args, kwargs))
        counts = [number_of(leaf) for leaf in leaves if is_count(leaf)]
        if len(counts) != 1:
            raise refused(f"{name_of(function)} with {len(counts)} numbers of rows")
        of, segments = self._owner(counts[0])
        size = of.rows * len(segments)
        given, options = pytree.tree_unflatten(
            [size if is_count(leaf) else leaf for leaf in leaves], structure
        )
        made = function(*given, **options)
        if segments == ((0, of.steps),):
            return made
        if name_of(function) in _SHAPED or not statically_known_true(made.shape[0] == size):
            raise refused(f"{name_of(function)} with a number of rows that is not the first size")
        return tensor_of(Rows.from_flat(of, segments, made))

    def _labels(self, tensor: Any, place: Any) -> Rows:
        """A tensor as rows of the packed sequence whose numbers cut it."""
        counts = [abs(number_of(count)) for count in counts_in(place)]
        known = list(reversed(self.known))
        if isinstance(tensor, StepRows):
            same = [of for of in known if of.steps == tensor.rows.of.steps]
            known = [tensor.rows.of, *same]
        for of in known:
            if not all(of.has(count) for count in counts):
                continue
            if isinstance(tensor, StepRows):
                return tensor.rows.labelled(of)
            if statically_known_true(tensor.shape[0] == of.rows):
                return Rows(of, [(0, of.steps)], parts=[tensor])
        raise refused(
            "a tensor is cut at a place that is no number of rows of a step, or one that has not "
            "the rows of the batch as its first axis"
        )

    # Cutting and joining

    def _chosen(self, tensor: Any, place: Any) -> Any:
        """tensor[place]."""
        if any(isinstance(part, StepRows) for part in pytree.tree_leaves(place)):
            return by_row(torch.Tensor.__getitem__, (tensor, place), {})
        first, others = _rows_and_others(tensor, place)
        if not isinstance(first, slice):
            if isinstance(tensor, StepRows) or not isinstance(first, int):
                raise refused(_CHOICE)
            return self._chosen(tensor[first], others)
        if isinstance(tensor, StepRows) and first == _ALL:
            return by_row(torch.Tensor.__getitem__, (tensor, (_ALL, *others)), {})
        if any(True for _ in counts_in(others)):
            raise refused(_AXIS)
        rows = self._labels(tensor, first)
        pieces = cut(rows, *_bounds(first, rows.count))
        chosen = [rows.parts[number] for number, _ in pieces]
        if others:
            chosen = [part[(_ALL, *others)] for part in chosen]
        found = Rows(rows.of, [segment for _, segment in pieces], parts=chosen)
        return tensor_of(found, None if others else (tensor, first))

    def _sliced(
        self, tensor: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
    ) -> Any:
        """torch.ops.aten.slice, which the exporter calls where a slice has tensors."""
        axis = axis_of(dim, 1 if isinstance(tensor, StepRows) else tensor.dim())
        return self._chosen(tensor, (*[_ALL] * axis, slice(start, end, step)))

    def _narrowed(self, tensor: Any, dim: int, start: Any, length: Any) -> Any:
        begin = number_of(start)
        return self._sliced(tensor, dim, begin, begin + number_of(length))

    def _split(self, tensor: Any, sizes: Any = None, dim: int = 0, **options: Any) -> Any:
        sizes = next((options[key] for key in _SIZES if key in options), sizes)
        if dim != 0 or isinstance(sizes, int):
            return NotImplemented
        found, begin = [], 0
        for size in map(number_of, sizes):
            found.append(self._chosen(tensor, slice(begin, begin + size)))
            begin += size
        return tuple(found)

    def _split_at(self, tensor: Any, places: Any, dim: int = 0) -> Any:
        """Parts that end at each of several places, and the rest."""
        if dim != 0 or not isinstance(places, list | tuple):
            return NotImplemented
        ends = [0, *map(number_of, places), None]
        return tuple(self._chosen(tensor, slice(begin, end)) for begin, end in pairwise(ends))

    def _joined(self, tensors: Any, dim: int = 0, **options: Any) -> Any:
        """Rows behind one another; NotImplemented along another axis."""
        given = list(tensors)
        if not any(isinstance(part, StepRows) for part in given):
            return NotImplemented
        of = next(part.rows.of for part in given if isinstance(part, StepRows))
        axis = axis_of(options.get("axis", dim), 1 if dim == 0 else _rank(given))
        if axis != 0:
            return NotImplemented
        pieces: list[tuple[Segment, torch.Tensor]] = []
        for part in given:
            if isinstance(part, StepRows):
                rows = part.rows.labelled(of)
                pieces += zip(rows.segments, (part.clone() for part in rows.parts), strict=True)
            elif statically_known_true(part.shape[0] == of.rows):
                pieces.append(((0, of.steps), part.clone()))  # writes to one are not to the other
            else:
                raise refused(
                    "rows of its steps are joined with other rows; join those of its steps only"
                )
        return tensor_of(joined(pieces, of))

    def _padded(
        self, tensor: Any, pad: Any, mode: str = "constant", value: float | None = None
    ) -> Any:
        """Rows with as many behind them as a number says; NotImplemented along other axes."""
        sizes = list(pad)
        if not isinstance(tensor, StepRows) or not is_count(sizes[-1]) or mode != "constant":
            return NotImplemented
        part = tensor.rows.parts[0]
        if len(sizes) != 2 * part.dim() or sizes[-2] != 0:
            return NotImplemented
        of, segments = self._owner(number_of(sizes[-1]))
        behind = part.new_full(part.shape, value or 0.0)
        rows = tensor.rows.labelled(of)
        pieces = [*zip(rows.segments, rows.parts, strict=True), (segments[0], behind)]
        whole = tensor_of(joined(pieces, of))
        others = (whole, [*sizes[:-2], 0, 0], mode, value)
        if isinstance(whole, StepRows):
            return by_row(functional.pad, others, {})
        return functional.pad(*others)

    def _stacked(
        self, tensors: Any, batch_first: bool = False, value: float = 0.0, side: str = "right"
    ) -> Any:
        """Rows of several steps as tensors of all rows, the others padded, one for each step."""
        given = list(tensors)
        of = next(part.rows.of for part in given if isinstance(part, StepRows))
        found = []
        for part in given:
            rows = part.rows.labelled(of) if isinstance(part, StepRows) else None
            if rows is None:
                found.append(part)
                continue
            if len(rows.segments) != 1 or rows.segments[0][1] != of.steps or side != "right":
                raise refused("pad_sequence of something else than the rows of single steps")
            padding = rows.parts[0].new_full((), value).expand_as(rows.parts[0])
            found.append(written(of, rows.segments[0], rows.parts[0], padding))
        return torch.stack(found, 0 if batch_first else 1)

    # Writing

    def _set(self, tensor: Any, place: Any, value: Any) -> None:
        """tensor[place] = value."""
        if any(isinstance(part, StepRows) for part in pytree.tree_leaves(place)):
            if isinstance(value, torch.Tensor) or not isinstance(tensor, StepRows):
                raise refused("rows of a step are chosen by a mask; use torch.where")
            self._assigned(tensor, by_row(_filled, (tensor, place, value), {}))
            return
        first, others = _rows_and_others(tensor, place)
        if not isinstance(first, slice):
            if isinstance(tensor, StepRows) or not isinstance(first, int):
                raise refused(_CHOICE)
            self._set(tensor[first], others, value)
            return
        if any(True for _ in counts_in(others)):
            raise refused(_AXIS)
        rows = self._labels(tensor, first)
        pieces = cut(rows, *_bounds(first, rows.count))
        values = self._values(value, rows.of, [segment for _, segment in pieces])
        for (number, segment), new in zip(pieces, values, strict=True):
            old = rows.parts[number]
            old_part = old[(_ALL, *others)] if others else old
            whole = segment == rows.segments[number]  # what lies beyond is never read
            part = written(rows.of, None if whole else segment, new, old_part)
            if not isinstance(tensor, StepRows):
                tensor[(_ALL, *others)] = part
            elif others:
                old = old.clone()
                old[(_ALL, *others)] = part
                tensor.rows.replace(number, old)
            else:
                tensor.rows.replace(number, part)
        if isinstance(tensor, StepRows) and tensor.source is not None:
            self._set(*tensor.source, tensor)

    def _values(self, value: Any, of: PackedLengths, segments: list[Segment]) -> list[Any]:
        """What is written to every segment."""
        if isinstance(value, StepRows):
            rows = value.rows.labelled(of)
            if list(rows.segments) != segments:
                raise refused("rows are written to other rows")
            return rows.parts
        if (
            isinstance(value, torch.Tensor)
            and any(isinstance(size, torch.SymInt) for size in value.shape)
            and segments != [(0, of.steps)]
        ):
            raise refused(
                "a tensor of the whole batch is written to rows of a step; cut it by batch_sizes"
            )
        return [value] * len(segments)

    def _assigned(self, tensor: StepRows, found: Any) -> StepRows:
        """A tensor whose values a function has replaced, and the one that it was cut from."""
        if isinstance(found, StepRows):
            tensor.rows = found.rows
        if tensor.source is not None:
            self._set(*tensor.source, found)
        return tensor


def _filled(tensor: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor:
    """A number where a mask says."""
    if mask.dtype != torch.bool:
        raise refused("rows of a step are chosen by a tensor of numbers; use torch.where")
    within = mask.reshape(*mask.shape, *[1] * (tensor.dim() - mask.dim()))
    return torch.where(within, torch.as_tensor(value, dtype=tensor.dtype), tensor)


def _rows_and_others(tensor: Any, place: Any) -> tuple[Any, tuple[Any, ...]]:
    """An index of rows, and that of the other axes."""
    first, *others = place if isinstance(place, tuple) else (place,)
    if first is Ellipsis:
        rank = tensor.rows.rank if isinstance(tensor, StepRows) else tensor.dim()
        named = sum(part is not None for part in others)
        places = [*[_ALL] * (rank - named), *others]
        first, others = places[0], places[1:]
    if isinstance(first, slice):
        first = slice(number_of(first.start), number_of(first.stop), number_of(first.step))
    return number_of(first) if is_count(first) else first, tuple(others)


def _bounds(place: slice, count: int) -> tuple[int, int]:
    """Beginning and end of a slice of rows."""
    start, stop, step = place.start, place.stop, place.step
    if step not in (None, 1) or any(isinstance(part, torch.SymInt) for part in (start, stop)):
        raise refused("rows cut by a step or by the size of a tensor; cut by batch_sizes")
    begin, end, _ = slice(start, stop).indices(count)
    return begin, end


def _rank(tensors: list[Any]) -> int:
    part = tensors[0]
    return part.rows.rank if isinstance(part, StepRows) else part.dim()


_SIZES = ("split_size", "split_size_or_sections", "split_sizes")
_SPLITS = (torch.split_with_sizes, torch.Tensor.split_with_sizes)
_SHAPED = ("view", "reshape", "unflatten")
_SIZED = (
    "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full", "expand",
    "broadcast_to", "repeat", "tile", *_SHAPED,
)  # fmt: skip
_CHOICE = (
    "rows of a step are chosen one by one or by a tensor; take all rows of a step, "
    "data[start : start + batch_sizes[step]]"
)
_AXIS = "an axis other than the first is cut by a number of rows; put the rows first"
