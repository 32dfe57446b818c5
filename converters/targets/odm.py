"""Write a packed model as a native .odm file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.attributes import Attribute
from ondevice.codecs import QuantTable, StoredSection, StoredTable, TablePart
from ondevice.container import ContainerWriter
from ondevice.converters.dense.layers import (
    ALL_FLOAT,
    DenseLayer,
    DensePlan,
    find_dense_layers,
    layer_report,
    nodes_of,
)
from ondevice.converters.graph import PackedModel, module_path
from ondevice.converters.lowering.unsupported import LackingOperatorsError, fault
from ondevice.converters.tables.draft import Draft
from ondevice.converters.tables.like import Like
from ondevice.dense import DENSE, pack_dense
from ondevice.errors import UnsupportedError
from ondevice.info import ModelInfo
from ondevice.odm import odm_writer, records_of
from ondevice.ops import OPERATORS
from ondevice.plan import LOOKUP, Node, Plan
from ondevice.records import RecordStream, stream_records
from ondevice.section_records import SectionedStream, stream_sections


def emit_odm(
    packed: PackedModel,
    path: Path,
    info: ModelInfo,
    plan: DensePlan = ALL_FLOAT,
    like: Like | None = None,
) -> Draft:
    """Write a native file but for its tables' rows.

    Activations of q8 layers are always quantised dynamically, row by row.

    Args:
        packed: a model of the operators in docs/operators.md (`pipeline.LOWERING`); it is not
            changed.
        path: the .odm file to write.
        info: the description that it contains.
        plan: how dense layers are stored.
        like: an earlier file whose codes of dense layers are kept.

    Raises:
        LackingOperatorsError: operators that the native engine lacks, all listed.
    """
    graph = packed.model.graph
    tables = {name: _stream(table) for name, table in sorted(packed.tables.items())}
    weights = _weights(graph)
    layers = find_dense_layers(graph, plan)
    nodes = _plan_nodes(packed, layers, weights, like)
    outputs = tuple(str(value.name) for value in graph.outputs)
    used = {name for node in nodes for name in node.inputs} | set(outputs)
    weights = {name: array for name, array in weights.items() if name in used}
    execution = Plan(
        inputs=tuple(str(value.name) for value in graph.inputs),
        outputs=outputs,
        nodes=tuple(nodes),
        weights=tuple(weights),
        tables={name: table.layout for name, table in tables.items()},
    )
    container = odm_writer(path, execution, info, weights, tables)
    return Draft(
        path=path,
        layers=tuple(
            layer_report(layer, "dynamic" if layer.codec == "q8" else "float") for layer in layers
        ),
        tables=[
            _RecordWriter(packed.tables[name], container, records_of(name), stream)
            for name, stream in tables.items()
        ],
        ending=container,
    )


def _plan_nodes(
    packed: PackedModel,
    layers: Sequence[DenseLayer],
    weights: dict[str, npt.NDArray[Any]],
    like: Like | None,
) -> list[Node]:
    """The nodes of the execution plan, in the order of the graph.

    Args:
        packed: the model.
        layers: its dense layers; each becomes one node.
        weights: constants by name; the packed arrays of dense layers are added.
        like: an earlier file whose codes of dense layers are kept.

    Raises:
        LackingOperatorsError: operators that the native engine lacks, all listed.
        UnsupportedError: an attribute of a type that the format lacks.
    """
    graph = packed.model.graph
    lookups = {lookup.node.name: lookup for lookup in packed.lookups}
    _check_operators(graph, set(lookups))
    layer_of = nodes_of(layers)
    names: dict[bytes, str] = {}
    nodes = []
    for node in graph:
        inputs = tuple("" if value is None else str(value.name) for value in node.inputs)
        outputs = tuple(str(value.name) for value in node.outputs)
        if layer := layer_of.get(node):
            if node is layer.nodes[0]:
                nodes.append(_dense_node(layer, weights, names, like))
        elif lookup := lookups.get(node.name):
            nodes.append(Node(LOOKUP, inputs, outputs, {}, lookup.table, lookup.spec))
        elif node.op_type != "Constant":
            nodes.append(Node(node.op_type, inputs, outputs, _attributes(node)))
    return nodes


def _stream(table: StoredTable) -> RecordStream | SectionedStream:
    """The records of a table: sections where it has several, or one narrower than its rows."""
    if len(table.sections) == 1 and table.sections[0].dim == table.dim:
        return stream_records(table.sections[0])
    return stream_sections(table.dim, table.sections)


class _RecordWriter:
    """A `TableWriter` of the records of a table, section after section, into one array."""

    def __init__(
        self,
        table: StoredTable,
        container: ContainerWriter,
        name: str,
        stream: RecordStream | SectionedStream,
    ) -> None:
        """Begin with the first row; `name` is the array in the container."""
        self._sections: tuple[StoredSection, ...] = table.sections
        self._container, self._name, self._stream = container, name, stream
        self._section = self._row = 0

    @property
    def parts(self) -> tuple[TablePart, ...]:
        """See TableWriter."""
        return tuple(part for section in self._sections for part in section.parts)

    def write(self, file: BinaryIO, chunk: QuantTable) -> None:
        """Append the records of the next rows."""
        stream = self._stream
        if isinstance(stream, RecordStream):
            self._append(file, stream.pack(chunk))
            return
        self._append(file, stream.streams[self._section].pack(chunk))
        self._row += chunk.rows
        if self._row == self._sections[self._section].rows:
            self._append(file, stream.gap(self._section))
            self._section, self._row = self._section + 1, 0

    def finish(self, file: BinaryIO) -> None:
        """See TableWriter; the records are complete."""

    def _append(self, file: BinaryIO, records: npt.NDArray[np.uint8]) -> None:
        self._container.append(file, self._name, records)


def _dense_node(
    layer: DenseLayer,
    weights: dict[str, npt.NDArray[Any]],
    names: dict[bytes, str],
    like: Like | None,
) -> Node:
    """A Dense node of the plan.

    Args:
        layer: what it computes.
        weights: constants by name; the layer's packed arrays are added under its name.
        names: of the arrays added so far, by digest: equal arrays, as in the steps of a recurrent
            layer, are stored once.
        like: an earlier file whose codes are kept.
    """
    if like is not None and layer.codec == "q8":
        packed = like.dense(layer.name, layer.weight, layer.bias)
    else:
        packed = pack_dense(layer.weight, layer.bias, layer.codec)
    arrays: dict[str, npt.NDArray[Any]] = {"weight": packed.weight, "bias": packed.bias}
    if packed.scale is not None:
        arrays["scale"] = packed.scale
    inputs = [str(layer.x.name)]
    for part, array in arrays.items():
        name = f"{layer.name}.{part}"
        while name in weights:
            name += "_packed"
        key = hashlib.sha256(f"{array.dtype}:".encode() + array.tobytes()).digest()
        inputs.append(names.setdefault(key, name))
        weights[inputs[-1]] = array
    features, units = layer.weight.shape
    attributes: dict[str, Attribute] = {
        "codec": layer.codec,
        "features": features,
        "units": units,
        "relu": int(layer.relu),
    }
    return Node(DENSE, tuple(inputs), (layer.name,), attributes)


def _check_operators(graph: ir.Graph, lookups: set[str | None]) -> None:
    """Raise LackingOperatorsError that lists all nodes that the native engine cannot run."""
    missing = [
        fault(node)
        for node in graph
        if node.name not in lookups and node.op_type not in (*OPERATORS, "Constant")
    ]
    if missing:
        raise LackingOperatorsError("odm", missing)


def _weights(graph: ir.Graph) -> dict[str, npt.NDArray[Any]]:
    """The constants of a graph, initializers and Constant nodes, in the plan's types."""
    weights = {
        name: np.array(value.const_value.numpy())
        for name, value in graph.initializers.items()
        if value.const_value is not None
    }
    for node in graph:
        tensor = node.attributes.get_tensor("value") if node.op_type == "Constant" else None
        if tensor is not None:
            weights[str(node.outputs[0].name)] = np.array(tensor.numpy())
    return {name: _stored(name, array) for name, array in weights.items()}


def _stored(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A constant in one of the plan's types: float32, int64, or bool as one byte."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind in "iu" and array.dtype != np.uint64:
        return array.astype(np.int64)  # bytes too: the engine takes those for bools
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return array


def _attributes(node: ir.Node) -> dict[str, Attribute]:
    """Attributes of a node; raises UnsupportedError for a type that the plan lacks."""
    plain = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)
    lists = (ir.AttributeType.INTS, ir.AttributeType.FLOATS)
    attributes: dict[str, Attribute] = {}
    for name, attribute in node.attributes.items():
        if attribute.type in plain:
            attributes[name] = attribute.value
        elif attribute.type in lists:
            attributes[name] = list(attribute.value)
        else:
            raise UnsupportedError(
                f"{node.op_type} at {module_path(node)}: attribute {name!r} is no number, text or "
                f"list of numbers, but {attribute.type}"
            )
    return attributes
