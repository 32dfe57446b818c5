"""Write a packed model as TFLite, in the profile that tflite-runtime and LiteRT both run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from ondevice.converters.dense.layers import (
    ALL_FLOAT,
    DenseLayer,
    DensePlan,
    find_dense_layers,
    layer_report,
    nodes_of,
)
from ondevice.converters.graph import DOMAIN, PackedLookup, PackedModel
from ondevice.converters.lowering.unsupported import LackingOperatorsError, fault
from ondevice.converters.tables.draft import Draft
from ondevice.converters.targets.tflite.dense import DenseWriter
from ondevice.converters.targets.tflite.graph import GraphBuilder
from ondevice.converters.targets.tflite.lookup import TfliteTable, write_lookup
from ondevice.converters.targets.tflite.ops import OPERATORS
from ondevice.converters.targets.tflite.writer import FREE, TYPES, Shape, TfliteWriter
from ondevice.errors import UnsupportedError
from ondevice.sealed import seal


def emit_tflite(packed: PackedModel, path: Path, info: bytes, plan: DensePlan = ALL_FLOAT) -> Draft:
    """Write `path`, one file with graph, description and room for the tables.

    Free sizes, such as the batch, stay free: they are 1 until the runtime resizes its inputs.

    Args:
        packed: the model, of the operators in docs/operators.md (`pipeline.LOWERING`); it is not
            changed.
        path: the .tflite file to write; the caller writes to a temporary place and renames.
        info: description (`ModelInfo.to_bytes`), for the metadata.
        plan: how dense layers are stored.

    Raises:
        LackingOperatorsError: operators that TFLite, or this emitter, cannot express, all listed.
        UnsupportedError: a model beyond TFLite's limit of 2 GB. Nothing is written then.
    """
    graph = packed.model.graph
    writer = TfliteWriter()
    builder = GraphBuilder(writer)
    for value in graph.inputs:
        builder.values[value] = writer.input(str(value.name), *_signature(value))
    lookups = {lookup.node: lookup for lookup in packed.lookups}
    tables: dict[str, TfliteTable] = {}
    layers = find_dense_layers(graph, plan)
    quantised = [layer for layer in layers if layer.codec != "f32"]
    dense, layer_of = DenseWriter(writer, quantised), nodes_of(quantised)
    faults = []
    for node in graph:
        try:
            if node in lookups:
                _add_lookup(builder, packed, lookups[node], tables)
            elif layer := layer_of.get(node):
                _add_dense(builder, dense, layer, node)
            elif node in builder.fused or node.op_type == "Constant":
                continue
            elif node.domain not in ("", DOMAIN) or node.op_type not in OPERATORS:
                faults.append(fault(node))
            else:
                _add_node(builder, node)
        except UnsupportedError as error:
            faults.append(fault(node, str(error)))
    if faults:
        raise LackingOperatorsError("tflite", faults)
    for value in graph.outputs:
        _add_output(builder, value)
    writer.write(path, info)
    reports = (*dense.reports, *(layer_report(x, "float") for x in layers if x.codec == "f32"))
    writers = [writer for table in tables.values() for writer in table.rows_writers()]
    return Draft(path, reports, writers, _Seal(path))


@dataclass(frozen=True)
class _Seal:
    """The file's digest, once all its bytes are written (`ondevice.sealed`)."""

    path: Path

    def finish(self, file: BinaryIO) -> None:
        file.flush()
        seal(self.path)


def _signature(value: ir.Value) -> tuple[Shape, np.dtype[np.generic]]:
    if value.shape is None or value.dtype is None:
        raise UnsupportedError(f"input {value.name!r} has no known shape and dtype")
    dtype = value.dtype.numpy()
    if dtype.name not in TYPES:
        raise UnsupportedError(f"input {value.name!r} has dtype {dtype}")
    return tuple(size if isinstance(size, int) else FREE for size in value.shape), dtype


def _add_lookup(
    builder: GraphBuilder,
    packed: PackedModel,
    lookup: PackedLookup,
    tables: dict[str, TfliteTable],
) -> None:
    name = lookup.table
    if name not in tables:
        tables[name] = TfliteTable(builder.writer, name, packed.tables[name])
    inputs = [builder.tensor(value) for value in lookup.node.inputs]
    vectors = write_lookup(builder.writer, lookup, tables[name], inputs)
    builder.values[lookup.node.outputs[0]] = vectors


def _add_dense(builder: GraphBuilder, dense: DenseWriter, layer: DenseLayer, node: ir.Node) -> None:
    if node is layer.nodes[0] and _known(builder, layer.x):
        builder.values[layer.output] = dense.write(layer, builder.tensor(layer.x))


def _add_node(builder: GraphBuilder, node: ir.Node) -> None:
    if len(node.outputs) != 1:
        raise UnsupportedError("more than one output")
    lacking = [value for value in node.inputs if value is not None and not _known(builder, value)]
    if not lacking:
        builder.values[node.outputs[0]] = OPERATORS[node.op_type](builder, node)


def _known(builder: GraphBuilder, value: ir.Value) -> bool:
    """Whether a value can be had; not so behind an operator that is already a fault."""
    return value in builder.values or builder.array(value) is not None


def _add_output(builder: GraphBuilder, value: ir.Value) -> None:
    tensor = builder.tensor(value)
    while not builder.writer.can_be_output(tensor):
        # the runtime binds an output by its tensor: an alias needs a copy of its own
        size = builder.writer.constant(tensor.shape, np.int32)
        tensor = builder.writer.op("RESHAPE", [tensor, size], tensor.shape, tensor.dtype)
    builder.writer.output(tensor, str(value.name))
