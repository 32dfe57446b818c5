"""One matrix of IDs instead of an input for each field: a runtime charges for every input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ondevice.converters.graph import PackedModel
from ondevice.converters.initializers import add_initializer
from ondevice.engines.columns import MATRIX_INPUT
from ondevice.errors import SpecError


def matrix_input(packed: PackedModel) -> PackedModel:
    """A copy of a model whose int64 inputs [batch] are the columns of one input, in their order.

    The new input, MATRIX_INPUT, comes first; inputs of other shapes and dtypes stay.

    Raises:
        SpecError: fewer than two such inputs, or another input has the name.
    """
    packed = packed.cloned()
    graph = packed.model.graph
    columns = [value for value in graph.inputs if _is_column(value)]
    if len(columns) < 2:
        raise SpecError(
            "a matrix as input joins int64 inputs [batch], one ID a row; the model has "
            f"{len(columns)} of them"
        )
    others = [value for value in graph.inputs if value not in columns]
    if MATRIX_INPUT in [value.name for value in others]:
        raise SpecError(f"the matrix of IDs is called {MATRIX_INPUT!r}, as another input is")
    batch = columns[0].shape
    matrix = ir.Value(
        name=MATRIX_INPUT,
        shape=ir.Shape([None if batch is None else batch[0], len(columns)]),
        type=ir.TensorType(ir.DataType.INT64),
    )
    for lookup in packed.lookups:
        _read_matrix(graph, lookup.node, columns, matrix)
    _replace_columns(graph, columns, matrix)
    graph.inputs.clear()
    graph.inputs.extend([matrix, *others])
    return packed


def _is_column(value: ir.Value) -> bool:
    one_a_row = value.shape is not None and len(value.shape) == 1
    return one_a_row and value.dtype == ir.DataType.INT64


def _read_matrix(graph: ir.Graph, node: ir.Node, columns: list[ir.Value], matrix: ir.Value) -> None:
    """Let a merged lookup read the matrix, or some of its columns, where it reads inputs only."""
    read = [columns.index(value) for value in node.inputs if value in columns]
    if len(read) != len(node.inputs) or len(read) < 2:
        return
    ids = matrix if read == list(range(len(columns))) else _gather(graph, node, matrix, read)
    node.resize_inputs(1)
    node.replace_input_with(0, ids)


def _replace_columns(graph: ir.Graph, columns: list[ir.Value], matrix: ir.Value) -> None:
    """Replace what still reads an input by a column of the matrix."""
    for number, value in enumerate(columns):
        readers = list(value.uses())
        if not readers:
            continue
        column = _gather(graph, graph[0], matrix, number)
        for node, place in readers:
            node.replace_input_with(place, column)


def _gather(
    graph: ir.Graph, before: ir.Node, matrix: ir.Value, places: int | list[int]
) -> ir.Value:
    """Columns of the matrix: int64 [batch, columns], or [batch] of a single number."""
    name = f"{MATRIX_INPUT}.{len(graph.initializers)}"
    indices = add_initializer(graph, f"{name}.places", np.array(places, dtype=np.int64))
    node = ir.node("Gather", [matrix, indices], attributes={"axis": 1}, name=name)
    rows = None if matrix.shape is None else matrix.shape[0]
    output = node.outputs[0]
    output.name, output.dtype = f"{name}.value", ir.DataType.INT64
    output.shape = ir.Shape([rows, len(places)] if isinstance(places, list) else [rows])
    graph.insert_before(before, node)
    return output
