"""Tables of 8 and 16 bits whose rows a graph turns into float32 become float32 tables.

Files store tables in their codecs, and a lookup reads a float32 table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ondevice.converters.source.fold import constant, evaluate
from ondevice.converters.source.selections import first_axis_ids

Array = npt.NDArray[Any]

WIDENED = ".float32"  # behind the name of the constant that a table was widened from

_NARROW = (
    ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16,
    ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT16, ir.DataType.BFLOAT16,
)  # fmt: skip
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


@dataclass(frozen=True)
class _Rows:
    """A value [*ids.shape, *array.shape[1:]] whose part for an ID is row `id` of an array.

    Attributes:
        ids: the IDs.
        rank: of the IDs.
        array: the rows.
        name: of the constant that they come from.
        narrow: whether they come from a narrow constant, and are not a float32 table yet.
    """

    ids: ir.Value
    rank: int
    array: Array
    name: str
    narrow: bool


def widen_rows(model: ir.Model) -> ir.Model:
    """A model that gathers float32 rows where the given one gathers narrow ones and widens them.

    f(table[ids]) becomes f(table)[ids] for casts, dequantisation, and arithmetic with constants or
    with other rows of the same IDs. The given model is not changed.
    """
    model = model.clone()
    graph = model.graph
    rows: dict[ir.Value, _Rows] = {}
    wide: dict[ir.Node, _Rows] = {}  # results that nothing continues row by row, so far
    for node in list(graph):
        gathered = _gathered(node) or _computed(node, rows, graph.opset_imports)
        if gathered is None:
            continue
        value = node.outputs[0]
        for read in node.inputs:
            producer = None if read is None else read.producer()
            if read is not None and producer is not None and read in rows and rows[read].narrow:
                wide.pop(producer, None)
        if gathered.narrow and gathered.array.dtype == np.float32:
            wide[node] = gathered
            if len(value.uses()) != 1 or value.is_graph_output():
                gathered = replace(gathered, narrow=False)  # a table: what reads it is the network
        rows[value] = gathered
    for node, gathered in wide.items():
        _gather_wide(graph, node, gathered)
    passes.RemoveUnusedNodesPass()(model)
    return model


def _gather_wide(graph: ir.Graph, node: ir.Node, rows: _Rows) -> None:
    """Put a gather of float32 rows in the place of the last node that widens them."""
    table = constant(graph, f"{rows.name}{WIDENED}", rows.array)
    gather = ir.node("Gather", [table, rows.ids], attributes={"axis": 0}, name=node.name)
    gather.metadata_props.update(node.metadata_props)
    gather.outputs[0].shape, gather.outputs[0].dtype = node.outputs[0].shape, ir.DataType.FLOAT
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [gather], node.outputs, gather.outputs
    )


def _gathered(node: ir.Node) -> _Rows | None:
    ids, table = first_axis_ids(node), node.inputs[0] if node.inputs else None
    if table is None or ids is None or ids.shape is None or ids.const_value is not None:
        return None
    held = table.const_value
    if held is None or held.dtype not in (*_NARROW, ir.DataType.FLOAT) or len(held.shape) < 1:
        return None
    return _Rows(ids, len(ids.shape), held.numpy(), str(table.name), held.dtype in _NARROW)


def _computed(
    node: ir.Node, rows: Mapping[ir.Value, _Rows], opsets: Mapping[str, int]
) -> _Rows | None:
    """The rows of a node's result, where it computes each ID's part from only that ID's rows.

    The network keeps arithmetic on float32 rows only.
    """
    read = [rows[value] for value in node.inputs if value is not None and value in rows]
    if node.domain or not read or any(item.ids is not read[0].ids for item in read):
        return None
    narrow = any(item.narrow for item in read)
    if not narrow and node.op_type != "Unsqueeze":  # scales of rows, which a product may read
        return None
    arrays: list[Array | None] = []
    for value in node.inputs:
        if value is not None and value not in rows and value.const_value is None:
            return None
        held = None if value is None or value.const_value is None else value.const_value.numpy()
        arrays.append(rows[value].array if value is not None and value in rows else held)
    axis = None
    if node.op_type in _ARITHMETIC:
        if not _meet_in_rows(node, rows, arrays):
            return None
    elif node.op_type == "DequantizeLinear":
        axis = _dequantised_axis(node, rows, arrays)
        if axis is None:
            return None
    elif node.op_type == "Unsqueeze":
        if not _stays_behind_ids(read[0], arrays):
            return None
    elif node.op_type != "Cast":
        return None
    results = evaluate(node, arrays, opsets, axis)
    if results is None:
        return None
    largest = max(read, key=lambda item: item.array.nbytes)
    return _Rows(read[0].ids, read[0].rank, results[0], largest.name, narrow)


def _meet_in_rows(
    node: ir.Node, rows: Mapping[ir.Value, _Rows], arrays: list[Array | None]
) -> bool:
    """Whether two operands differ by ID only through rows; axes of size 1 before those go away."""
    read = [rows[value] for value in node.inputs if value is not None and value in rows]
    most = max(item.array.ndim for item in read)
    for place, value in enumerate(node.inputs):
        array = arrays[place]
        if array is None:
            return False
        if value is not None and value in rows:
            if array.ndim != most:
                return False
            continue
        while array.ndim >= most and array.shape[0] == 1:
            array = array[0]
        if array.ndim >= most:
            return False
        arrays[place] = array
    return True


def _dequantised_axis(
    node: ir.Node, rows: Mapping[ir.Value, _Rows], arrays: list[Array | None]
) -> int | None:
    """The axis of the rows that scales belong to; None where they do not belong to rows."""
    value, scale = node.inputs[0], node.inputs[1]
    if value is None or scale is None or value not in rows:
        return None
    if node.attributes.get_int("block_size", 0) != 0:
        return None
    held, table = arrays[1], rows[value]
    if held is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    rank = table.rank + table.array.ndim - 1
    axis = axis + rank if axis < 0 else axis
    if scale in rows:
        return 0 if axis == 0 and table.rank == 1 and held.ndim == 1 else None
    if held.size == 1:
        arrays[1:] = [None if array is None else array.reshape(()) for array in arrays[1:]]
        return 0
    return axis + 1 - table.rank if axis >= table.rank and held.ndim == 1 else None


def _stays_behind_ids(read: _Rows, arrays: list[Array | None]) -> bool:
    """Whether an Unsqueeze adds axes behind those of the IDs, whose numbers become the rows'."""
    axes = arrays[1]
    if axes is None or axes is read.array:
        return False
    rank = read.rank + read.array.ndim - 1 + axes.size
    places = axes.reshape(-1) % rank
    arrays[1] = places + 1 - read.rank
    return bool((places >= read.rank).all())
