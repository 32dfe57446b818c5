"""Exports a torch module in evaluation mode to an ONNX graph, the batch left free."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from ondevice.converters.phases import phase
from ondevice.converters.source.arguments import (
    Arguments,
    DynamicAxes,
    key_of,
    register_dataclasses,
)
from ondevice.converters.source.encoder_padding import encoder_padding
from ondevice.converters.source.fixed_rows import numbers_of_rows, raising_place
from ondevice.converters.source.ghost_norms import ghost_norms
from ondevice.converters.source.on_cpu import computing_on_cpu
from ondevice.converters.source.packed_sequences import packed_sequences
from ondevice.converters.source.plain_names import plain_names
from ondevice.converters.source.quoted_names import quoted_names
from ondevice.converters.source.stand_ins import Evaluation, stand_ins
from ondevice.converters.source.traced_len import traced_len
from ondevice.converters.source.traced_range import traced_range
from ondevice.converters.source.traced_tile import traced_tile
from ondevice.errors import SpecError, UnsupportedError

OPSET = 21


def export(
    module: nn.Module, arguments: Arguments, axes: DynamicAxes, outputs: Sequence[str] = ()
) -> ir.Model:
    """The graph that torch's exporter makes of a module in evaluation mode, as it leaves it.

    Args:
        module: takes tensors [batch, ...], in any structure, and returns tensors [batch, ...].
        arguments: its example arguments.
        axes: names of free axes beside the batch, by input name and axis.
        outputs: names of its outputs.

    Raises:
        UnsupportedError: the module cannot be exported, or its graph is for the example's number
            of rows only.
    """
    rows = len(arguments.tensors[0])
    try:
        with (
            evaluating(module),
            _quiet(),
            stand_ins(module),
            ghost_norms(module),
            packed_sequences(module),
            traced_len(module),
            traced_range(module),
            traced_tile(),
            quoted_names(),
            numbers_of_rows(rows) as places,
            plain_names(module, arguments, outputs) as given,
            phase("torch's export"),
        ):
            program = torch.onnx.export(
                module,
                # or a last dictionary would be taken for keyword arguments
                (*given.args, given.kwargs),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=given.dynamic_shapes(module, axes),
                optimize=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UnsupportedError(
            f"torch.onnx.export cannot export the module: {cause(error)}{_advice(error)}"
        ) from error
    if program is None:
        raise UnsupportedError("torch.onnx.export returned nothing")
    _check_free_rows(program.model.graph, rows, places)
    return program.model


def _check_free_rows(graph: ir.Graph, rows: int, places: Sequence[str]) -> None:
    """Raise UnsupportedError if the graph is for the example's number of rows only."""
    fixed = [value.name for value in graph.inputs if _has_fixed_rows(value)]
    if fixed:
        raise UnsupportedError(
            f"the module's graph is for the {rows} rows of the example only "
            f"(input {', '.join(map(str, fixed))}): it turns the number of rows into a Python "
            f"number{' at ' + ' and '.join(places) if places else ''}, as int(x.shape[0]), "
            "range(x.size(0)) or a comparison does; x.shape[0] and x.size(0) as sizes, -1, or "
            "tensor operations such as expand keep it free"
        )


def _has_fixed_rows(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[0], int)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Let a module compute as files do inside the block: evaluating, on the CPU, no dropout."""
    trained = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with (
            Evaluation(),
            computing_on_cpu(),
            encoder_padding(module),
            # which fixes the number of rows, where it is installed
            torch.backends.opt_einsum.flags(enabled=False),
        ):
            yield
    finally:
        for part in trained:
            part.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes about packages that it would use if they were installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def output_names(module: nn.Module, arguments: Arguments) -> tuple[str, ...]:
    """Names of what a module returns: dictionary keys, or "output", or "output_0", ...

    Raises:
        UnsupportedError: an output has no value for every row.
        SpecError: the module cannot be run on the examples.
    """
    try:
        with evaluating(module), torch.inference_mode():
            args, kwargs = arguments.replaced(arguments.examples)
            returned = module(*args, **kwargs)
    except Exception as error:  # the module is somebody's code
        raise SpecError(f"the module fails on its example inputs: {cause(error)}") from error
    register_dataclasses(returned)
    leaves, _ = pytree.tree_flatten_with_path(returned)
    leaves = [(path, leaf) for path, leaf in leaves if leaf is not None]
    rows = len(arguments.tensors[0])
    faults = [
        f"output {pytree.keystr(path) or 'it returns'} is "
        + (f"of shape {list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else f"{leaf!r}")
        for path, leaf in leaves
        if not isinstance(leaf, torch.Tensor) or leaf.shape[:1] != (rows,)
    ]
    if faults or not leaves:
        raise UnsupportedError(
            "the module must return tensors [batch, ...] only, in evaluation mode; "
            + ("; ".join(faults) or "it returns nothing")
        )
    names = [(path and key_of(path[-1])) or "" for path, _ in leaves]
    if len(leaves) == 1:
        names = [names[0] or "output"]
    elif not all(names) or len(set(names)) < len(names):
        names = [f"output_{i}" for i in range(len(leaves))]
    taken = {*arguments.names, *names}
    for place, name in enumerate(names):
        while name in arguments.names:  # a field of the log may be called "output"
            name = next(free for free in _numbered(f"{name}_output") if free not in taken)
        names[place] = name
        taken.add(name)
    return tuple(names)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def _advice(error: BaseException) -> str:
    """What to write instead of a number or a branch that depends on values, and where."""
    bottom = innermost(error)
    if not isinstance(bottom, GuardOnDataDependentSymNode):
        return ""
    place = raising_place(bottom)
    return (
        f"{f' (at {place})' if place else ''}: it reads values of a tensor in Python, for a size, "
        "a loop or a branch (int, item, tolist, max of lengths), and a graph has none while it is "
        "made; keep histories at their full length, with masks, and choose by torch.where"
    )


def innermost(error: BaseException) -> BaseException:
    """The exception at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of exceptions."""
    error = innermost(error)
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
