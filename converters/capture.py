"""Capture: a torch module to an ONNX graph with one `ondevice::Lookup` node per lookup."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ondevice.converters.graph import DOMAIN, LOOKUP, CapturedLookup, CapturedModel
from ondevice.converters.table_source import ArrayTable
from ondevice.errors import SpecError, UnsupportedError
from ondevice.spec import LookupSpec, full_spec

OPSET = 21


def capture(module: nn.Module, example_inputs: tuple[Any, ...]) -> CapturedModel:
    """Export a module in evaluation mode, the batch (first) dimension left free.

    Args:
        module: takes int64 ID tensors [batch, ...] (or a dict of them) and returns one tensor.
        example_inputs: positional arguments for the module, at least two rows each.

    Raises:
        UnsupportedError: the module cannot be exported, or reads no embedding table.
        SpecError: the example inputs are not int64 tensors of the same batch size.
    """
    names = input_names(module, example_inputs)
    model = _export(module, example_inputs)
    _rename_inputs(model.graph, names)
    _recognise_gathers(model)
    lookups = tuple(_captured(node) for node in model.graph if _is_lookup(node))
    if not lookups:
        raise UnsupportedError("the module has no embedding lookup; there is nothing to compress")
    tables = {
        lookup.table: ArrayTable(_array(_initializer(model, lookup.table))) for lookup in lookups
    }
    return CapturedModel(model, lookups, tables)


def input_names(module: nn.Module, example_inputs: tuple[Any, ...]) -> list[str]:
    """Names of the module's tensor inputs: dictionary keys, or forward's parameter names.

    Raises:
        SpecError: see `capture`.
    """
    leaves, _ = pytree.tree_flatten_with_path(example_inputs)
    parameters = list(module.forward.__code__.co_varnames[1:])
    names, batches = [], set()
    for path, leaf in leaves:
        last = path[-1]
        name = str(last.key) if hasattr(last, "key") else parameters[getattr(path[0], "idx", 0)]
        if not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.int64 or leaf.ndim < 1:
            raise SpecError(f"example input {name!r}: expected an int64 tensor [batch, ...]")
        names.append(name)
        batches.add(leaf.shape[0])
    if len(batches) != 1 or min(batches) < 2:
        raise SpecError(
            f"example inputs need one batch size of at least 2, got sizes {sorted(batches)}"
        )
    if len(set(names)) != len(names):
        raise SpecError(f"input names are not unique: {names}")
    return names


def _export(module: nn.Module, example_inputs: tuple[Any, ...]) -> ir.Model:
    batch = torch.export.Dim("batch")
    shapes = pytree.tree_map(lambda tensor: {0: batch}, example_inputs)
    try:
        with evaluating(module), _quiet():
            program = torch.onnx.export(
                module,
                (*example_inputs, {}),  # or a last dictionary would be taken for keyword arguments
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                verbose=False,
            )
            if program is None:
                raise UnsupportedError("torch.onnx.export returned nothing")
            program.optimize()
    except torch.onnx.errors.OnnxExporterError as error:
        raise UnsupportedError(
            f"torch.onnx.export cannot export the module: {_cause(error)}"
        ) from error
    return program.model


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside the block."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


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


def _rename_inputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the inputs their names and every value inside the graph one that cannot clash."""
    for value, name in zip(graph.inputs, names, strict=True):
        value.name = name
    taken = set(names)
    for node in graph:
        for value in node.outputs:
            while value.name in taken:
                value.name = f"{value.name}_value"
            taken.add(value.name or "")


def _recognise_gathers(model: ir.Model) -> None:
    """Turn every Gather of whole rows from a float32 matrix into a Lookup of scheme "full".

    That is what `torch.nn.Embedding` exports to. Its IDs have no out-of-vocabulary row, so an
    ID out of range is an error in every engine.
    """
    for node in list(model.graph):
        if node.op_type != "Gather" or node.domain or node.attributes.get_int("axis"):
            continue
        table, ids = node.inputs
        if table is None or ids is None or ids.const_value is not None:
            continue
        constant = table.const_value
        if constant is None or constant.dtype != ir.DataType.FLOAT or len(constant.shape) != 2:
            continue
        rows, dim = constant.shape.numpy()
        lookup = ir.Node(
            DOMAIN,
            LOOKUP,
            [ids, table],
            {"spec": ir.AttrString("spec", full_spec(rows, dim).to_json())},
            num_outputs=1,
            name=node.name,
            metadata_props=dict(node.metadata_props),
        )
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], [lookup], node.outputs, lookup.outputs
        )
        model.graph.opset_imports[DOMAIN] = 1


def _is_lookup(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == LOOKUP


def _captured(node: ir.Node) -> CapturedLookup:
    spec = LookupSpec.from_json(node.attributes.get_string("spec") or "")
    table, widths = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if table is None or table.const_value is None or not table.name:
        raise UnsupportedError(f"{node.name}: its embedding table is not a constant of the module")
    kept = None if widths is None else _array(widths)
    return CapturedLookup(node, spec, table.name, kept)


def _initializer(model: ir.Model, name: str) -> ir.Value:
    return model.graph.initializers[name]


def _array(value: ir.Value) -> npt.NDArray[Any]:
    if value.const_value is None:
        raise UnsupportedError(f"{value.name} is not a constant of the module")
    return value.const_value.numpy()


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
