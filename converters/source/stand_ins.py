"""Functions of torch that its ONNX exporter lacks, written with those it has, during an export."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ondevice.converters.source.bits import masked, shifted_left, shifted_right
from ondevice.converters.source.chosen_rows import ChosenRows
from ondevice.converters.source.integer_division import integer_quotient
from ondevice.converters.source.one_step_masks import OneStepMasks
from ondevice.converters.source.prepared import shortened
from ondevice.converters.source.scattered import scatter, scatter_add, scatter_reduce
from ondevice.errors import UnsupportedError

Function = Callable[..., Any]

_BAG_OPTIONS = (  # of functional.embedding_bag, after input and weight
    "offsets", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse",
    "per_sample_weights", "include_last_offset", "padding_idx",
)  # fmt: skip


def pooled(vectors: torch.Tensor, mode: str, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Sum, mean or maximum of each bag as `nn.EmbeddingBag` defines it.

    Args:
        vectors: float32 [bags, n, dim].
        mode: "sum", "mean" or "max".
        counted: which vectors count, bool [bags, n]; None: all. A bag without any is zero.

    Returns:
        float32 [bags, dim].
    """
    if counted is None:
        if mode == "max":
            return vectors.amax(1)
        return vectors.sum(1) if mode == "sum" else vectors.mean(1)
    counted = counted.unsqueeze(-1)
    if mode == "max":
        lowest = torch.where(counted, vectors, torch.finfo(torch.float32).min).amax(1)
        return torch.where(counted.any(1), lowest, 0.0)
    total = torch.where(counted, vectors, 0.0).sum(1)
    return total if mode == "sum" else total / counted.sum(1).clamp(min=1)


@contextmanager
def stand_ins(module: nn.Module) -> Iterator[None]:
    """Let functions stand in for others while a module is traced inside the block."""
    with _StandIns(module):
        yield


class _StandIns(TorchFunctionMode):
    """Answers calls of the functions below; the rest goes on as usual."""

    def __init__(self, module: nn.Module) -> None:
        """Read the masks of a module, and name the functions that are replaced."""
        super().__init__()
        self._module = module
        self._masks = {  # lists, since no tensor has values while a module is traced
            name: value.reshape(-1).nonzero().reshape(-1).tolist()
            for name, value in _tensors(module)
            if value.dtype == torch.bool
        }
        self._steps = OneStepMasks()
        self._rows = ChosenRows(self._steps)
        self._flags = list(_plain_flags(module))
        self._counts: list[Any] = []  # results of torch.arange: 0, 1, 2, ...
        self._answers: list[tuple[Any, bool]] = []  # tensors whose value a branch may ask
        self._functions: dict[Any, Function] = {
            functional.embedding_bag: self._embedding_bag,
            functional.scaled_dot_product_attention: self._attention,
            functional.rrelu: self._rrelu,
            functional.logsigmoid: _log_sigmoid,
            torch.logaddexp: _log_add_exp,
            torch.Tensor.__getitem__: self._rows.chosen,
            torch.Tensor.__setitem__: self._set_masked,
            torch.Tensor.unbind: self._each_flag,
            torch.Tensor.__bool__: self._answer,
            torch.Tensor.any: self._asked(torch.Tensor.any, True),
            torch.any: self._asked(torch.any, True),
            torch.Tensor.all: self._asked(torch.Tensor.all, False),
            torch.all: self._asked(torch.all, False),
            torch.arange: self._arange,
            torch.bucketize: self._bucketize,
            torch.column_stack: _column_stack,
            **dict.fromkeys((torch.cumprod, torch.Tensor.cumprod), _products),
            **dict.fromkeys((torch.take_along_dim, torch.Tensor.take_along_dim), _take_along),
            torch.cdist: _distances,
            torch.sparse.mm: _sparse_product,
            torch.dstack: self._depth_stack,
            **dict.fromkeys((torch.scatter_add, torch.Tensor.scatter_add), scatter_add),
            torch.Tensor.scatter_add_: _in_place(scatter_add),
            **dict.fromkeys((torch.scatter, torch.Tensor.scatter), scatter),
            torch.Tensor.scatter_: _in_place(scatter),
            **dict.fromkeys((torch.scatter_reduce, torch.Tensor.scatter_reduce), scatter_reduce),
            torch.Tensor.scatter_reduce_: _in_place(scatter_reduce),
            **dict.fromkeys((torch.sort, torch.Tensor.sort), _stable_sort),
            **dict.fromkeys((torch.argsort, torch.Tensor.argsort), _stable_argsort),
            torch.hstack: lambda parts: torch.cat(list(parts), min(1, parts[0].dim() - 1)),
            torch.isin: self._is_in,
            torch.adaptive_avg_pool1d: self._pool_all,
            torch.masked_select: self._masked_select,
            torch.split: self._split,
            torch.Tensor.split: self._split,
            torch.searchsorted: self._search_sorted,
            torch.Tensor.masked_select: self._masked_select,
            **dict.fromkeys(_BIT_ANDS, masked),
            **dict.fromkeys(_RIGHT_SHIFTS, shifted_right),
            **dict.fromkeys(_LEFT_SHIFTS, shifted_left),
            **dict.fromkeys(_DIVISIONS, _divide),
            **dict.fromkeys(_FLOOR_DIVISIONS, _floor_divide),
            torch.Tensor.__rfloordiv__: lambda divisor, dividend: _floor_divide(dividend, divisor),
            torch.Tensor.div_: _in_place(_divide),
            torch.Tensor.divide_: _in_place(_divide),
            torch.Tensor.floor_divide_: _in_place(_floor_divide),
            torch.Tensor.__ifloordiv__: _in_place(_floor_divide),
        }

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the stand-in of a function, or the function where it has none or declines."""
        stand_in = self._functions.get(function)
        kwargs = dict(kwargs or {})
        if stand_in is not None:
            result = stand_in(*args, **kwargs)
            if result is not NotImplemented:
                self._steps.note(function, args, result)
                return result
        result = function(*args, **kwargs)
        self._steps.note(function, args, result)
        return result

    def _embedding_bag(self, input: Any, weight: Any, *rest: Any, **options: Any) -> Any:
        """Bags of one size, the rows of a matrix: a lookup and a sum, mean or maximum."""
        given = {**dict(zip(_BAG_OPTIONS, rest, strict=False)), **options}
        offsets = given.get("offsets")
        if input.dim() == 1 and any(offsets is count for count in self._counts):
            input = input.unsqueeze(1)  # torch.arange as offsets: one ID a bag
        if input.dim() != 2:
            raise UnsupportedError(
                "EmbeddingBag with offsets; give a matrix of IDs [batch, bag] instead, filled up "
                "with padding_idx"
            )
        if given.get("max_norm") is not None:
            return NotImplemented
        vectors = functional.embedding(input, weight)
        mode, padding = given.get("mode", "mean"), given.get("padding_idx")
        weights = given.get("per_sample_weights")
        if weights is not None:
            vectors = vectors * weights.unsqueeze(-1)
        counted = None if padding is None else input != padding % weight.shape[0]
        return pooled(vectors, mode, counted)

    def _attention(self, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
        """Attention of three axes as one head; zeros where a mask leaves a step nothing to see."""
        mask: Any = rest[0] if rest else options.get("attn_mask")
        if query.dim() != 3 and mask is None:
            return NotImplemented
        one_head = query.dim() == 3
        if one_head:
            query, key, value = (part.unsqueeze(1) for part in (query, key, value))
            mask = mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask
        options.update(zip(("dropout_p", "is_causal"), rest[1:], strict=False))
        found = functional.scaled_dot_product_attention(
            query, key, value, **{**options, "attn_mask": mask}
        )
        if mask is not None:  # the exporter's softmax over nothing is a mean, or no number
            seen = mask if mask.dtype == torch.bool else mask > -torch.inf
            found = torch.where(seen.any(-1, keepdim=True), found, 0.0)
        return found.squeeze(1) if one_head else found

    def _masked_select(self, input: Any, mask: Any, **options: Any) -> Any:
        """Selection by a mask that is a buffer of the module: its places are known."""
        places = next(
            (
                self._masks[name]
                for name, value in _tensors(self._module)
                if value is mask and name in self._masks
            ),
            None,
        )
        axes = mask.dim()
        if places is None and self._rows.chooses(input, mask):
            return input.reshape(-1)
        if places is None:
            raise UnsupportedError(
                "masked_select by a mask that is no buffer of the module; keep a constant mask in "
                "a buffer (register_buffer), or select by indices such as torch.tril_indices"
            )
        if input.dim() < axes or options:
            return NotImplemented
        if tuple(input.shape[input.dim() - axes :]) != tuple(mask.shape):
            return NotImplemented
        return input.flatten(input.dim() - axes)[..., places].reshape(-1)

    def _asked(self, function: Function, answer: bool) -> Function:
        """A call of any or all over every row of a batch, whose answer for a branch is known.

        A row's score is the same beside whatever rows: also beside one for which the answer of
        `any` is true, or that of `all` false. The branch of that batch computes it.
        """

        def asked(input: Any, *rest: Any, **options: Any) -> Any:
            result = function(input, *rest, **options)
            over_rows = not rest and not options and input.dim() > 0
            if over_rows and isinstance(input.shape[0], torch.SymInt):
                self._answers.append((result, answer))
            return result

        return asked

    def _answer(self, condition: Any) -> Any:
        """The branch of a module that asks `if mask.any()`."""
        known = (answer for result, answer in self._answers if result is condition)
        return next(known, NotImplemented)

    def _each_flag(self, input: Any, dim: int = 0) -> Any:
        """A loop over a constant vector of flags: a branch may ask each of them."""
        values = next((values for known, values in self._flags if known is input), None)
        if values is None:
            return NotImplemented
        flags = input.unbind(dim)
        self._answers += zip(flags, values, strict=True)
        return flags

    def _arange(self, *bounds: Any, **options: Any) -> Any:
        numbers = torch.arange(*bounds, **options)
        if len(bounds) == 1:
            self._counts.append(numbers)
        return numbers

    def _depth_stack(self, parts: Any) -> Any:
        deep = all(part.dim() > 2 for part in parts)
        return torch.cat(list(parts), 2) if deep else torch.stack(list(parts), 2)

    def _split(self, input: Any, size: Any, dim: int = 0) -> Any:
        """Parts of the batch's size, which are a fixed number."""
        if not isinstance(size, torch.SymInt):
            return NotImplemented
        parts = input.unflatten(dim, (input.shape[dim] // size, size))
        return parts.unbind(dim)

    def _pool_all(self, input: Any, output_size: Any) -> Any:
        pools_all = output_size in (1, (1,), [1])
        return input.mean(-1, keepdim=True) if pools_all else NotImplemented

    def _set_masked(self, target: Any, place: Any, value: Any) -> Any:
        """x[mask] = number, or the rows that the mask chose."""
        if self._rows.put_back(target, place, value):
            return None
        mask = isinstance(place, torch.Tensor) and place.dtype == torch.bool
        if not mask or not isinstance(value, int | float):
            return NotImplemented
        return target.masked_fill_(
            place.reshape(*place.shape, *[1] * (target.dim() - place.dim())), value
        )

    def _bucketize(self, input: Any, boundaries: Any, **options: Any) -> Any:
        """How many boundaries lie below each number; all of them below NaN, as in torch."""
        if not isinstance(input, torch.Tensor):
            return NotImplemented
        each = input.unsqueeze(-1)
        if boundaries.dim() > 1:  # a row of them for each row of numbers
            boundaries = boundaries.unsqueeze(-2)
        above = boundaries > each if options.get("right", False) else boundaries >= each
        below = torch.logical_not(above)
        return below.to(torch.int32 if options.get("out_int32", False) else torch.int64).sum(-1)

    def _search_sorted(self, boundaries: Any, input: Any, **options: Any) -> Any:
        if options.keys() - {"right", "side", "out_int32"}:
            return NotImplemented
        right = options.pop("right", False) or options.pop("side", "left") == "right"
        return self._bucketize(input, boundaries, right=right, **options)

    def _is_in(self, elements: Any, tests: Any, **options: Any) -> Any:
        if options or not isinstance(elements, torch.Tensor) or not isinstance(tests, torch.Tensor):
            return NotImplemented
        return (elements.unsqueeze(-1) == tests.reshape(-1)).any(-1)

    def _rrelu(self, input: Any, lower: float = 1 / 8, upper: float = 1 / 3, **_: Any) -> Any:
        """Leaky ReLU with the mean slope, as torch computes it outside training."""
        return functional.leaky_relu(input, (lower + upper) / 2)


def _log_sigmoid(input: Any) -> Any:
    """The exporter writes log(sigmoid(x)), which is minus infinity below -88."""
    return -functional.softplus(-input)


def _log_add_exp(input: Any, other: Any, **options: Any) -> Any:
    """The exporter writes log(exp(x) + exp(y)), which is infinite above 88."""
    if options:
        return NotImplemented
    return torch.maximum(input, other) + functional.softplus(-torch.abs(input - other))


def _stable_sort(input: Any, *rest: Any, stable: Any = None, **options: Any) -> Any:
    """ONNX's order is stable; the exporter lacks the form that asks for it."""
    return NotImplemented if stable is None else torch.sort(input, *rest, **options)


def _stable_argsort(
    input: Any, dim: int = -1, descending: bool = False, stable: Any = None, **options: Any
) -> Any:
    if stable is None or options:
        return NotImplemented
    return torch.sort(input, dim, descending).indices


def _products(input: Any, dim: int, **options: Any) -> Any:
    """Products of the first elements, one after another: ONNX has no such operator."""
    if options or not 0 < _fixed_size(input, dim) <= _MOST_PRODUCTS:
        return NotImplemented
    if not input.is_floating_point():
        input = input.to(torch.int64)
    first, *others = input.unbind(dim)
    products = [first]
    for other in others:
        products.append(products[-1] * other)
    return torch.stack(products, dim)


def _take_along(input: Any, indices: Any, dim: int | None = None) -> Any:
    """Elements at given places, whose axes of size 1 are repeated as often as the input needs."""
    if dim is None or input.dim() != indices.dim() or not _fixed_size(indices, dim):
        return NotImplemented
    axis = dim % input.dim()
    sizes = list(_broadcast_shapes(_without(input, axis), _without(indices, axis)))
    places = indices.expand(*sizes[:axis], indices.shape[axis], *sizes[axis:])
    return input.expand(*sizes[:axis], input.shape[axis], *sizes[axis:]).gather(axis, places)


def _without(tensor: Any, axis: int) -> tuple[Any, ...]:
    return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])


def _fixed_size(tensor: Any, dim: int) -> int:
    """The size of an axis; 0 where it is free."""
    size = tensor.shape[dim] if tensor.dim() else 0
    return size if isinstance(size, int) else 0


def _distances(x1: Any, x2: Any, p: float = 2.0, **_: Any) -> Any:
    """The distance of every vector of one set from every vector of another."""
    differences = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    return torch.linalg.vector_norm(differences, ord=p, dim=-1)


def _sparse_product(*_: Any, **__: Any) -> Any:
    raise UnsupportedError(
        "torch.sparse.mm: graphs have no sparse tensors; where the product is the same for every "
        "request, as the propagated vectors of a graph network, compute it once and keep it in a "
        "buffer (register_buffer), whose rows become a table"
    )


def _column_stack(parts: Any) -> Any:
    """Columns side by side, as their common type."""
    columns = [part if part.dim() > 1 else part.reshape(-1, 1) for part in parts]
    kind = reduce(torch.promote_types, (column.dtype for column in columns))
    return torch.cat([column.to(kind) for column in columns], 1)


_broadcast_shapes: Function = torch.broadcast_shapes
_MOST_PRODUCTS = 256  # elements along an axis, a node each

_BIT_ANDS = (
    torch.bitwise_and, torch.Tensor.bitwise_and, torch.Tensor.__and__, torch.Tensor.__rand__,
)  # fmt: skip
_RIGHT_SHIFTS = (
    torch.bitwise_right_shift, torch.Tensor.bitwise_right_shift, torch.Tensor.__rshift__,
)  # fmt: skip
_LEFT_SHIFTS = (
    torch.bitwise_left_shift, torch.Tensor.bitwise_left_shift, torch.Tensor.__lshift__,
)  # fmt: skip
_DIVISIONS = (torch.div, torch.divide, torch.Tensor.div, torch.Tensor.divide)
_FLOOR_DIVISIONS = (
    torch.floor_divide, torch.Tensor.floor_divide, torch.Tensor.__floordiv__,
)  # fmt: skip


def _divide(input: Any, other: Any, *, rounding_mode: str | None = None, **options: Any) -> Any:
    return NotImplemented if options else integer_quotient(input, other, rounding_mode)


def _floor_divide(input: Any, other: Any, **options: Any) -> Any:
    return NotImplemented if options else integer_quotient(input, other, "floor")


def _in_place(function: Function) -> Function:
    def replaced(input: Any, *rest: Any, **options: Any) -> Any:
        result = function(input, *rest, **options)
        return result if result is NotImplemented else input.copy_(result)

    return replaced


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(module.named_buffers(), module.named_parameters())


def _plain_flags(module: nn.Module) -> Iterator[tuple[torch.Tensor, list[bool]]]:
    """Vectors of flags that are plain attributes of a module's parts, and their values."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and value.dtype == torch.bool and value.dim() == 1:
                yield value, value.tolist()


_DROPOUTS = (
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
    functional.alpha_dropout, functional.feature_alpha_dropout, torch.dropout,
)  # fmt: skip


_WATCHED = frozenset((*_DROPOUTS, torch._pack_padded_sequence, functional.embedding))


class Evaluation(TorchFunctionMode):
    """Calls that would still train, or change the module, in evaluation mode.

    Dropout is left out, also where a module calls the function without saying training=False. An
    embedding with max_norm shortens the vectors that it returns, not the rows of the module. Packed
    sequences longer than their steps are an error: torch would count up to any length.
    """

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function without what it does only in training."""
        if function not in _WATCHED:  # most calls, tens of thousands in a conversion
            return function(*args, **kwargs) if kwargs else function(*args)
        if function in _DROPOUTS:
            given = {**dict(zip(("input", "p", "training"), args, strict=False)), **(kwargs or {})}
            if given.get("training", True) and given.get("p", 0.5):
                warnings.warn(
                    "dropout that is on in evaluation mode too is left out: the module calls it "
                    "without training=self.training",
                    stacklevel=2,
                )
            return given["input"]
        if function is torch._pack_padded_sequence:
            _check_lengths(*args)
        if function is functional.embedding:
            names = ("input", "weight", "padding_idx", "max_norm", "norm_type")
            given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
            if given.get("max_norm") is not None:
                vectors = functional.embedding(given["input"], given["weight"])
                return shortened(vectors, given["max_norm"], given.get("norm_type", 2.0))
        return function(*args, **(kwargs or {}))


def _check_lengths(input: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> None:
    steps = input.shape[1 if batch_first else 0]
    if lengths.max() > steps:
        raise ValueError(
            f"pack_padded_sequence: expected lengths up to {steps} steps, got {lengths.max()}"
        )
