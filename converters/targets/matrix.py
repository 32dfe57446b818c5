"""One matrix of IDs instead of an input for each field: of whole IDs, or of their 32-bit words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ondevice.converters.graph import PackedLookup, PackedModel
from ondevice.converters.initializers import add_initializer
from ondevice.engines.columns import MATRIX_INPUT, WORDS_INPUT
from ondevice.errors import SpecError, UnsupportedError


def matrix_input(packed: PackedModel) -> PackedModel:
    """A copy of a model whose int64 inputs [batch] are the columns of one input, in their order.

    The new input, MATRIX_INPUT, comes first; inputs of other shapes and dtypes stay.

    Raises:
        SpecError: fewer than two such inputs, or another input has the name.
    """
    packed = packed.cloned()
    graph = packed.model.graph
    columns, others = _columns(graph, MATRIX_INPUT)
    if len(columns) < 2:
        raise SpecError(
            "a matrix as input joins int64 inputs [batch], one ID a row; the model has "
            f"{len(columns)} of them"
        )
    matrix = _matrix(MATRIX_INPUT, columns, len(columns), ir.DataType.INT64)
    for lookup in packed.lookups:
        _read_matrix(graph, lookup.node, columns, matrix)
    _replace_columns(graph, columns, matrix)
    graph.inputs.clear()
    graph.inputs.extend([matrix, *others])
    return packed


def word_input(packed: PackedModel) -> PackedModel:
    """A copy of a model whose int64 inputs [batch] enter as 32-bit words, for runtimes without 64.

    The new input, WORDS_INPUT, int32 [batch, 2 x inputs], comes first: for each input the low word
    of its ID, then the high one. Inputs of other shapes and dtypes stay.

    Raises:
        SpecError: no such input, or another input has the name.
        UnsupportedError: something else than a lookup of codes or of a plain table reads an ID; or
            a history, which stays int64, is looked up by more than its row numbers.
    """
    packed = packed.cloned()
    graph = packed.model.graph
    columns, others = _columns(graph, WORDS_INPUT)
    if not columns:
        raise SpecError("words as input are those of int64 inputs [batch]; the model has none")
    matrix = _matrix(WORDS_INPUT, columns, 2 * len(columns), ir.DataType.INT32)
    lookups = [_with_words(graph, lookup, columns, matrix) for lookup in packed.lookups]
    faults = [
        f"{value.name} (read by {node.op_type})" for value in columns for node, _ in value.uses()
    ]
    faults += [
        f"{value.name} ({lookup.spec.scheme})" for lookup in lookups for value in lookup.node.inputs
        if value is not None and not lookup.words and lookup.spec.scheme != "full"
    ]  # fmt: skip
    if faults:
        raise UnsupportedError(
            "words as input go to lookups of binary codes and plain tables that read an ID a row; "
            f"others need whole IDs: {', '.join(dict.fromkeys(faults))}"
        )
    graph.inputs.clear()
    graph.inputs.extend([matrix, *others])
    return replace(packed, lookups=tuple(lookups))


def _with_words(
    graph: ir.Graph, lookup: PackedLookup, columns: list[ir.Value], matrix: ir.Value
) -> PackedLookup:
    """A lookup of inputs that reads their low and their high words; others stay as they are."""
    inputs = list(lookup.node.inputs)
    read = [columns.index(value) for value in inputs if value in columns]
    if len(read) != len(inputs) or lookup.spec.scheme not in ("full", "binary_code"):
        return lookup
    single = len(read) == 1
    words = [
        _gather(graph, lookup.node, matrix, places[0] if single else places)
        for places in ([2 * place + word for place in read] for word in range(2))
    ]
    lookup.node.resize_inputs(2)
    for place, value in enumerate(words):
        lookup.node.replace_input_with(place, value)
    return replace(lookup, words=True)


def _columns(graph: ir.Graph, name: str) -> tuple[list[ir.Value], list[ir.Value]]:
    """The int64 inputs [batch] of a graph, and its other inputs; raises SpecError for the name."""
    columns = [value for value in graph.inputs if _is_column(value)]
    others = [value for value in graph.inputs if value not in columns]
    if name in [value.name for value in others]:
        raise SpecError(f"the matrix of IDs is called {name!r}, as another input is")
    return columns, others


def _matrix(name: str, columns: list[ir.Value], width: int, dtype: ir.DataType) -> ir.Value:
    """A new input [batch, width]."""
    batch = columns[0].shape
    shape = ir.Shape([None if batch is None else batch[0], width])
    return ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))


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
    """Columns of the matrix: [batch, columns], or [batch] of a single number."""
    name = f"{matrix.name}.{len(graph.initializers)}"
    indices = add_initializer(graph, f"{name}.places", np.array(places, dtype=np.int64))
    node = ir.node("Gather", [matrix, indices], attributes={"axis": 1}, name=name)
    rows = None if matrix.shape is None else matrix.shape[0]
    output = node.outputs[0]
    output.name, output.type = f"{name}.value", matrix.type
    output.shape = ir.Shape([rows, len(places)] if isinstance(places, list) else [rows])
    graph.insert_before(before, node)
    return output
