"""Capture: a torch module to an ONNX graph with one `ondevice::Lookup` node per lookup."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn
from torch.utils import _pytree as pytree

from ondevice.converters.graph import DOMAIN, LOOKUP, CapturedLookup, CapturedModel
from ondevice.converters.source.arguments import Arguments, DynamicAxes, arguments_of
from ondevice.converters.source.encoder_padding import encoder_padding
from ondevice.converters.source.simplify import simplify
from ondevice.converters.source.single_precision import single_precision
from ondevice.converters.source.stand_ins import NoDropout, stand_ins
from ondevice.converters.tables.table_source import ArrayTable
from ondevice.errors import SpecError, UnsupportedError
from ondevice.spec import LookupSpec, full_spec

OPSET = 21


def capture(
    module: nn.Module, example_inputs: Any, dynamic_axes: DynamicAxes | None = None
) -> CapturedModel:
    """Export a module in evaluation mode, the batch (first) dimension left free.

    Args:
        module: takes tensors [batch, ...], in any structure, and returns one or several tensors
            [batch, ...].
        example_inputs: its arguments, at least two rows each; see `arguments_of`.
        dynamic_axes: names of free axes beside the batch, by input name and axis.

    The captured graph takes int64 or float32 inputs and has float32 outputs, all named.

    Raises:
        UnsupportedError: the module cannot be exported, reads no embedding table, or returns
            something else than rows.
        SpecError: the example inputs do not fit.
    """
    axes = dynamic_axes or {}
    arguments = arguments_of(module, example_inputs, axes)
    model = _export(module, arguments, axes)
    outputs = output_names(module, arguments)
    name_inputs(model.graph, arguments.names)
    name_outputs(model.graph, outputs)
    # only a parameter or a buffer can be set to the values that a file stores, and compared
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers())
    own = {name for name, _ in named}
    return captured(model, own)


def captured(model: ir.Model, own: Container[str]) -> CapturedModel:
    """A graph with its lookups found; `own` are the initializers that may become tables.

    Raises:
        UnsupportedError: there is no lookup.
    """
    _recognise_gathers(model, own)
    lookups = tuple(_captured(node) for node in model.graph if _is_lookup(node))
    if not lookups:
        raise UnsupportedError(
            "the module has no embedding lookup (rows of a float matrix, chosen by IDs of the "
            "request); there is nothing to compress"
        )
    tables = {
        lookup.table: ArrayTable(_array(_initializer(model, lookup.table))) for lookup in lookups
    }
    return CapturedModel(model, lookups, tables)


def output_names(module: nn.Module, arguments: Arguments) -> tuple[str, ...]:
    """Names of what a module returns: dictionary keys, or "output", or "output_0", ...

    Raises:
        UnsupportedError: an output has no value for every row.
        SpecError: the module cannot be run on the examples.
    """
    try:
        with evaluating(module), torch.inference_mode():
            returned = module(*arguments.args, **arguments.kwargs)
    except Exception as error:  # the module is somebody's code
        raise SpecError(f"the module fails on its example inputs: {cause(error)}") from error
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
            "the module must return tensors [batch, ...] alone, in evaluation mode; "
            + ("; ".join(faults) or "it returns nothing")
        )
    keys = [str(path[-1].key) if path and hasattr(path[-1], "key") else "" for path, _ in leaves]
    if len(leaves) == 1:
        return (keys[0] or "output",)
    named = all(keys) and len(set(keys)) == len(keys)
    return tuple(keys) if named else tuple(f"output_{i}" for i in range(len(leaves)))


def _export(module: nn.Module, arguments: Arguments, axes: DynamicAxes) -> ir.Model:
    shapes = arguments.dynamic_shapes(module, axes)
    try:
        with evaluating(module), _quiet(), stand_ins(module):
            program = torch.onnx.export(
                module,
                # or a last dictionary would be taken for keyword arguments
                (*arguments.args, arguments.kwargs),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                optimize=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UnsupportedError(
            f"torch.onnx.export cannot export the module: {cause(error)}"
        ) from error
    if program is None:
        raise UnsupportedError("torch.onnx.export returned nothing")
    simplify(program.model)
    single_precision(program.model.graph)
    fixed = [value.name for value in program.model.graph.inputs if _has_fixed_rows(value)]
    if fixed:
        raise UnsupportedError(
            f"the module's graph is for the {len(arguments.tensors[0])} rows of the example alone "
            f"(input {', '.join(map(str, fixed))}): it turns the number of rows into a Python "
            "number; use -1, or tensor operations such as expand, in its place"
        )
    return program.model


def _has_fixed_rows(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[0], int)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside the block, without any dropout."""
    trained = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with NoDropout(), encoder_padding(module):
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


def name_inputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the inputs their names, types that a model file takes, and no value inside a clash."""
    for value, name in zip(graph.inputs, names, strict=True):
        value.name = name
    _free_names(graph, names, graph.inputs)
    for value in graph.inputs:
        carried = _carried(value.dtype)
        if carried is value.dtype or value.dtype is None:
            continue
        original = value.dtype
        uses = list(value.uses())
        value.type = ir.TensorType(carried or original)
        cast = ir.node("Cast", [value], attributes={"to": int(original)}, name=f"{value.name}.cast")
        cast.outputs[0].name = f"{value.name}.cast"
        cast.outputs[0].dtype, cast.outputs[0].shape = original, value.shape
        for use in uses:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        graph.insert_before(graph[0], cast)


def _carried(dtype: ir.DataType | None) -> ir.DataType | None:
    if dtype is None or dtype in (ir.DataType.INT64, ir.DataType.FLOAT):
        return dtype
    return ir.DataType.FLOAT if dtype.is_floating_point() else ir.DataType.INT64


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Make the outputs float32 values with names of their own."""
    if len(names) != len(graph.outputs):
        raise UnsupportedError(
            f"the module returns {len(names)} tensors, its exported graph {len(graph.outputs)}"
        )
    for place, value in enumerate(list(graph.outputs)):
        other = value.dtype not in (ir.DataType.FLOAT, None)
        if other or value.producer() is None or value in graph.outputs[:place]:
            kind, attributes = (
                ("Cast", {"to": int(ir.DataType.FLOAT)}) if other else ("Identity", {})
            )
            node = ir.node(kind, [value], attributes=attributes, name=f"output.{place}")
            node.outputs[0].shape, node.outputs[0].dtype = value.shape, ir.DataType.FLOAT
            graph.append(node)
            graph.outputs[place] = node.outputs[0]
    taken = {value.name for value in graph.inputs}
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name if name not in taken else f"{name}_output"
    _free_names(graph, [str(value.name) for value in graph.outputs], graph.outputs)


def _free_names(graph: ir.Graph, names: Sequence[str], owners: Sequence[ir.Value]) -> None:
    """Rename every computed value that has one of `names` but is not among their owners."""
    taken = set(names)
    for node in graph:
        for value in node.outputs:
            if any(value is owner for owner in owners):
                continue
            while value.name in taken:
                value.name = f"{value.name}_value"
    for name in [name for name in graph.initializers if name in taken]:
        value = graph.initializers[name]
        if any(use.node.op_type == "Gather" for use in value.uses()):  # a table keeps its name
            raise UnsupportedError(f"{name!r} is the name of an input or output and of a parameter")
        del graph.initializers[name]
        while value.name in taken or value.name in graph.initializers:
            value.name = f"{value.name}_value"
        graph.register_initializer(value)


def _recognise_gathers(model: ir.Model, own: Container[str]) -> None:
    """Turn every Gather of whole rows from a float32 matrix into a Lookup of scheme "full".

    That is what `torch.nn.Embedding` exports to. Its IDs have no out-of-vocabulary row, so an
    ID out of range is an error in every engine.
    """
    varying = _request_dependent(model.graph)
    for node in list(model.graph):
        if node.op_type != "Gather" or node.domain or node.attributes.get_int("axis", 0) != 0:
            continue
        table, ids = node.inputs
        if table is None or ids not in varying or table.name not in own:
            continue
        constant = table.const_value
        if constant is None or constant.dtype != ir.DataType.FLOAT or len(constant.shape) != 2:
            continue
        rows, dim = constant.shape.numpy()
        ids = _int64(model.graph, node, ids)
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


def _request_dependent(graph: ir.Graph) -> set[ir.Value | None]:
    """Values that depend on what the inputs hold, not on their shapes alone."""
    found: set[ir.Value | None] = set(graph.inputs)
    for node in graph:
        if node.op_type not in ("Shape", "Size") and any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _int64(graph: ir.Graph, reader: ir.Node, ids: ir.Value | None) -> ir.Value:
    """IDs as int64; torch looks up int32 ones too."""
    if ids is None:
        raise UnsupportedError(f"{reader.name}: its IDs are left out")
    if ids.dtype in (ir.DataType.INT64, None):
        return ids
    cast = ir.node(
        "Cast", [ids], attributes={"to": int(ir.DataType.INT64)}, name=f"{reader.name}.ids"
    )
    cast.outputs[0].name = f"{reader.name}.ids"
    cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.INT64, ids.shape
    graph.insert_before(reader, cast)
    return cast.outputs[0]


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


def cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
