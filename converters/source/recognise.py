"""Recognises embedding lookups in a graph: each becomes one `ondevice::Lookup` node.

A lookup yields, for every ID of the request, that ID's row of a float32 constant:
Gather on any axis, GatherND, GatherElements with one ID a row, and a one-hot vector times a matrix.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.graph import (
    DOMAIN,
    LOOKUP,
    REPORTED_BYTES,
    CapturedLookup,
    CapturedModel,
    UncompressedTable,
)
from ondevice.converters.lowering.builder import NodeBuilder
from ondevice.converters.source.fold import constant
from ondevice.converters.source.narrow_rows import WIDENED
from ondevice.converters.source.one_hot import one_hot_ids
from ondevice.converters.source.selections import (
    first_axis_ids,
    index_parts,
    is_column,
    repeated_ids,
)
from ondevice.converters.tables.table_source import ArrayTable
from ondevice.errors import SpecError, UnsupportedError
from ondevice.spec import LookupSpec, full_spec

Array = npt.NDArray[Any]

_SELECTING = ("Gather", "GatherND", "GatherElements")


@dataclass(frozen=True)
class _Selection:
    """What a node selects.

    Attributes:
        table: the constant.
        ids: the IDs.
        axis: of the constant that they count along.
        beyond: whether an ID out of range yields zeros instead of an error.
        bias: what is added to each row, if anything.
        last: whether rows lie along the result's last axis, whatever `axis` is.
        column: whether the IDs have a last axis of size 1 that the result lacks.
        places: numbers along each of the constant's first axes, of which only the IDs depend on
            the request; empty where IDs count along one axis.
    """

    table: ir.Value
    ids: ir.Value
    axis: int = 0
    beyond: bool = False
    bias: ir.Value | None = None
    last: bool = False
    column: bool = False
    places: tuple[ir.Value, ...] = ()


def recognise_lookups(model: ir.Model, origins: Mapping[str, str] | None = None) -> CapturedModel:
    """A model whose reads of embedding tables are `ondevice::Lookup` nodes.

    IDs of a recognised lookup have no out-of-vocabulary row, so an ID out of range is an error in
    every engine, except where the graph has zeros for it.

    Args:
        model: the graph, its constant parts folded; it is not changed.
        origins: names of parameters by the names of the constants that come from them: a table is
            named like its parameter.
    """
    model = model.clone()
    graph = model.graph
    tables: dict[tuple[ir.Value, int, bool, int], ir.Value] = {}
    reasons: dict[str, str] = {}
    varying = _request_dependent(graph)
    for node in list(graph):
        selection = _selection(node, varying)
        if selection is None or selection.ids not in varying:
            continue
        fault = _fault(selection)
        if fault:
            reasons[str(selection.table.name)] = fault
        else:
            _replace(graph, node, selection, tables)
    passes.RemoveUnusedNodesPass()(model)
    _name_tables(graph, origins or {})
    lookups = tuple(_captured(node) for node in graph if _is_lookup(node))
    names = {lookup.table for lookup in lookups}
    arrays = {name: ArrayTable(_array(graph.initializers[name])) for name in sorted(names)}
    return CapturedModel(
        model, lookups, arrays, _uncompressed(graph, varying, reasons, origins or {})
    )


def _selection(node: ir.Node, varying: Container[ir.Value | None]) -> _Selection | None:
    """What a node selects from its first input; None where it is no selection of rows.

    `varying` are the values that depend on the request.
    """
    table = node.inputs[0] if node.inputs else None
    if node.domain or table is None:
        return None
    ids = first_axis_ids(node)
    if ids is not None:
        return _Selection(table, ids)
    if node.op_type == "Gather" and node.inputs[1] is not None and table.shape is not None:
        axis = node.attributes.get_int("axis", 0) % len(table.shape)
        return _Selection(table, node.inputs[1], axis)
    if node.op_type == "GatherElements" and (ids := repeated_ids(node)) is not None:
        return _Selection(table, ids)
    if node.op_type == "GatherND" and is_column(node.inputs[1]):
        batched = node.attributes.get_int("batch_dims", 0) != 0
        column = node.inputs[1]
        return None if batched or column is None else _Selection(table, column, column=True)
    places = index_parts(node)
    chosen = [place for place in places if place in varying]
    if len(chosen) == 1:
        return _Selection(table, chosen[0], places=tuple(places))
    return _one_hot_product(node) if node.op_type in ("MatMul", "Gemm") else None


def _one_hot_product(node: ir.Node) -> _Selection | None:
    """A one-hot vector times a constant matrix selects one of its rows."""
    vector, weight = one_hot_ids(node.inputs[0]), node.inputs[1]
    if vector is None or weight is None or weight.const_value is None:
        return None
    axis, bias = 0, None
    if node.op_type == "Gemm":
        scaled = any(node.attributes.get_float(key, 1.0) != 1.0 for key in ("alpha", "beta"))
        if scaled or node.attributes.get_int("transA", 0) != 0:
            return None
        axis = node.attributes.get_int("transB", 0)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
    shape = weight.const_value.shape.numpy()
    if len(shape) != 2 or shape[axis] != vector.count:
        return None
    return _Selection(
        weight, vector.ids, axis, vector.zero_beyond, bias, last=True, column=vector.column
    )


def _fault(selection: _Selection) -> str:
    """Why a constant cannot be a table; empty where it can."""
    held = selection.table.const_value
    if held is None:
        return "it is computed while the model runs"
    if held.dtype != ir.DataType.FLOAT:
        return f"its values are {str(held.dtype).lower()}, and tables are float32"
    if len(held.shape) == 0 or held.size == 0:
        return "it has no rows"
    if selection.ids.shape is None:
        return "its IDs have an unknown number of axes"
    try:
        rows = _rows(selection, held.shape.numpy())
        full_spec(rows, held.size // rows)
    except SpecError as error:
        return str(error)
    return ""


def _rows(selection: _Selection, shape: Sequence[int]) -> int:
    """How many rows a constant of this shape has for a selection."""
    counted = shape[: len(selection.places)] or shape[selection.axis : selection.axis + 1]
    return int(np.prod(counted))


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    selection: _Selection,
    tables: dict[tuple[ir.Value, int, bool, int], ir.Value],
) -> None:
    """Put a Lookup in the place of a node, with what gives its rows the shape of the result."""
    held, axis = _array(selection.table), selection.axis
    key = (selection.table, axis, selection.beyond, len(selection.places))
    if key not in tables:
        tables[key] = _table(graph, selection, held)
    table = tables[key]
    rows, dim = _array(table).shape
    lower = NodeBuilder(graph, node, f"{node.name}.lookup")
    ids, sizes = _row_numbers(lower, selection, held.shape)
    rank = len(sizes)
    spec = full_spec(rows, dim, oov_row=rows - 1 if selection.beyond else None)
    lookup = _lookup(node, ids, table, spec)
    lower.nodes.append(lookup)
    value = lookup.outputs[0]
    value.name = f"{node.name}.rows"
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([*sizes, dim])
    counted = range(len(selection.places)) if selection.places else (axis,)
    rest = [size for place, size in enumerate(held.shape) if place not in counted]
    if not rest:
        value = lower.op("Squeeze", value, lower.ints(-1))
    elif len(rest) > 1:
        value = lower.op("Reshape", value, lower.ints(*[0] * rank, *rest))
        value.shape = ir.Shape([*sizes, *rest])
    if axis > 0 and not selection.last and rank > 0:
        places = range(rank + len(rest))
        before = list(places[rank : rank + axis])
        value = lower.op("Transpose", value, perm=[*before, *places[:rank], *places[rank + axis :]])
    if selection.bias is not None:
        value = lower.op("Add", value, selection.bias)
    value.dtype, value.shape = ir.DataType.FLOAT, node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], lower.nodes, node.outputs, [value])
    graph.opset_imports[DOMAIN] = 1


def _row_numbers(
    lower: NodeBuilder, selection: _Selection, shape: Sequence[int]
) -> tuple[ir.Value, list[int | str]]:
    """The IDs of a lookup in a constant of this shape, int64, and their sizes."""
    sizes = [size if isinstance(size, int) else str(size) for size in selection.ids.shape or ()]
    if selection.places:
        return _flat_ids(lower, selection, shape), sizes
    ids = _int64(lower, selection.ids)
    if selection.column:
        ids = lower.op("Squeeze", ids, lower.ints(-1))
        ids.dtype, ids.shape = ir.DataType.INT64, ir.Shape(sizes[:-1])
        sizes = sizes[:-1]
    return ids, sizes


def _table(graph: ir.Graph, selection: _Selection, held: Array) -> ir.Value:
    """The constant as a matrix [rows, dim]: itself, a view of it, or with a row of zeros."""
    if held.ndim == 2 and selection.axis == 0 and not selection.beyond and not selection.places:
        return selection.table
    matrix = np.moveaxis(held, selection.axis, 0).reshape(_rows(selection, held.shape), -1)
    if selection.beyond:
        matrix = np.concatenate([matrix, np.zeros((1, matrix.shape[1]), matrix.dtype)])
    fresh = constant(graph, f"{selection.table.name}.rows", matrix)
    fresh.meta[_SOURCE] = str(selection.table.name)
    return fresh


_SOURCE = "ondevice.source"  # the constant that a table was cut from


def _lookup(node: ir.Node, ids: ir.Value, table: ir.Value, spec: LookupSpec) -> ir.Node:
    return ir.Node(
        DOMAIN,
        LOOKUP,
        [ids, table],
        {"spec": ir.AttrString("spec", spec.to_json())},
        num_outputs=1,
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )


def _source_name(table: ir.Value) -> str:
    """The constant that a table was cut or widened from."""
    return str(table.meta.get(_SOURCE, table.name)).removesuffix(WIDENED)


def _name_tables(graph: ir.Graph, origins: Mapping[str, str]) -> None:
    """Give tables the names of the parameters that they come from, as far as those are free."""
    taken = {str(value.name) for value in graph.inputs}
    taken |= {str(value.name) for node in graph for value in node.outputs}
    for node in graph:
        table = node.inputs[1] if _is_lookup(node) else None
        if table is None or table.name is None:
            continue
        source = _source_name(table)
        name = origins.get(source, source)
        if name != table.name and name not in taken and name not in graph.initializers:
            del graph.initializers[table.name]
            table.name = name
            if table.const_value is not None:
                table.const_value.name = name
            graph.register_initializer(table)


def _request_dependent(graph: ir.Graph) -> set[ir.Value | None]:
    """Values that depend on what the inputs hold, not only on their shapes."""
    dependent: set[ir.Value | None] = set(graph.inputs)
    for node in graph:
        if node.op_type not in ("Shape", "Size") and any(
            value in dependent for value in node.inputs
        ):
            dependent.update(node.outputs)
    return dependent


def _uncompressed(
    graph: ir.Graph,
    varying: Container[ir.Value | None],
    reasons: Mapping[str, str],
    origins: Mapping[str, str],
) -> tuple[UncompressedTable, ...]:
    """Large constants that IDs of the request still select from, and why they are no tables."""
    uncompressed: dict[str, UncompressedTable] = {}
    for node in graph.all_nodes():
        if node.domain or node.op_type not in _SELECTING:
            continue
        table, ids = node.inputs[:2]
        held = None if table is None else table.const_value
        inside = node.graph is not graph  # a branch or a loop, where nothing is recognised
        if table is None or held is None or held.nbytes < REPORTED_BYTES:
            continue
        if not inside and ids not in varying:
            continue
        reason = reasons.get(str(table.name)) or (
            "it is read inside a branch or a loop"
            if inside
            else f"{node.op_type} selects single values of it, or rows by several numbers each"
        )
        name = origins.get(str(table.name), str(table.name))
        uncompressed[name] = UncompressedTable(name, held.nbytes, reason)
    return tuple(uncompressed.values())


def _int64(lower: NodeBuilder, ids: ir.Value) -> ir.Value:
    """IDs as int64; of a cast input the input itself, whose IDs have not wrapped."""
    node = ids.producer()
    if node is not None and node.op_type == "Cast" and not node.domain:
        source = node.inputs[0]
        if source is not None and source.is_graph_input() and source.dtype == ir.DataType.INT64:
            return source
    if ids.dtype in (ir.DataType.INT64, None):
        return ids
    return _cast(lower, ids)


def _cast(lower: NodeBuilder, ids: ir.Value) -> ir.Value:
    cast = lower.op("Cast", ids, to=int(ir.DataType.INT64))
    cast.dtype, cast.shape = ir.DataType.INT64, ids.shape
    return cast


def _flat_ids(lower: NodeBuilder, selection: _Selection, shape: Sequence[int]) -> ir.Value:
    """Row numbers of a constant whose first axes are flattened into one.

    A negative ID counts from the end of its axis, as in torch and in ONNX. An ID beyond its axis,
    which would select a row of its neighbour, becomes -1, which lookups refuse.
    """
    ids = _int64(lower, selection.ids)
    size = shape[selection.places.index(selection.ids)]
    negative = lower.op("Less", ids, lower.constant(0, np.int64))
    from_end = lower.op("Add", ids, lower.constant(size, np.int64))
    ids = lower.op("Where", negative, from_end, ids)
    rows: ir.Value | None = None
    for axis, place in enumerate(selection.places):
        stride = int(np.prod(shape[axis + 1 : len(selection.places)], dtype=np.int64))
        numbers = place if place.dtype == ir.DataType.INT64 else _cast(lower, place)
        numbers = ids if place is selection.ids else numbers
        part = lower.op("Mul", numbers, lower.constant(stride, np.int64))
        rows = part if rows is None else lower.op("Add", rows, part)
    least = lower.op("GreaterOrEqual", ids, lower.constant(0, np.int64))
    inside = lower.op("And", least, lower.op("Less", ids, lower.constant(size, np.int64)))
    flat = lower.op("Where", inside, rows, lower.constant(-1, np.int64))
    for node in lower.nodes:
        value = node.outputs[0]
        if node.op_type != "Constant":
            logic = node.op_type in ("GreaterOrEqual", "And", "Less")
            value.dtype = ir.DataType.BOOL if logic else ir.DataType.INT64
            value.shape = selection.ids.shape
    return flat


def _is_lookup(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == LOOKUP


def _captured(node: ir.Node) -> CapturedLookup:
    spec = LookupSpec.from_json(node.attributes.get_string("spec") or "")
    table, widths = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if table is None or table.const_value is None or not table.name:
        raise UnsupportedError(f"{node.name}: its embedding table is not a constant of the module")
    if spec.retrieval is not None and widths is not None:
        return CapturedLookup(node, spec, table.name, None, _array(widths))
    row_widths = None if widths is None else _array(widths)
    return CapturedLookup(node, spec, table.name, row_widths)


def _array(value: ir.Value) -> Array:
    if value.const_value is None:
        raise UnsupportedError(f"{value.name} is not a constant of the module")
    return value.const_value.numpy()
