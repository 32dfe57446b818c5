"""Recognises embedding lookups in a graph: each becomes one `ondevice::Lookup` node."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.graph import DOMAIN, LOOKUP, CapturedLookup, CapturedModel
from ondevice.converters.tables.table_source import ArrayTable
from ondevice.errors import UnsupportedError
from ondevice.spec import LookupSpec, full_spec


def recognise_lookups(model: ir.Model, tables: Container[str]) -> CapturedModel:
    """A model whose reads of embedding tables are `ondevice::Lookup` nodes.

    Args:
        model: the graph; it is not changed.
        tables: names of the initializers that may become embedding tables.

    Raises:
        UnsupportedError: there is no lookup.
    """
    model = model.clone()
    _recognise_gathers(model, tables)
    lookups = tuple(_captured(node) for node in model.graph if _is_lookup(node))
    if not lookups:
        raise UnsupportedError(
            "the module has no embedding lookup (rows of a float matrix, chosen by IDs of the "
            "request); there is nothing to compress"
        )
    arrays = {
        lookup.table: ArrayTable(_array(_initializer(model, lookup.table))) for lookup in lookups
    }
    return CapturedModel(model, lookups, arrays)


def _recognise_gathers(model: ir.Model, tables: Container[str]) -> None:
    """Turn every Gather of whole rows from a float32 matrix into a Lookup of scheme "full".

    That is what `torch.nn.Embedding` exports to. Its IDs have no out-of-vocabulary row, so an
    ID out of range is an error in every engine.
    """
    varying = _request_dependent(model.graph)
    for node in list(model.graph):
        if node.op_type != "Gather" or node.domain or node.attributes.get_int("axis", 0) != 0:
            continue
        table, ids = node.inputs
        if table is None or ids not in varying or table.name not in tables:
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
