"""Write a packed model as a native .odm file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.converters.fuse_dense import fuse_dense
from ondevice.converters.graph import PackedModel, module_path
from ondevice.converters.lower import lowered
from ondevice.dense import DenseCodec
from ondevice.errors import UnsupportedError
from ondevice.info import ModelInfo
from ondevice.odm import write_odm
from ondevice.ops import OPERATORS
from ondevice.plan import LOOKUP, Attribute, Node, Plan
from ondevice.records import pack_records


def emit_odm(
    packed: PackedModel, path: Path, info: ModelInfo, *, dense: DenseCodec = "f32"
) -> None:
    """Write a native file to `path`, the weights of dense layers stored as `dense`.

    Raises:
        UnsupportedError: operators that the native engine lacks, all listed.
    """
    packed = lowered(packed)
    graph = packed.model.graph
    lookups = {lookup.node.name: lookup for lookup in packed.lookups}
    _check_operators(graph, set(lookups))
    tables = {name: pack_records(table) for name, table in sorted(packed.tables.items())}
    weights = _weights(graph)
    nodes = []
    for node in graph:
        inputs = tuple("" if value is None else str(value.name) for value in node.inputs)
        outputs = tuple(str(value.name) for value in node.outputs)
        if lookup := lookups.get(node.name):
            nodes.append(Node(LOOKUP, inputs, outputs, {}, lookup.table, lookup.spec))
        elif node.op_type != "Constant":
            nodes.append(Node(node.op_type, inputs, outputs, _attributes(node)))
    outputs = tuple(str(value.name) for value in graph.outputs)
    nodes, weights = fuse_dense(nodes, weights, outputs, dense)
    plan = Plan(
        inputs=tuple(str(value.name) for value in graph.inputs),
        outputs=outputs,
        nodes=tuple(nodes),
        weights=tuple(weights),
        tables={name: table.layout for name, table in tables.items()},
    )
    write_odm(path, plan, info, weights, tables)


def _check_operators(graph: ir.Graph, lookups: set[str | None]) -> None:
    missing = [
        f"{node.op_type} at {module_path(node)}"
        for node in graph
        if node.name not in lookups and node.op_type not in (*OPERATORS, "Constant")
    ]
    if missing:
        raise UnsupportedError(f"the native format lacks operators: {'; '.join(missing)}")


def _weights(graph: ir.Graph) -> dict[str, npt.NDArray[Any]]:
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
    if array.dtype == np.int32:
        return array.astype(np.int64)
    if array.dtype == np.float64:
        return array.astype(np.float32)
    return array


def _attributes(node: ir.Node) -> dict[str, Attribute]:
    plain = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)
    lists = (ir.AttributeType.INTS, ir.AttributeType.FLOATS)
    attributes: dict[str, Attribute] = {}
    for name, attribute in node.attributes.items():
        if attribute.type in plain:
            attributes[name] = attribute.value
        elif attribute.type in lists:
            attributes[name] = list(attribute.value)
        else:
            raise UnsupportedError(f"{node.op_type} at {module_path(node)}: attribute {name!r}")
    return attributes
