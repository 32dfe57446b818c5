"""The arguments of a module as named inputs: the tensors in tuples, lists and dictionaries."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ondevice.errors import SpecError

BATCH = "batch"
Array = npt.NDArray[Any]
# Names of free axes beside the batch: {"history": {1: "steps"}}.
DynamicAxes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True)
class Arguments:
    """Example arguments of a module's forward, and the name of every tensor among them.

    Attributes:
        args, kwargs: what forward is called with.
        names: input names, in the order of the tensors.
        tensors: the example tensors, [batch, ...] each.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]

    @property
    def examples(self) -> dict[str, Array]:
        """The example values by name, int64 or float32: as a model file takes them."""
        return {
            name: tensor.to(_carrier(tensor.dtype)).detach().numpy()
            for name, tensor in zip(self.names, self.tensors, strict=True)
        }

    @property
    def doubles(self) -> dict[str, Array]:
        """The example values by name that are of float64."""
        return {
            name: tensor.detach().numpy()
            for name, tensor in zip(self.names, self.tensors, strict=True)
            if tensor.dtype == torch.float64
        }

    def replaced(self, values: Mapping[str, Array]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with copies of other values in place of the tensors, of their types."""
        named = zip(self.names, self.tensors, strict=True)
        return self.with_tensors(
            [torch.tensor(values[name], dtype=example.dtype) for name, example in named]
        )

    def with_tensors(
        self, tensors: Sequence[torch.Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors, in the order of `names`."""
        fresh = iter(tensors)

        def replace(leaf: Any) -> Any:
            return next(fresh) if isinstance(leaf, torch.Tensor) else leaf

        args, kwargs = pytree.tree_map(replace, (self.args, self.kwargs))
        return args, kwargs

    def dynamic_shapes(self, module: nn.Module, axes: DynamicAxes) -> Any:
        """The tree that `torch.export` takes: the first axis of every tensor is the batch."""
        dims = {BATCH: torch.export.Dim(BATCH)}
        fresh = iter(zip(self.names, self.tensors, strict=True))

        def shape(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return None
            name, _ = next(fresh)
            named = {0: BATCH, **axes.get(name, {})}
            return {i: dims.setdefault(dim, torch.export.Dim(dim)) for i, dim in named.items()}

        args, kwargs = _listed(pytree.tree_map(shape, (self.args, self.kwargs)))
        parameters = inspect.signature(module.forward).parameters.values()
        if not kwargs and all(item.kind is not item.VAR_POSITIONAL for item in parameters):
            return args
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        return dict(bound.arguments)


def arguments_of(module: nn.Module, example_inputs: Any, axes: DynamicAxes) -> Arguments:
    """Find the tensors among example inputs and name them.

    Args:
        module: whose forward takes them.
        example_inputs: a tuple of positional arguments; a dictionary of keyword arguments, or the
            one dictionary that forward takes; or a single tensor. Other values than tensors stay
            as they are in the model.
        axes: free axes beside the batch.

    A tensor's name is its key in the innermost dictionary, or the name of forward's parameter,
    with a number where that is a list.

    Raises:
        SpecError: no tensors, tensors that differ in their first axis, fewer than two rows, or an
            axis of no input.
    """
    register_dataclasses(example_inputs)
    args, kwargs = pytree.tree_map(_separate, _normal(module, example_inputs))
    parameters = _parameter_names(module, len(args))
    named: list[tuple[str, str, torch.Tensor]] = []
    leaves, _ = pytree.tree_flatten_with_path((args, kwargs))
    for path, leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            short, whole = _name(path[1:], parameters)
            named.append((short, whole, leaf))
    if not named:
        raise SpecError("the example inputs hold no tensor")
    short_names = [short for short, _, _ in named]
    names = tuple(whole if short_names.count(short) > 1 else short for short, whole, _ in named)
    tensors = tuple(leaf for _, _, leaf in named)
    _check(names, tensors, axes)
    return Arguments(args, kwargs, names, tensors)


def _separate(leaf: Any) -> Any:
    """A copy of a tensor on the CPU: the exporter merges inputs that are the same tensor object."""
    return leaf.detach().cpu().clone() if isinstance(leaf, torch.Tensor) else leaf


def _normal(module: nn.Module, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(given, tuple | list):
        return tuple(given), {}
    if isinstance(given, Mapping):
        parameters = inspect.signature(module.forward).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        any_keyword = kinds <= {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        if set(given) <= set(parameters) or (any_keyword and all(map(_is_name, given))):
            return (), dict(given)
        return (given,), {}
    return (given,), {}


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier()


def register_dataclasses(tree: Any) -> None:
    """Let torch look into the dataclasses of a tree of arguments or results, as into tuples."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        if type(tree) not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(type(tree))
        register_dataclasses([getattr(tree, item.name) for item in dataclasses.fields(tree)])
    elif isinstance(tree, Mapping):
        register_dataclasses(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for item in tree:
            register_dataclasses(item)


def _listed(tree: Any) -> Any:
    """A tree with lists in the places of dataclasses, as torch.export takes dynamic shapes."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [_listed(getattr(tree, item.name)) for item in dataclasses.fields(tree)]
    if isinstance(tree, Mapping):
        return {key: _listed(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(map(_listed, tree))
    return tree


def key_of(step: Any) -> str | None:
    """The name at one step of a tree's path: a key or an attribute; None for a place in a list."""
    key = getattr(step, "key", getattr(step, "name", None))
    return None if key is None else str(key)


def _parameter_names(module: nn.Module, count: int) -> list[str]:
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        else:
            names.append(parameter.name)
    return names


def _name(path: Sequence[Any], parameters: Sequence[str]) -> tuple[str, str]:
    """A short name and one that says the whole path."""
    first, *rest = path
    short = whole = key_of(first) or parameters[first.idx]
    for step in rest:
        key = key_of(step)
        if key is not None:
            short, whole = key, f"{whole}_{key}"
        else:
            short, whole = f"{short}_{step.idx}", f"{whole}_{step.idx}"
    return short, whole


def _check(names: Sequence[str], tensors: Sequence[torch.Tensor], axes: DynamicAxes) -> None:
    """Raise SpecError unless tensors, names and free axes describe the inputs of a model.

    Tensors are [batch, ...] of real numbers with one batch size of at least 2; names are unique;
    free axes belong to inputs, and none is the batch.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.ndim < 1:
            raise SpecError(f"example input {name!r}: expected a tensor [batch, ...], got a scalar")
        if tensor.is_complex():
            raise SpecError(f"example input {name!r}: expected real numbers, got {tensor.dtype}")
    batches = {tensor.shape[0] for tensor in tensors}
    if len(batches) != 1 or min(batches) < 2:
        sizes = ", ".join(
            f"{name} {list(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True)
        )
        raise SpecError(
            f"example inputs need one batch size, their first axis, of at least 2; got {sizes}"
        )
    if len(set(names)) != len(names):
        raise SpecError(f"expected unique input names, got {', '.join(names)}")
    for name, named in axes.items():
        if name not in names:
            raise SpecError(f"dynamic axes of {name!r}; the inputs are {', '.join(names)}")
        rank = tensors[names.index(name)].ndim
        for axis, dim in named.items():
            if not 1 <= axis < rank or not dim.isidentifier() or dim == BATCH:
                raise SpecError(
                    f"dynamic axis {axis} of {name!r} called {dim!r}: expected an axis of "
                    f"1..{rank - 1} (0 is always the batch) and a name"
                )


def _carrier(dtype: torch.dtype) -> torch.dtype:
    """What a model file takes for an input: IDs and masks as int64, other numbers as float32."""
    return torch.float32 if dtype.is_floating_point else torch.int64
